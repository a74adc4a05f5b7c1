"""How the processes of a job can be started, and which way is taken where nobody asked for one.

==========  ===================================================================================
``pmi``     each reserved worker starts its process as a child; we serve PMI-1 ourselves
``spawn``   ``MPI.Comm.Spawn`` by one worker
``mpiexec`` a nested launcher of the MPI in use
``srun``    a job step inside the Slurm allocation
``ranks``   no processes: a callable runs on the reserved workers themselves, on a communicator
            of theirs
==========  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LAUNCHES", "choose_launch", "scrubbed"]

LAUNCHES = ("auto", "spawn", "srun", "pmi", "mpiexec", "ranks")

#: Prefixes of what launchers tell the ranks that they start, and that their children must not see.
_OF_LAUNCHERS = (
    *("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "OPAL_"),
    *("HYDI", "HYDRA", "MPI_LOCAL", "MPIEXEC_"),
    *("SLURM_PMI", "SLURM_STEP", "SLURM_TASK", "SLURM_LAUNCH", "SLURM_SRUN", "SLURM_CPU_BIND"),
)
_OF_STEPS = {
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID"),
    *("SLURM_NODEID", "SLURM_GTIDS", "SLURM_MPI_TYPE", "SLURM_DISTRIBUTION"),
}
#: What was told to this program alone: one that a task starts has a start of its own.
_OF_PROGRAM = {"ALAMO_SURVIVE"}
#: What users and sites set to tell an MPI how to behave stays.
_SETTINGS = (
    *("OMPI_MCA_", "OMPI_ALLOW_RUN_AS_ROOT", "PRTE_MCA_", "PMIX_MCA_", "OPAL_PREFIX"),
    *("HYDRA_LAUNCHER", "HYDRA_IFACE", "HYDRA_RMK"),
)
#: But these of them are a launcher's own.
_NOT_SETTINGS = (
    *("PRTE_MCA_ess", "PRTE_MCA_prte_ess", "PMIX_MCA_mca_base", "OMPI_MCA_ess"),
    *("OMPI_MCA_num_procs", "OMPI_MCA_initial_wdir", "OMPI_MCA_cpu_type"),
)


def choose_launch(family: str, *, in_slurm: bool) -> str:
    """Return the way to start a job that asked for ``"auto"``.

    Parameters
    ----------
    family
        The MPI in use: ``"MPICH"``, ``"Open MPI"``, ``"Intel MPI"`` or ``""``.
    in_slurm
        Whether this is a Slurm allocation with ``srun`` at hand.

    Notes
    -----
    Never Spawn by itself: what it starts is connected to this program's MPI, whose launcher ends
    both when it takes fright, and it is not the quicker way either.
    """
    if family == "MPICH":
        return "pmi"
    return "srun" if in_slurm else "mpiexec"


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what a launcher told this rank."""
    return {name: value for name, value in environ.items() if not _is_of_launcher(name)}


def _is_of_launcher(name: str) -> bool:
    if name.startswith(_SETTINGS) and not name.startswith(_NOT_SETTINGS):
        return False
    return name.startswith(_OF_LAUNCHERS) or name in _OF_STEPS | _OF_PROGRAM
