"""Start the systems that need a process tree or an MPI world of their own.

The benchmark itself runs on rank 0 of an MPI program.  What it starts must not inherit that
program's place in its launcher, so the variables by which launchers and their ranks find each
other are left out of the environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alamo_mpi.mpi.announced import ranks_of_launcher
from alamo_mpi.mpi.launcher import find_launcher

__all__ = ["environment", "in_a_world", "launched", "run", "run_json"]

PARENT = Path(__file__).resolve().parent.parent

MPICH_VARIABLES = ("PMI_", "PMI2_", "HYDI_", "HYDRA_", "MPI_LOCAL", "MPIEXEC_")
OPEN_MPI_VARIABLES = ("PMIX_", "OMPI_", "OPAL_", "PRTE_")
LAUNCHER_VARIABLES = MPICH_VARIABLES + OPEN_MPI_VARIABLES


def in_a_world() -> bool:
    """Whether this process was started by an MPI launcher."""
    return ranks_of_launcher(os.environ) is not None


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what ties it to a launcher, and with `more`.

    The folder of this package leads the module path, so that programs start with ``-m``.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)
    }
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PARENT), kept.get("PYTHONPATH")]))
    return kept | more


def launched(nranks: int, *program: str) -> list[str]:
    """Return the command that runs a Python program on `nranks` ranks of mpi4py's own MPI."""
    return find_launcher().argv(nranks, [sys.executable, *program])


def run(argv: Sequence[str], *, timeout_s: float, env: dict[str, str] | None = None) -> str:
    """Run a command in a session of its own and return what it printed.

    Raises
    ------
    RuntimeError
        If it fails.
    subprocess.TimeoutExpired
        If it outlasts ``timeout_s``; its whole process group is ended then.
    """
    process = subprocess.Popen(
        argv,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}:\n{err[-2000:]}")
    return out


def run_json(
    argv: Sequence[str], *, timeout_s: float, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a command and return the one JSON object that it prints on a line of its own."""
    out = run(argv, timeout_s=timeout_s, env=env)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise RuntimeError(f"{' '.join(argv)} printed no single line of JSON:\n{out[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[0])
    return figures
