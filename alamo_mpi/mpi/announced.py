"""What a launcher tells each process in its environment, before MPI is started.

Apart from `alamo_mpi.mpi.launcher`, which every rank would else import and never use.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "COVER",
    "RELAYED",
    "SURVIVE",
    "Mark",
    "cover",
    "mark_of_launcher",
    "ranks_of_launcher",
    "speaks_for_all",
    "survives",
]

#: The number of the signal that stands for SIGTERM; set by `alamo_mpi.mpi.supervise`.
RELAYED = "ALAMO_STANDS_FOR_SIGTERM"
#: Set by ``alamo-mpi run --survive``.
SURVIVE = "ALAMO_SURVIVE"
#: The pipe to the process in front of this rank (`alamo_mpi.mpi.shield`), where there is one.
COVER = "ALAMO_COVER"

#: What a launcher tells one process alone.
_OF_ONE_PROCESS = (
    "PMI_RANK",
    "PMI_FD",
    "PMI_PORT",
    "PMI_ID",
    "PMIX_NAMESPACE",
    "PMIX_RANK",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)

#: Steps of this number and more are Slurm's own: batch shell, interactive shell, external.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def ranks_of_launcher(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the variable and the number of ranks by which a launcher announced itself."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        if environ.get(name, "").isdigit():
            return name, int(environ[name])
    # mpiexec inside a step of Slurm sets the variables above.
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    step = environ.get("SLURM_STEP_ID", "")
    if tasks.isdigit() and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP:
        return "SLURM_STEP_NUM_TASKS", int(tasks)
    return None


class Mark(NamedTuple):
    """What tells a process that a launcher started from those that it started itself.

    Attributes
    ----------
    variables : int
        Digest of what the launcher told; 0 if there was no launcher.
    socket : int
        Inode of the socket to the launcher, 0 if it has none.
    """

    variables: int
    socket: int

    def is_of_child(self, rank: Mark) -> bool:
        """Whether this process has its environment from `rank`, and no launcher of its own."""
        # A rank of another run under hydra may be told the very same; its socket is another.
        return self.variables == rank.variables and self.socket in (0, rank.socket)


def mark_of_launcher(environ: Mapping[str, str]) -> Mark:
    """Return this process's mark; local."""
    told = [f"{name}={environ[name]}" for name in _OF_ONE_PROCESS if name in environ]
    try:
        status = os.fstat(int(environ.get("PMI_FD", "-1")))
        # In most children of a rank it is closed, or was and is some file of theirs now.
        socket = status.st_ino if stat.S_ISSOCK(status.st_mode) else 0
    except (OSError, ValueError, OverflowError):
        socket = 0
    return Mark(zlib.crc32("\n".join(told).encode()) if told else 0, socket)


def survives(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this program was started to go on without ranks that are lost; local."""
    return environ.get(SURVIVE, "") not in ("", "0")


def cover() -> None:
    """Say to the process in front of this rank that the others could go on without it; local."""
    told = os.environ.pop(COVER, "")
    if told.isdigit():
        os.write(int(told), b"1")
        os.close(int(told))


def speaks_for_all() -> bool:
    """Whether this is the first of the processes that a launcher started; local.

    Before there is a world, an error that all of them meet is told by this one.
    """
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True
