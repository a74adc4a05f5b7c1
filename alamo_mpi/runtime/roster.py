"""The live batches of one program and which worker belongs to which."""

from __future__ import annotations

import logging
from collections.abc import Hashable

from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.lifecycle import PRIMARY, Lifecycle
from alamo_mpi.core.scheduler import Scheduler
from alamo_mpi.errors import DeadlockError, InternalError, WorkersBusyError
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
        Decides about its tasks; a child has its root's.
    root : LiveBatch
        The batch whose workers it has: itself, or the one whose task made it.
    children : list of LiveBatch
        Those that tasks of it made.
    lifecycle : Lifecycle
        Its clients.
    submissions : dict
        Unfinished starts by program number.
    recorder : Recorder or None
        Keeps the record of its tasks, if one was asked for.
    """

    def __init__(
        self,
        number: int,
        ranks: tuple[int, ...],
        scheduler: Scheduler,
        recorder: Recorder | None,
        *,
        most: int | None = None,
        root: LiveBatch | None = None,
        primary: Hashable = PRIMARY,
    ) -> None:
        self.number = number
        self.ranks = ranks
        self.num_workers = len(ranks) if most is None else min(most, len(ranks))
        self.scheduler = scheduler
        self.root = self if root is None else root
        self.children: list[LiveBatch] = []
        self.lifecycle = Lifecycle(primary)
        self.submissions: dict[int, Submission] = {}
        self.recorder = recorder
        #: Whether the messages to its workers ask for a record: its own, or a child's.
        self.recording = recorder is not None
        #: Whether it was pickled, so that clients may come after the last has closed.
        self.shared = False
        self.released = False

    @property
    def is_child(self) -> bool:
        """Whether its workers are another batch's."""
        return self.root is not self

    @property
    def running(self) -> bool:
        """Whether a worker still has to answer for a task of it."""
        return bool(self.submissions) if self.is_child else self.scheduler.running > 0

    @property
    def busy(self) -> bool:
        """Whether a task is unfinished or still on a worker, or a callback has not run."""
        return bool(self.submissions) or self.running

    @property
    def unfinished(self) -> int:
        """Number of tasks in no final state; those of its children are its own."""
        if not self.is_child:
            return self.scheduler.unfinished
        return sum(submission.program.remaining for submission in self.submissions.values())

    @property
    def over(self) -> bool:
        """Whether nothing more can happen, but for a new client of a batch that was shared."""
        ended = self.lifecycle.all_closed or self.lifecycle.terminated
        return ended and not self.busy and all(child.over for child in self.children)

    def check_join(self, uid: int) -> None:
        """Raise if an unfinished task of this batch, or of a child, is the one of this id.

        Raises
        ------
        DeadlockError
            It would wait for itself.
        """
        for live in (self, *self.children):
            if any(uid in submission.uids for submission in live.submissions.values()):
                raise DeadlockError(
                    f"Task {uid} cannot join {self}, which it belongs to: it would wait for "
                    "itself. Let the program join it, or make a Batch in the task.",
                    uid=uid,
                )

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
        self._lost: set[int] = set()
        self._batches: dict[int, LiveBatch] = {}
        self._children: dict[int, LiveBatch] = {}
        self._by_rank: dict[int, LiveBatch] = {}
        self._created = 0
        #: Estimates outlive batches: the next one often calls the same functions.
        self._durations = Durations()

    @property
    def batches(self) -> list[LiveBatch]:
        """Batches that hold workers, oldest first."""
        return list(self._batches.values())

    def find(self, number: int) -> LiveBatch | None:
        """Return the batch of a number, children included; None if it has ended."""
        return self._batches.get(number) or self._children.get(number)

    def open_child(
        self,
        root: LiveBatch,
        most: int | None,
        recorder: Recorder | None,
        primary: Hashable = PRIMARY,
    ) -> LiveBatch:
        """Make a batch that has the workers of another one."""
        self._created += 1
        child = LiveBatch(
            self._created,
            root.ranks,
            root.scheduler,
            recorder,
            most=most,
            root=root,
            primary=primary,
        )
        root.recording |= recorder is not None
        root.children.append(child)
        self._children[child.number] = child
        return child

    def of_rank(self, rank: int) -> LiveBatch | None:
        """Return the batch that a worker belongs to."""
        return self._by_rank.get(rank)

    def reporting(self, rank: int) -> LiveBatch:
        """Return the batch that a worker belongs to; there must be one, as it reports tasks."""
        live = self.of_rank(rank)
        if live is None:
            raise InternalError(f"rank {rank} reports tasks but belongs to no batch")
        return live

    def open(
        self, most: int | None, recorder: Recorder | None, primary: Hashable = PRIMARY
    ) -> LiveBatch:
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
        scheduler = Scheduler(ranks, self._durations)
        batch = LiveBatch(self._created, ranks, scheduler, recorder, primary=primary)
        self._free.difference_update(ranks)
        self._batches[batch.number] = batch
        self._by_rank.update(dict.fromkeys(ranks, batch))
        return batch

    def lose(self, rank: int) -> None:
        """Note that a worker is gone: no batch gets it any more."""
        self._lost.add(rank)
        self._free.discard(rank)
        self._workers = tuple(each for each in self._workers if each != rank)

    def release(self, batch: LiveBatch) -> None:
        """Take the workers of a batch back; may be called again."""
        if batch.released:
            return
        batch.released = True
        if batch.is_child:
            batch.root.children.remove(batch)
            del self._children[batch.number]
            return
        for child in batch.children:
            child.released = True
            del self._children[child.number]
        batch.children.clear()
        del self._batches[batch.number]
        for rank in batch.ranks:
            del self._by_rank[rank]
        self._free.update(set(batch.ranks) - self._lost)
