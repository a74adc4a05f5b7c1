"""The manager's side of a lost worker, in a program that goes on without it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.events import Event, Lost, Resumed, TailReturned
from alamo_mpi.core.messages import Failure, Progress
from alamo_mpi.errors import WorkerDiedError
from alamo_mpi.mpi.announced import survives
from alamo_mpi.mpi.transport import Transport
from alamo_mpi.runtime import pool
from alamo_mpi.runtime.failures import describe
from alamo_mpi.runtime.fetches import Fetches
from alamo_mpi.runtime.roster import LiveBatch, Roster
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.translate import event_of
from alamo_mpi.runtime.witnessed import last_task, mark

__all__ = ["Mourning"]

logger = logging.getLogger(__name__)


class Clients(Protocol):
    """The desk for remote clients."""

    def lose(self, rank: int) -> None: ...


class Ties(NamedTuple):
    """What a lost worker has to be cut off from."""

    transport: Transport
    roster: Roster
    desk: Clients
    fetches: Fetches
    hosts: tuple[str, ...]
    handle: Callable[[LiveBatch, Event, Progress | None], None]


class Mourning:
    """Settle what a lost worker had, and cut it off; used under the manager's lock.

    Attributes
    ----------
    ranks : set of int
        The workers of which nothing is expected any more.
    """

    def __init__(self, ties: Ties) -> None:
        self._ties = ties
        #: Whether the program goes on without ranks that are lost.
        self._apart = survives()
        self.ranks: set[int] = set()

    def look(self) -> None:
        """See to ranks that were lost since; called when nothing has arrived."""
        lost = self._ties.transport.lost
        if self._apart:
            mark().note_lost(lost)
        if len(lost) != len(self.ranks):
            for rank in sorted(lost - self.ranks):
                self._lose(rank)

    def _lose(self, rank: int) -> None:
        ties = self._ties
        self.ranks.add(rank)
        # The witness has said it, where there is one.
        level = logging.ERROR if mark().page is None else logging.INFO
        logger.log(level, "Rank %d (host %s) was lost; the others go on.", rank, ties.hosts[rank])
        ties.transport.give_up(rank)
        pool.lose(rank)
        ties.fetches.lose(rank)
        live = ties.roster.of_rank(rank)
        ties.roster.lose(rank)
        if live is not None:
            ties.handle(live, Lost(rank), None)
            self._settle(live, rank)
        ties.desk.lose(rank)

    def _settle(self, live: LiveBatch, rank: int) -> None:
        """Fail what the worker may have begun, and give the rest to others."""
        left = live.scheduler.dispatch.left_by(rank)
        last = last_task(rank)
        numbers = [chunk.number for chunk, _, _ in left]
        counts = _begun(live, [chunk for chunk, _, begun in left if not begun], last)
        for chunk, suspended, begun in left:
            rest = chunk.size - chunk.done
            count = rest if begun else counts[chunk.number]
            if suspended:
                self._ties.handle(live, Resumed(chunk.number), None)
            if count:
                now = time.time()
                message = Progress(
                    chunk=chunk.number,
                    ended=count,
                    results=None,
                    failures=self._failures(live, chunk, count),
                    kept={},
                    streams={},
                    seconds={},
                    spans=[(now, now)] * count,
                )
                event = event_of(rank, message)
                assert event is not None
                self._ties.handle(live, event, message)
            if rest > count:
                self._ties.handle(live, TailReturned(rank, {chunk.number: rest - count}), None)
        logger.debug("chunks %s of rank %d are settled", numbers, rank)

    def _failures(self, live: LiveBatch, chunk: Chunk, count: int) -> dict[int, Failure]:
        rank, host = chunk.rank, self._ties.hosts[chunk.rank]
        failures = {}
        for at, (submission, index) in enumerate(_tasks(live, chunk)[:count]):
            uid, name = submission.uids[index], submission.names[index]
            error = WorkerDiedError(
                f"Task {uid} {name!r} was lost with rank {rank} (host {host}), which ran it or had "
                "run it and not reported its end. Start it again if that is safe.",
                uid=uid,
                task_name=name,
                rank=rank,
                host=host,
            )
            failures[at] = describe(error)
        return failures


def _tasks(live: LiveBatch, chunk: Chunk) -> list[tuple[Submission, int]]:
    """Return the tasks of a chunk that have not ended."""
    found: list[tuple[Submission, int]] = []
    for program, indices, _ in chunk.span(chunk.done, chunk.size):
        owner = program.owner() if program.owner is not None else None
        assert isinstance(owner, Submission)
        found += [(owner, index) for index in indices]
    return found


def _begun(live: LiveBatch, chunks: Sequence[Chunk], last: int | None) -> dict[int, int]:
    """Return how many tasks of each chunk the worker may have begun.

    Its tasks are run in order, so all up to the last that it noted; where nothing was noted that
    can be seen here, the whole of the first chunk.
    """
    if last is None:
        return {c.number: 0 if at else c.size - c.done for at, c in enumerate(chunks)}
    counts = dict.fromkeys([chunk.number for chunk in chunks], 0)
    before: dict[int, int] = {}
    for chunk in chunks:
        uids = [submission.uids[index] for submission, index in _tasks(live, chunk)]
        if last in uids:
            return {**counts, **before, chunk.number: uids.index(last) + 1}
        before[chunk.number] = len(uids)
    return counts
