"""Going on without a rank that was lost: where MPI lets the others, and what it says of it.

Open MPI 5 does with ULFM (``mpiexec --with-ft ulfm``): a call that meets a dead rank raises, and
one that receives from anybody raises once for each, until that is acknowledged.  MPICH knows
nothing of it: its launcher is kept from hearing of a loss (`alamo_mpi.mpi.shield`); on one host
what is sent to a dead rank lies in shared memory that nobody reads any more, and the ranks learn of
the loss from the page of the witness alone.  With either nothing collective may follow,
`MPI_Finalize` included: ranks leave without.
"""

from __future__ import annotations

import os

from mpi4py import MPI

from alamo_mpi.errors import LaunchError, ShardLostError
from alamo_mpi.mpi.announced import COVER, SURVIVE, survives

__all__ = ["Losses", "check_survivable", "shard_lost"]


def check_survivable(one_node: bool) -> None:
    """Refuse what would hang or end all the same; local.

    Raises
    ------
    LaunchError
    """
    if not _has_ulfm() and COVER not in os.environ:
        raise LaunchError(
            f"{SURVIVE} is set, but this program was not started such that the others can go on "
            "when a rank is lost: start it by `alamo-mpi run --survive -n N`, or without --survive."
        )
    if _has_ulfm() and not one_node:
        raise LaunchError(
            f"{SURVIVE} is set, and the ranks are on several hosts: there Open MPI's one-sided "
            "operations do not survive a lost rank. Use MPICH (pip install 'alamo-mpi[mpich]'), or "
            "start the program without --survive."
        )


def _has_ulfm() -> bool:
    return hasattr(MPI.Comm, "Ack_failed") and "Open MPI" in MPI.Get_library_version()


def shard_lost(rank: int) -> ShardLostError:
    """Return the error for what lies in the memory of a lost rank."""
    return ShardLostError(
        f"What is asked for lies in the memory of rank {rank}, which was lost. Keys and "
        "values elsewhere are not touched; make a new DDict or Queue for the rest.",
        rank=rank,
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

    def explains(self, error: MPI.Exception, rank: int | None = None) -> bool:
        """Whether an error came of a lost rank; all that are known to MPI are noted.

        Parameters
        ----------
        error
        rank
            To which something was sent; None for what is received from anybody.
        """
        if not survives():
            return False
        if not _has_ulfm():
            if rank is not None:
                self.ranks.add(rank)
            return rank is not None
        if error.Get_error_class() not in _KINDS:
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
