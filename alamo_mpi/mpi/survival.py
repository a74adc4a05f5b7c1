"""Going on without a rank that was lost: where MPI lets the others, and what it says of it.

Only Open MPI 5 does, with ULFM (``mpiexec --with-ft ulfm``): a call that meets a dead rank raises,
and one that receives from anybody raises once for each, until that is acknowledged.  Nothing
collective may follow, `MPI_Finalize` included: ranks leave without.
"""

from __future__ import annotations

from mpi4py import MPI

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.announced import SURVIVE, survives

__all__ = ["Losses", "check_survivable"]


def check_survivable(one_node: bool) -> None:
    """Refuse what would hang or end all the same; local.

    Raises
    ------
    LaunchError
    """
    if not hasattr(MPI.Comm, "Ack_failed") or "Open MPI" not in MPI.Get_library_version():
        raise LaunchError(
            f"{SURVIVE} is set, but this MPI does not let the others go on when a rank is lost: "
            "start the program by `alamo-mpi run --survive -n N` with Open MPI 5 on one host, or "
            "without --survive."
        )
    if not one_node:
        raise LaunchError(
            f"{SURVIVE} is set, and the ranks are on several hosts: to go on without a lost rank "
            "works on one host only so far. Start the program without --survive."
        )


class Losses:
    """The ranks of a communicator that were lost.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    ranks : set of int
        Where they are noted; grows only.
    """

    def __init__(self, comm: MPI.Intracomm, ranks: set[int]) -> None:
        self._comm = comm
        self.ranks = ranks

    def explains(self, error: MPI.Exception) -> bool:
        """Whether an error came of a lost rank; all that are known to MPI are noted."""
        if not survives() or error.Get_error_class() not in _KINDS:
            return False
        failed = self._comm.Get_failed()
        everybody = self._comm.Get_group()
        lost = MPI.Group.Translate_ranks(failed, list(range(failed.Get_size())), everybody)
        self.ranks.update(lost)
        self._comm.Ack_failed(len(self.ranks))
        failed.Free()
        everybody.Free()
        return True


_KINDS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
