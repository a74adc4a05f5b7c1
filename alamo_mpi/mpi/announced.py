"""What a launcher tells each process in its environment, before MPI is started.

Apart from `alamo_mpi.mpi.launcher`, which every rank would else import and never use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["ranks_of_launcher", "speaks_for_all"]


def ranks_of_launcher(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the variable and the number of ranks by which a launcher announced itself."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        if environ.get(name, "").isdigit():
            return name, int(environ[name])
    # The batch shell of a Slurm job has no step; mpiexec inside one sets the variables above.
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdigit() and environ.get("SLURM_STEP_ID", "").isdigit():
        return "SLURM_STEP_NUM_TASKS", int(tasks)
    return None


def speaks_for_all() -> bool:
    """Whether this is the first of the processes that a launcher started; local.

    Before there is a world, an error that all of them meet is told by this one.
    """
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True
