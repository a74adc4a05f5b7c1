"""The workers of one scheduler: who gets the next chunk, and who has to give some back.

1. A worker has at most two chunks: the one it runs and, where tasks are short, the next, so that
   it need not wait for a message in between.
2. An idle worker comes before one that would only get something ahead; among idle workers the one
   that holds the data of a ready task, then the one that became idle last: it still looks for
   messages often, and its caches hold what its last task wrote.  One that gave back all it had
   comes last: it is slow to begin.
3. When a worker is idle and nothing is ready, the worker with the most left among those that have
   said nothing for too long gives back what it has not started, and that is cut anew: a wrong
   estimate costs one long task, not a chunk.  A worker on a chain is left alone: nobody could
   go on with it before the task that runs has ended.
4. A suspended chunk is none of its worker's chunks.  While its task runs again (*resumed*), the
   worker is not idle, gets nothing, and can be asked for all that it has, as none of it runs.
5. A worker that is lost keeps what it had until that is settled, and is given nothing more.
6. A job takes several idle workers at once: the first leads it and has its chunk, the others are
   its members and have none until it ends.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice, zip_longest

from alamo_mpi.core.chunk import LONGEST_S, Chunk
from alamo_mpi.core.invariants import expect
from alamo_mpi.core.placement import ReadySet
from alamo_mpi.errors import InternalError

__all__ = ["Crew", "Worker"]

#: A task shorter than this may stand behind another one though a worker is about to be idle.
_TINY_S = 1e-3
#: A worker that says nothing for this long is asked for what it has not started.
_LATE_S = 2e-3
#: Behind a chunk that lasts longer than this nothing is sent ahead.
_SOON_S = 2 * LONGEST_S


class Worker:
    """What is known of one worker."""

    __slots__ = (
        "after_job",
        "behind",
        "chunks",
        "lost",
        "member",
        "patience_s",
        "rank",
        "recalled",
        "resumed",
        "since",
    )

    def __init__(self, rank: int) -> None:
        self.rank = rank
        #: Chunks sent and not ended, in the order in which the worker runs them.
        self.chunks: list[Chunk] = []
        #: The chunk of a task that has waited and runs again.
        self.resumed: Chunk | None = None
        #: When it last spoke, or got work after it had none.
        self.since = 0.0
        #: How long after that it is asked for its rest.  Doubled each time it gave back all it
        #: had, until a task of its own has ended: where messages are slower than `_LATE_S`, two
        #: workers would else pass a chunk to and fro and never begin it.
        self.patience_s = _LATE_S
        #: Whether a recall is on its way.
        self.recalled = False
        #: Whether it was recalled and has ended no task since: it gets nothing ahead.
        self.behind = False
        #: Whether it is taken by a job that another worker leads.
        self.member = False
        #: Whether it is gone.
        self.lost = False
        #: Whether a job was the last thing it had: what waits for a worker comes before another.
        self.after_job = False

    @property
    def waiting(self) -> int:
        """Number of tasks behind the running one; 0 if each has to wait for the one before it."""
        if self.resumed is not None:
            return sum(chunk.size - chunk.done for chunk in self.chunks)
        if len(self.chunks) == 1 and self.chunks[0].loose <= self.chunks[0].done:
            return 0
        return max(sum(chunk.size - chunk.done for chunk in self.chunks) - 1, 0)


class Crew:
    """All workers, by what can be done with them.

    Parameters
    ----------
    ranks
        The workers.

    Attributes
    ----------
    workers : dict
        Rank -> worker.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self.workers = {rank: Worker(rank) for rank in ranks}
        #: Those that are lost.
        self.gone: set[int] = set()
        #: All and only those without a chunk, suspended ones aside, the one that became idle
        #: last at the end.
        self._idle = OrderedDict(reversed(self.workers.items()))
        #: Those with one chunk that lasts not long: they can take a second one.
        self._half: dict[int, Worker] = {}
        #: No worker is late before this: saves the look at all of them after most events.
        self._late_at = math.inf

    @property
    def nrecalled(self) -> int:
        """Number of recalls that are not answered."""
        return sum(worker.recalled for worker in self.workers.values())

    def next(self, ready: ReadySet, nready: int, wanted: Container[int] = ()) -> int | None:
        """Return the rank that gets the next chunk, None if nobody does.

        Parameters
        ----------
        ready
            The tasks that the chunk begins with, not empty.
        nready
            Number of ready tasks in all.
        wanted
            Workers that get nothing ahead, since tasks wait that not all workers may run.
        """
        if self._idle:
            rank = ready.home_among(self._idle)
            return next(reversed(self._idle)) if rank is None else rank
        for worker in self._half.values():
            chunk = worker.chunks[0]
            if worker.behind or worker.recalled or not ready.has_for(worker.rank):
                continue
            if worker.rank in wanted:
                continue
            # Of long tasks the last few are left for whoever is idle first.
            if nready > len(self.workers) or chunk.expected <= _TINY_S * chunk.size:
                return worker.rank
        return None

    def other_than(self, ranks: Sequence[int]) -> int | None:
        """Return a worker for what has failed on these, in that order; None if there is no other.

        An idle one if there is one on which it has not failed, else whichever comes next, else one
        on which it has failed longer ago than on the last.
        """
        fresh = [rank for rank in reversed(self._idle) if rank not in ranks]
        if fresh:
            return fresh[0]
        later = sorted(self.workers, key=lambda rank: (rank <= ranks[-1], rank))
        others = [rank for rank in later if rank not in ranks]
        others += [rank for rank in later if rank in ranks[:-1] and rank != ranks[-1]]
        return others[0] if others else None

    def next_after_job(self) -> int | None:
        """Return an idle worker that a job was the last to have, None if there is none."""
        return next((rank for rank in self._idle if self.workers[rank].after_job), None)

    def idle(self, *, after_job: bool) -> list[int]:
        """Return the workers that have nothing to do, or those of them that a job had last."""
        ranks = reversed(self._idle)
        return [rank for rank in ranks if not after_job or self.workers[rank].after_job]

    def muster(
        self,
        width: int,
        allowed: frozenset[int] | None,
        hosts: Sequence[frozenset[int]] = (),
    ) -> tuple[int, ...] | None:
        """Return `width` idle workers, None if there are not so many where they may be.

        Parameters
        ----------
        width
            How many.
        allowed
            Those that may be taken, None for all.
        hosts
            If given, the hosts over which they are spread: one of each in turn, and none until
            there is one on as many hosts as can be.  Else they are neighbours where there is a
            choice: these share hosts.
        """
        idle = sorted(self._idle if allowed is None else allowed.intersection(self._idle))
        if len(idle) < width:
            return None
        if hosts:
            hosts = [host for host in hosts if not host <= self.gone]
            shares = [[rank for rank in idle if rank in host] for host in hosts]
            if len(list(filter(None, shares))) < min(width, len(hosts)):
                return None
            in_turn = (rank for turn in zip_longest(*shares) for rank in turn if rank is not None)
            return tuple(sorted(islice(in_turn, width)))
        first = min(range(len(idle) - width + 1), key=lambda at: idle[at + width - 1] - idle[at])
        return tuple(idle[first : first + width])

    def give(self, chunk: Chunk, now: float) -> None:
        """Note that a chunk is sent to its worker."""
        for rank in chunk.gang[1:]:
            self.workers[rank].member = True
            del self._idle[rank]
        worker = self.workers[chunk.rank]
        worker.after_job = False
        worker.chunks.append(chunk)
        if len(worker.chunks) == 1:
            worker.since = now
        self._relist(worker)
        self._expect_from(worker)

    def progressed(self, rank: int, now: float) -> None:
        """Note that a worker has ended tasks."""
        worker = self.workers[rank]
        worker.since = now
        worker.patience_s = _LATE_S
        worker.behind = False

    def ended(self, chunk: Chunk) -> None:
        """Note that nothing of a chunk is left on its worker."""
        worker = self.workers[chunk.rank]
        if worker.resumed is chunk:
            worker.resumed = None
        else:
            worker.chunks.remove(chunk)
        if not chunk.gang:
            self._relist(worker)
        for rank in chunk.gang:
            member = self.workers[rank]
            member.after_job, member.member = True, False
            self._relist(member)

    def suspended(self, chunk: Chunk) -> None:
        """Note that what is left of a chunk waits, and takes no place on its worker."""
        if chunk.gang:
            raise InternalError(f"rank {chunk.rank} suspends a job, which keeps its workers")
        self.ended(chunk)

    def resumed(self, chunk: Chunk, now: float) -> None:
        """Note that what is left of a suspended chunk runs again."""
        worker = self.workers[chunk.rank]
        if worker.resumed is not None or chunk in worker.chunks:
            raise InternalError(f"rank {chunk.rank} resumes a chunk that was not suspended")
        worker.resumed = chunk
        worker.since = now
        self._relist(worker)
        self._expect_from(worker)

    def lost(self, rank: int) -> None:
        """Note that a worker is gone: it is given nothing, and owes no answer."""
        worker = self.workers[rank]
        worker.lost, worker.recalled = True, False
        self.gone.add(rank)
        self._relist(worker)

    def left(self, allowed: frozenset[int] | None) -> int:
        """Return how many of these workers, None for all, are not lost."""
        if allowed is None:
            return len(self.workers) - len(self.gone)
        return len(allowed - self.gone)

    def stuck(self, pins: Mapping[int, frozenset[int]]) -> frozenset[int] | None:
        """Return which of these tasks only lost workers may run; None if nobody can run any."""
        if not self.left(None):
            return None
        return frozenset(task for task, ranks in pins.items() if ranks <= self.gone)

    def answered(self, rank: int, now: float) -> None:
        """Note that a worker has given back what it could."""
        worker = self.workers[rank]
        if worker.lost:
            return
        worker.recalled = False
        # It has spoken: asked again at once, it would answer the same until its task ends.
        worker.since = now
        if worker.behind and not worker.chunks:
            worker.patience_s *= 2
            if rank in self._idle:  # else a task has resumed there, or a job has taken it since
                self._idle.move_to_end(rank, last=False)
        self._expect_from(worker)

    def recall(self, now: float) -> int | None:
        """Return the rank to be asked for its rest, None if there is no need; O(1) mostly."""
        if now < self._late_at or not self._idle:
            return None
        self._late_at = math.inf
        late, most = None, 0
        for worker in self.workers.values():
            waiting = worker.waiting
            if not waiting or worker.recalled or worker.lost:
                continue
            self._expect_from(worker)
            if waiting > most and now >= worker.since + worker.patience_s:
                late, most = worker, waiting
        if late is None:
            return None
        late.recalled = late.behind = True
        return late.rank

    def check(self) -> None:
        """Assert the invariants.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        for worker in self.workers.values():
            rank, count = worker.rank, len(worker.chunks)
            expect(count <= 2, f"worker {rank} has at most two chunks")
            expect(not (count and worker.member), f"worker {rank} of a job has nothing else")
            idle = count == 0 and worker.resumed is None and not worker.member and not worker.lost
            expect(idle == (rank in self._idle), f"worker {rank} is listed if idle")
            expect(
                (count == 1 and worker.resumed is None) or rank not in self._half,
                f"worker {rank} can take another chunk",
            )

    def _relist(self, worker: Worker) -> None:
        """Let a worker be found if it is idle, or through with its one chunk soon."""
        rank = worker.rank
        free = worker.resumed is None and not worker.member and not worker.lost
        if free and not worker.chunks:
            self._idle.setdefault(rank, worker)
        else:
            self._idle.pop(rank, None)
        if free and len(worker.chunks) == 1 and worker.chunks[0].expected <= _SOON_S:
            self._half[rank] = worker
        else:
            self._half.pop(rank, None)

    def _expect_from(self, worker: Worker) -> None:
        """Note by when a worker should have spoken."""
        self._late_at = min(self._late_at, worker.since + worker.patience_s)
