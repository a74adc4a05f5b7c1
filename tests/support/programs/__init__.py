"""Small C programs of the tests, compiled with the environment's ``mpicc`` where there is one."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent


def why_not() -> str:
    """Say why nothing can be compiled here; empty if it can."""
    if _mpicc() is None:
        return "there is no mpicc beside this Python"
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        return "there is no C compiler"
    return ""


def _mpicc() -> str | None:
    return shutil.which("mpicc", path=os.path.join(sys.prefix, "bin"))


@functools.cache
def compiled(name: str, folder: str) -> str:
    """Compile one program into a folder; return its path."""
    mpicc = _mpicc()
    assert mpicc is not None
    path = os.path.join(folder, name)
    # An MPI wheel may name the compiler it was built with, which need not be here.
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    environ = {**os.environ, "MPICH_CC": compiler, "OMPI_CC": compiler}
    with tempfile.TemporaryDirectory() as scratch:
        made = os.path.join(scratch, name)
        command = [mpicc, "-O0", "-o", made, str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        shutil.move(made, path)
    return path
