"""How the processes of one job stand, and whether the job has failed: events in, a verdict out.

The rules:

1. A rank that a signal ended, that called MPI_Abort, that raised or that cannot be started fails
   the job at once.
2. A rank that ended while others may wait for it for ever is *suspect*: it called MPI_Init and not
   MPI_Finalize, or others called MPI_Init and it did not.  Where MPI's own launcher hides that
   from us, a status other than 0 makes it suspect.  If the others have not ended by themselves
   `PATIENCE_S` later, the job has failed by it.
3. Else each rank's status is its own affair, and the job's result is the list of them.

Only the first failure counts: what the others do while they are ended is no news.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PATIENCE_S", "Fault", "JobState", "out_of_time"]

#: Seconds that ranks have to end by themselves after one has left them.
PATIENCE_S = 1.0


class Fault(NamedTuple):
    """Why a job has failed."""

    #: The rank of the job; -1: all of it.
    rank: int
    #: What it did, to follow "rank 1 of 4 (host n012) ".
    did: str
    #: Its exit status, negative for a signal, where it had one.
    status: int | None = None
    #: The time that the job had, if it is that which was over.
    limit_s: float | None = None


def out_of_time(limit_s: float) -> Fault:
    """Return the fault of a job whose time is over."""
    return Fault(-1, f"did not end within its timeout of {limit_s:g} s", limit_s=limit_s)


class JobState:
    """What is known of each rank of one job.

    Parameters
    ----------
    size
        Number of ranks.
    seen
        Whether calls of MPI_Init and MPI_Finalize are seen here.

    Attributes
    ----------
    statuses : list of int or None
        Exit status by rank; None while it runs.
    fault : Fault or None
        The first failure.
    initialized, finalized : set of int
        Ranks that have called MPI_Init, and MPI_Finalize.
    """

    def __init__(self, size: int, *, seen: bool) -> None:
        self._seen = seen
        self.statuses: list[int | None] = [None] * size
        self.fault: Fault | None = None
        self.initialized: set[int] = set()
        self.finalized: set[int] = set()
        #: Rank -> when it ended.
        self._ended: dict[int, float] = {}

    @property
    def over(self) -> bool:
        """Whether no rank runs any more."""
        return None not in self.statuses

    def fail(self, rank: int, did: str, status: int | None = None) -> None:
        """Note a failure; only the first one counts."""
        if self.fault is None:
            self.fault = Fault(rank, did, status)

    def late(self, limit_s: float) -> None:
        """Note that the job's time is over; only the first failure counts."""
        if self.fault is None:
            self.fault = out_of_time(limit_s)

    def ended(self, rank: int, status: int, now: float, *, told: bool = False) -> None:
        """Note that a rank's process has ended.

        Parameters
        ----------
        rank
            Which rank.
        status
            As `subprocess.Popen`'s.
        now
            Seconds of a monotonic clock.
        told
            Whether its launcher had told it to end: for what another rank has done.
        """
        if status < 0 and told:
            self.check(now, 0.0)
            self.fail(-1, "was ended by its launcher", status)
        elif status < 0:
            self.fail(rank, f"was ended by signal {-status}", status)
        self.statuses[rank] = status
        self._ended[rank] = now

    def check(self, now: float, patience_s: float = PATIENCE_S) -> None:
        """Note a failure if the ranks that run have waited long enough for one that has ended."""
        if self.fault is not None or self.over:
            return
        for rank, when in self._ended.items():
            if now >= when + patience_s and (why := self._left(rank)):
                status = self.statuses[rank]
                self.fail(rank, f"exited with status {status} {why}", status)
                return

    def _left(self, rank: int) -> str:
        """Say how a rank that has ended left the others waiting; empty if it did not."""
        if not self._seen:
            return "while others ran on" if self.statuses[rank] else ""
        if rank in self.finalized:
            return ""
        if rank in self.initialized:
            return "without MPI_Finalize"
        return "before MPI_Init, where others wait for it" if self.initialized else ""
