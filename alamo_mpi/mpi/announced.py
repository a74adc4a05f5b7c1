"""What a launcher tells each process in its environment, before MPI is started.

Apart from `alamo_mpi.mpi.launcher`, which every rank would else import and never use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["ranks_of_launcher", "speaks_for_all", "without_rank"]

#: Beginnings of the variables by which launchers tell a process that it is a rank, and which.  A
#: program that a rank starts must not believe them: it would join, or wait for, this very job.
_RANK_VARIABLES = (
    "HYDI_",
    "HYDRA_",
    "MPIEXEC_",
    "MPI_LOCAL",
    "MV2_COMM_WORLD_",
    "OMPI_",
    "OPAL_",
    "PALS_",
    "PMI2_",
    "PMIX_",
    "PMI_",
    "PRTE_",
    "SLURM_CPU_BIND",
    "SLURM_DISTRIBUTION",
    "SLURM_GTIDS",
    "SLURM_LAUNCH",
    "SLURM_LOCALID",
    "SLURM_MPI_TYPE",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_PMI",
    "SLURM_PROCID",
    "SLURM_SRUN",
    "SLURM_STEP",
    "SLURM_TASK",
)
#: Says something about the user, nothing about a rank.
_KEPT = "OMPI_ALLOW_RUN_AS_ROOT"


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


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what makes a program believe that it is a rank of this job.

    What describes the job as a whole stays, such as ``SLURM_JOB_ID`` and the list of its nodes.
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_RANK_VARIABLES) or name.startswith(_KEPT)
    }
