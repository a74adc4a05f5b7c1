"""Try what may hang or crash in a program of its own, and end that program whatever it does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.doctor.facts import SpawnOutcome
from alamo_mpi.doctor.report import BROKEN, GOOD, Finding
from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.launcher import find_launcher
from alamo_mpi.mpi.spawnprobe import SPAWNED

__all__ = ["run_bounded", "try_launcher", "try_spawn"]

#: Seconds for a program that was told to end.
_TERM_S = 3.0
_SIZE = "from mpi4py import MPI; print('size', MPI.COMM_WORLD.Get_size(), flush=True)"


def try_launcher(limit_s: float) -> Finding:
    """Start two ranks by this MPI's launcher and see whether they meet."""
    name = "launcher, tried"
    try:
        command = find_launcher().argv(2, [sys.executable, "-c", _SIZE])
    except LaunchError as error:
        return Finding(name, BROKEN, str(error))
    status, said = run_bounded(command, limit_s)
    if status == 0 and said.split().count("2") == 2:
        return Finding(name, GOOD, f"{command[0]} started two ranks of one program.")
    return Finding(
        name,
        BROKEN,
        f"{command[0]} -n 2 did not start two ranks of one program ({_ending(status)}): "
        f"{_tail(said)}",
        "Run this command by hand; a host name that does not resolve and a TMPDIR that cannot be "
        "written are the usual reasons.",
    )


def try_spawn(limit_s: float) -> SpawnOutcome:
    """Spawn one process from a program of one rank."""
    try:
        command = find_launcher().argv(1, [sys.executable, "-m", "alamo_mpi.mpi.spawnprobe"])
    except LaunchError as error:
        return SpawnOutcome(False, 0.0, str(error))
    began = time.monotonic()
    status, said = run_bounded(command, limit_s)
    seconds = time.monotonic() - began
    if status == 0 and SPAWNED in said:
        return SpawnOutcome(True, seconds, "")
    return SpawnOutcome(False, seconds, f"{_ending(status)}: {_tail(said)}")


def run_bounded(command: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """Run a program outside of this MPI job; return status and output, None as status past time.

    Notes
    -----
    Past the limit it is told to end, as launchers want to end their ranks themselves, and then its
    whole session is killed.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_outside_the_job(),
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return 127, f"{command[0]} cannot be started: {error.strerror}"
    try:
        said = child.communicate(timeout=limit_s)[0]
        return child.returncode, said
    except subprocess.TimeoutExpired:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return None, child.communicate(timeout=_TERM_S)[0]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return None, child.communicate()[0]


def _outside_the_job() -> dict[str, str]:
    """Return an environment of no rank, nor of an allocation: a trial is of this host alone."""
    told = scrubbed(os.environ)
    return {name: value for name, value in told.items() if not name.startswith("SLURM_")}


def _ending(status: int | None) -> str:
    return "given up after some time" if status is None else f"status {status}"


def _tail(said: str) -> str:
    lines = [line.strip("- ") for line in said.splitlines() if line.strip("- ")]
    return " / ".join(lines[:3])[:300] or "nothing was printed"
