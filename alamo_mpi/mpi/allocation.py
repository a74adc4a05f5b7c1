"""A Slurm allocation around this process, and the ``srun`` that starts the ranks of an MPI in it.

Everything here is read from the environment; nothing is started but ``srun --mpi=list``, which
says what this Slurm was built with.  A wrong ``--mpi`` need not fail: it can start N programs of
one rank each.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from typing import NamedTuple

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.asking import answer_of

__all__ = ["Allocation", "allocation_of", "offered_interfaces", "srun_for"]

#: By MPI: the process-management interfaces that it speaks with Slurm, the best first.  Intel MPI
#: would need the path of a library of the site besides, and its own launcher does without.
_INTERFACES = {
    "Cray MPICH": ("cray_shasta", "pmi2"),
    "MPICH": ("pmi2",),
    "Open MPI": ("pmix",),
}

#: What becomes of a step one of whose ranks was lost: it ends, or goes on.
_ENDS = {False: ("--kill-on-bad-exit=1",), True: ("--kill-on-bad-exit=0", "--no-kill", "--wait=0")}


class Allocation(NamedTuple):
    """What Slurm has given to a job.

    Attributes
    ----------
    job_id : str
    ntasks : tuple of int
        Tasks of each component; one entry, but for a heterogeneous job.  Empty where the job did
        not say.
    cpus_per_task : int or None
        As asked for; ``srun`` must be told again.
    """

    job_id: str
    ntasks: tuple[int, ...]
    cpus_per_task: int | None

    @property
    def nranks(self) -> int | None:
        """Number of ranks that the job was made for."""
        return sum(self.ntasks) or None


def allocation_of(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that `environ` speaks of; None outside of Slurm."""
    job_id = environ.get("SLURM_JOB_ID", "")
    if not job_id:
        return None
    ncomponents = _number(environ, "SLURM_HET_SIZE") or 1
    if ncomponents > 1:
        names = [f"SLURM_NTASKS_HET_GROUP_{group}" for group in range(ncomponents)]
    else:
        names = ["SLURM_NTASKS"]
    counts = [_number(environ, name) for name in names]
    known = tuple(count for count in counts if count is not None)
    ntasks = known if len(known) == ncomponents else ()
    return Allocation(job_id, ntasks, _number(environ, "SLURM_CPUS_PER_TASK"))


def offered_interfaces(environ: Mapping[str, str]) -> frozenset[str]:
    """Return what ``srun --mpi`` takes here; empty where there is no ``srun``."""
    srun = shutil.which("srun", path=environ.get("PATH", os.defpath))
    if srun is None:
        return frozenset()
    return frozenset(re.findall(r"^\s*(\w+)\s*$", answer_of(srun, "--mpi=list"), re.MULTILINE))


def srun_for(
    family: str,
    offered: Collection[str],
    allocation: Allocation,
    nranks: int,
    *,
    survive: bool = False,
) -> list[str] | None:
    """Return the command that starts `nranks` ranks by ``srun``, up to the program.

    With `survive` the others are left alone when one, or a whole node, is lost.

    Returns
    -------
    list of str or None
        None where this Slurm speaks no language of that MPI.

    Raises
    ------
    LaunchError
        When a heterogeneous job has another number of tasks.
    """
    interface = next((one for one in _INTERFACES.get(family, ()) if one in offered), None)
    if interface is None:
        return None
    # A rank that dies would else be waited for, and steps that tasks start need their share.
    command = ["srun", f"--mpi={interface}", *_ENDS[survive], "--overlap"]
    if interface == "pmix":
        # The one security module that Slurm's PMIx and that of every Open MPI have in common.
        command = ["env", "PMIX_MCA_psec=native", *command]
    if len(allocation.ntasks) > 1:
        if nranks != allocation.nranks:
            raise LaunchError(
                f"-n {nranks} in a heterogeneous job of {allocation.nranks} tasks "
                f"({' + '.join(map(str, allocation.ntasks))}): leave -n out, or ask Slurm for "
                "other numbers of tasks."
            )
        groups = ",".join(str(group) for group in range(len(allocation.ntasks)))
        return [*command, f"--het-group={groups}"]
    if allocation.nranks is not None and nranks > allocation.nranks:
        command.append("--overcommit")
    elif allocation.cpus_per_task is not None:
        command.append(f"--cpus-per-task={allocation.cpus_per_task}")
    return [*command, "-n", str(nranks)]


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else None
