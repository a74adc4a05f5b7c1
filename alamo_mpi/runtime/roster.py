"""The live batches of one program and which worker belongs to which."""

from __future__ import annotations

import logging

from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.lifecycle import Lifecycle
from alamo_mpi.core.scheduler import Scheduler
from alamo_mpi.errors import WorkersBusyError
from alamo_mpi.runtime.recorder import Recorder
from alamo_mpi.runtime.submission import Submission

__all__ = ["LiveBatch", "Roster"]

logger = logging.getLogger(__name__)


class LiveBatch:
    """One batch as the manager holds it.

    Attributes
    ----------
    number : int
        Number of the batch in this program, from 1.
    ranks : tuple of int
        Its workers.
    scheduler : Scheduler
        Decides about its tasks.
    lifecycle : Lifecycle
        Its clients.
    submissions : dict
        Unfinished starts by program number.
    recorder : Recorder or None
        Keeps the record of its tasks, if one was asked for.
    """

    def __init__(
        self, number: int, ranks: tuple[int, ...], durations: Durations, recorder: Recorder | None
    ) -> None:
        self.number = number
        self.ranks = ranks
        self.scheduler = Scheduler(ranks, durations)
        self.lifecycle = Lifecycle()
        self.submissions: dict[int, Submission] = {}
        self.recorder = recorder
        self.released = False

    @property
    def busy(self) -> bool:
        """Whether a task is unfinished or still on a worker, or a callback has not run."""
        return bool(self.submissions) or self.scheduler.running > 0

    def __str__(self) -> str:
        return f"Batch {self.number}"


class Roster:
    """Hand out workers to batches.

    Parameters
    ----------
    workers
        The ranks that run tasks.
    """

    def __init__(self, workers: tuple[int, ...]) -> None:
        self._workers = workers
        self._free = set(workers)
        self._batches: dict[int, LiveBatch] = {}
        self._by_rank: dict[int, LiveBatch] = {}
        self._created = 0
        #: Estimates outlive batches: the next one often calls the same functions.
        self._durations = Durations()

    @property
    def batches(self) -> list[LiveBatch]:
        """Batches that hold workers, oldest first."""
        return list(self._batches.values())

    def of_rank(self, rank: int) -> LiveBatch | None:
        """Return the batch that a worker belongs to."""
        return self._by_rank.get(rank)

    def open(self, most: int | None, recorder: Recorder | None) -> LiveBatch:
        """Give up to `most` free workers, by default all, to a new batch.

        Raises
        ------
        WorkersBusyError
            If no worker is free, naming the batches that hold them.
        """
        free = [rank for rank in self._workers if rank in self._free]
        if not free:
            holders = "; ".join(
                f"{batch} holds {len(batch.ranks)}" for batch in self._batches.values()
            )
            raise WorkersBusyError(
                f"No worker is free for this Batch: of {len(self._workers)} in the program, "
                f"{holders}. Join a batch that is done, or give each a share with "
                f"Batch(num_workers=...)."
            )
        if most is not None and most > len(free):
            logger.warning(
                "Batch asked for %d workers and gets %d: the program has %d worker ranks, of "
                "which %d are held by other batches. Start it with more ranks for more.",
                most,
                len(free),
                len(self._workers),
                len(self._workers) - len(free),
            )
        ranks = tuple(free if most is None else free[:most])
        self._created += 1
        batch = LiveBatch(self._created, ranks, self._durations, recorder)
        self._free.difference_update(ranks)
        self._batches[batch.number] = batch
        self._by_rank.update(dict.fromkeys(ranks, batch))
        return batch

    def release(self, batch: LiveBatch) -> None:
        """Take the workers of a batch back; may be called again."""
        if batch.released:
            return
        batch.released = True
        del self._batches[batch.number]
        for rank in batch.ranks:
            del self._by_rank[rank]
        self._free.update(batch.ranks)
