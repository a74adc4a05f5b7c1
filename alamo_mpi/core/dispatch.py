"""What is ready, and who gets it: the half of the scheduler that looks at workers.

The ready tasks stand in the ready sets of their programs, or in a queue of their own: jobs, which
take several workers at once (`gang`), and tasks that only some workers may run (`pinned`).
`Dispatch.fill` gives them out, as chunks, as long as there are workers (`crew`).  What follows from
an end, and so what becomes ready, `scheduler` says.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping

from alamo_mpi.core.chunk import LONGEST_S, SHORTEST_S, Chunk
from alamo_mpi.core.crew import Crew
from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.events import Cancelled
from alamo_mpi.core.gang import GangQueue
from alamo_mpi.core.invariants import check_programs
from alamo_mpi.core.pinned import PinnedQueue
from alamo_mpi.core.program import DEPTH_SHIFT, Program

__all__ = ["Dispatch"]

_PID = (1 << DEPTH_SHIFT) - 1


class Dispatch:
    """Give ready tasks to workers.

    Parameters
    ----------
    ranks
        The workers.
    durations
        Estimates of how long functions take.
    programs
        The unfinished programs by number; the scheduler's own, which changes.

    Attributes
    ----------
    crew : Crew
        The workers, by what can be done with them.
    chunks : dict
        Chunks on workers, by number.
    """

    def __init__(
        self, ranks: Iterable[int], durations: Durations, programs: Mapping[int, Program]
    ) -> None:
        self.crew = Crew(ranks)
        self.chunks: dict[int, Chunk] = {}
        self._durations = durations
        self._programs = programs
        #: Heap of the places (`Program.order`) of programs that have ready tasks.
        self._queue: list[int] = []
        #: Number of ready tasks in the ready sets of all programs.
        self._nready = 0
        #: Jobs that wait for enough idle workers.
        self._jobs = GangQueue()
        #: Tasks that wait for one of the workers that may run them.
        self._pinned = PinnedQueue()
        self._next_chunk = 0

    @property
    def running(self) -> int:
        """Number of answers that workers owe: chunks under way, and recalls."""
        return len(self.chunks) + self.crew.nrecalled

    # What is ready ----------------------------------------------------------------------------

    def add(self, program: Program) -> None:
        """Count what is ready of a new program from the start."""
        self._nready += program.ready.count

    def release(self, program: Program, index: int) -> None:
        """Put a task that has become ready where it waits for a worker."""
        if index in program.widths:
            self._jobs.push(program, index)
            return
        if index in program.pins:
            self._pinned.push(program, index)
            return
        program.ready.push(index, program.home(index) if program.homes else None)
        self._nready += 1
        if not program.queued:
            self.enqueue(program)

    def enqueue(self, program: Program) -> None:
        """Let a program be found, if something of it is ready."""
        if program.ready.count and not program.queued:
            program.queued = True
            heapq.heappush(self._queue, program.order)

    def drop(self, program: Program, tasks: frozenset[int] | None = None) -> None:
        """Forget what is ready of a program, or of these tasks of it."""
        self._nready -= program.ready.count
        if tasks is None:
            program.ready.drain()
        else:
            program.ready.discard(tasks)
        self._nready += program.ready.count
        self._jobs.drop(program, tasks)
        self._pinned.drop(program, tasks)

    def _head(self) -> Program | None:
        """Return the first program with ready tasks."""
        while self._queue:
            program = self._programs.get(self._queue[0] & _PID)
            if program is not None and program.ready.count:
                return program
            heapq.heappop(self._queue)
            if program is not None:
                program.queued = False
        return None

    # Who gets it ------------------------------------------------------------------------------

    def fill(self, now: float) -> list[Chunk]:
        """Give jobs and chunks to workers while there are both; return what was given."""
        given: list[Chunk] = []
        if self._jobs:
            self._give(given, now, held=True)
            self._start_jobs(given, now)
        if not self._jobs:
            self._give(given, now, held=False)
        return given

    def too_wide(self) -> Cancelled | None:
        """Return the end of the job that is next, if too few workers are left for it; O(1)."""
        if self._jobs and self.crew.left(self._jobs.allowed) < self._jobs.width:
            program, index = self._jobs.first
            return Cancelled([program], frozenset([index]))
        return None

    def recall(self, now: float) -> int | None:
        """Return the worker to be asked for what it has not started, None if there is no need."""
        if self.chunks and not (self._nready and not self._jobs):
            return self.crew.recall(now)
        return None

    def end(self, chunk: Chunk) -> None:
        """Note that nothing of a chunk is left on its worker."""
        del self.chunks[chunk.number]
        self.crew.ended(chunk)

    def _start_jobs(self, given: list[Chunk], now: float) -> None:
        """Start jobs, in order, while enough workers are idle."""
        while self._jobs:
            gang = self.crew.muster(self._jobs.width, self._jobs.allowed, self._jobs.hosts)
            if gang is None:
                return
            self._send(Chunk.of_job(self._next_chunk, gang, *self._jobs.pop()), given, now)

    def _give(self, given: list[Chunk], now: float, *, held: bool) -> None:
        """Give chunks to workers: while they are held back for a job, to those who had one."""
        wanted: Container[int] = ()
        if self._pinned:
            self._give_pinned(given, now, held=held)
            wanted = self._pinned.wanted()
        while (program := self._head()) is not None:
            if held:
                rank = self.crew.next_after_job()
            else:
                rank = self.crew.next(program.ready, self._nready, wanted)
            if rank is None:
                break
            self._send(self._cut(rank, program), given, now)
        if self._pinned:  # of programs that came later
            self._give_pinned(given, now, held=held)

    def _give_pinned(self, given: list[Chunk], now: float, *, held: bool) -> None:
        """Give each idle worker a task that only it and its like may run."""
        head = self._head()
        for rank in self.crew.idle(after_job=held):
            found = self._pinned.pop(rank, None if head is None else head.order)
            if found is not None:
                self._send(Chunk.alone(self._next_chunk, rank, *found), given, now)

    def _send(self, chunk: Chunk, given: list[Chunk], now: float) -> None:
        self._next_chunk = chunk.number + 1
        self.crew.give(chunk, now)
        self.chunks[chunk.number] = chunk
        given.append(chunk)

    def _cut(self, rank: int, program: Program) -> Chunk:
        """Cut the next chunk for a worker, from a program with ready tasks on."""
        chunk = Chunk(self._next_chunk, rank)
        budget = SHORTEST_S
        each_s = self._durations.of(program.kind(program.ready.peek(rank)))
        if each_s is not None:
            share = each_s * self._nready / (2 * len(self.crew.workers))
            budget = min(max(share, SHORTEST_S), LONGEST_S)
        following: Program | None = program
        while following is not None and not chunk.full(budget):
            before, size = following.ready.count, chunk.size
            chunk.take(following, self._durations, budget)
            self._nready -= before - following.ready.count
            if following.ready.count or chunk.size == size:
                break
            following = self._head()
        return chunk

    @property
    def begun(self) -> list[Chunk]:
        """Those of them whose next task runs or waits: that stand behind no other."""
        behind: set[int] = set()
        for worker in self.crew.workers.values():
            first = 0 if worker.resumed is not None else 1
            behind.update(chunk.number for chunk in worker.chunks[first:])
        return [chunk for chunk in self.chunks.values() if chunk.number not in behind]

    def left_by(self, rank: int) -> list[tuple[Chunk, bool, bool]]:
        """Return the chunks of a worker in the order of running.

        With each, whether it is suspended, and whether all of it was begun for certain.
        """
        worker = self.crew.workers[rank]
        resumed = [] if worker.resumed is None else [worker.resumed]
        active = [*resumed, *worker.chunks]
        suspended = [c for c in self.chunks.values() if c.rank == rank and c not in active]
        return [
            *((chunk, False, True) for chunk in resumed),
            *((chunk, False, False) for chunk in worker.chunks),
            *((chunk, True, True) for chunk in suspended),
        ]

    # Invariants -------------------------------------------------------------------------------

    def check(self, held: Collection[tuple[int, int]] = ()) -> None:
        """Assert the invariants; O(tasks), for tests.

        Parameters
        ----------
        held
            Program number and task, of those between two attempts.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        apart = Counter(self._jobs.waiting()) + Counter(self._pinned.waiting())
        check_programs(self._programs, self.chunks, self._nready, apart, held)
        self._jobs.check(len(self.crew.workers))
        self._pinned.check(self.crew.workers)
        self.crew.check()
