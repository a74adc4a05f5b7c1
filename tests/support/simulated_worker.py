"""One rank of the simulated world: runs chunks on a virtual clock, and behaves badly on request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.events import (
    Command,
    Failed,
    Interrupted,
    Progressed,
    RecallTail,
    Resumed,
    Suspended,
    TailReturned,
)
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

if TYPE_CHECKING:
    from tests.support.simulation import World

#: What tasks raise.
FAILURE = Failed(State.FAILED, kinds=("E",))
#: A task, by its program's number and its own.
Key = tuple[int, int]


@dataclass
class Job:
    """A program to be submitted, and what only the simulation knows of it."""

    program: Program
    #: Seconds that each task takes.
    seconds: Sequence[float]
    #: Tasks whose function raises.
    raising: frozenset[int] = frozenset()
    #: Tasks whose first attempts raise, and how many.
    falters: dict[int, int] = field(default_factory=dict)
    #: The tasks that each one has to come after, by a definition other than the scheduler's.
    after: Sequence[set[Key]] = ()
    #: Bytes of each result that stays on its worker.
    kept: dict[int, int] = field(default_factory=dict)


@dataclass
class Manners:
    """How one run behaves; every number is an upper bound or a probability."""

    latency_s: float = 1e-5
    #: Between the arrival of a chunk at an idle worker and the start of its first task.
    start_s: float = 0.0
    #: Chance that the end of a task is reported at once.
    eager: float = 0.3
    #: Chance that an interruption reaches the running task before it returns.
    interruptible: float = 0.8
    #: Chance that a task waits, and so gives the turn away, before it goes on; it may wait again.
    waiting: float = 0.0
    #: How long a wait takes.
    wait_s: float = 1e-3


class Work:
    """A chunk as its worker sees it: a copy, since the scheduler's own changes."""

    def __init__(self, chunk: Chunk) -> None:
        self.number = chunk.number
        #: A job keeps its workers: it gives no turn away.
        self.is_job = bool(chunk.gang)
        self.tasks = [
            (program.pid, index)
            for program, indices, _ in chunk.span(0, chunk.size)
            for index in indices
        ]
        self.needs = dict(chunk.needs)
        self.todo = deque(range(len(self.tasks)))
        #: Position that has failed -> position at the root.
        self.failed: dict[int, int] = {}

    def give_back(self) -> int:
        count = len(self.todo)
        self.todo.clear()
        return count


class SimulatedWorker:
    """One rank: runs chunks on the virtual clock of its world."""

    def __init__(self, world: World, rank: int) -> None:
        self.rank = rank
        self._world = world
        self._rng = world.rng
        self._inbox: deque[Work] = deque()
        self._current: Work | None = None
        #: Position of the running task; None between tasks.
        self._position: int | None = None
        self._awake = False
        #: Suspended: number -> (chunk, position).
        self._suspended: dict[int, tuple[Work, int]] = {}
        #: Those of them whose wait is over, with how they end and what is left to do.
        self._returning: deque[tuple[Work, int, Failed | None, float]] = deque()
        #: The chunk that a resumed task has come in between of.
        self._passed: Work | None = None
        # What is not reported yet.
        self._chunk = -1
        self._ended = 0
        self._failures: dict[int, Failed] = {}
        self._kept: dict[int, int] = {}
        self._seconds: dict[int, tuple[int, float]] = {}

    # Messages ---------------------------------------------------------------------------------

    def receive(self, command: Command) -> None:
        """Dispatch one message, at once."""
        if isinstance(command, RecallTail):
            self._world.report(self.rank, TailReturned(self.rank, self._give_back(None)))
        elif isinstance(command, Interrupted):
            self._interrupt(command.chunks)
        else:
            raise AssertionError(command)

    def receive_chunk(self, work: Work) -> None:
        self._inbox.append(work)
        if not self._awake:
            self._awake = True
            self._world.after(self._rng.uniform(0, self._world.manners.start_s), self._go_on)

    def _give_back(self, chunks: set[int] | None) -> dict[int, int]:
        works = [*self._inbox, *filter(None, (self._current, self._passed))]
        taken = {w.number: w.give_back() for w in works if chunks is None or w.number in chunks}
        return {number: count for number, count in taken.items() if count}

    def _interrupt(self, chunks: dict[int, list[int] | None]) -> None:
        tails = self._give_back(set(chunks))
        if tails:
            self._world.report(self.rank, TailReturned(self.rank, tails))
        for number in chunks.keys() & self._suspended.keys():
            work, position = self._suspended[number]
            if _names(chunks, number, position):
                self._world.met.add("interrupted while it waits")
                self._wait_over(work, Failed(State.CANCELLED), 0.0)
        work, position = self._current, self._position
        if work is None or position is None or not _names(chunks, work.number, position):
            return
        if self._rng.random() < self._world.manners.interruptible:
            self._world.met.add("interrupted")
            self._end(work, position, Failed(State.CANCELLED))

    # Running ----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Run until a task takes time or nothing is left."""
        while self._position is None:
            work = self._current
            if self._returning:
                self._resume(*self._returning.popleft())
                continue
            if work is None and self._passed is not None:
                work, self._passed = self._passed, None
                self._turn_to(work)
            if work is None:
                if not self._inbox:
                    self._awake = False
                    return
                work = self._inbox.popleft()
                self._turn_to(work)
            if work.todo:
                self._begin(work, work.todo.popleft())
                continue
            self._current = None
            if not self._inbox:
                self._flush()

    def _begin(self, work: Work, position: int) -> None:
        roots = [work.failed[p] for p in work.needs.get(position, ()) if p in work.failed]
        key = work.tasks[position]
        if roots:
            work.failed[position] = roots[0]
            self._world.ended.add(key)
            self._add(Failed(State.SKIPPED, roots[0]))
            return
        self._position = position
        self._world.starts(key)
        job = self._world.jobs[key[0]]
        falters = self._world.attempts[key] <= job.falters.get(key[1], 0)
        failure = FAILURE if falters or key[1] in job.raising else None
        self._run_on(work, position, failure, job.seconds[key[1]])
        if self._ended:
            self._world.after(self._rng.uniform(1e-3, 3e-3), self._flush)

    def _turn_to(self, work: Work) -> None:
        self._current = work
        self._flush()
        self._chunk = work.number

    # Waiting ----------------------------------------------------------------------------------

    def _run_on(self, work: Work, position: int, failure: Failed | None, seconds: float) -> None:
        """Run what is left of a task, up to its end or to its next wait."""
        if work.is_job or self._rng.random() >= self._world.manners.waiting:
            self._world.after(seconds, lambda: self._end(work, position, failure))
            return
        part = seconds * self._rng.random()
        self._world.after(part, lambda: self._suspend(work, position, failure, seconds - part))

    def _suspend(self, work: Work, position: int, failure: Failed | None, left: float) -> None:
        if self._current is not work or self._position != position:
            return  # it was interrupted before
        self._flush()
        self._current = self._position = None
        self._world.report(self.rank, Suspended(work.number, work.give_back()))
        self._suspended[work.number] = work, position
        wait_s = self._rng.uniform(0, self._world.manners.wait_s)
        self._world.after(wait_s, lambda: self._wait_over(work, failure, left))
        self._go_on()

    def _wait_over(self, work: Work, failure: Failed | None, left: float) -> None:
        if work.number not in self._suspended:
            return  # it was interrupted before
        _, position = self._suspended.pop(work.number)
        self._returning.append((work, position, failure, left))
        self._awake = True
        self._go_on()

    def _resume(self, work: Work, position: int, failure: Failed | None, left: float) -> None:
        if self._current is not None and self._current.todo:
            self._passed = self._current
            self._world.met.add("resumed inside a chunk")
        self._turn_to(work)
        self._position = position
        self._world.report(self.rank, Resumed(work.number))
        self._run_on(work, position, failure, left)

    def _end(self, work: Work, position: int, failure: Failed | None) -> None:
        if self._current is not work or self._position != position:
            return  # it was interrupted before
        self._position = None
        key = work.tasks[position]
        job = self._world.jobs[key[0]]
        kind, seconds = job.program.kind(key[1]), job.seconds[key[1]]
        count, before = self._seconds.get(kind, (0, 0.0))
        self._seconds[kind] = count + 1, before + seconds
        if failure is not None:
            work.failed[position] = position
        elif key[1] in job.kept:
            self._kept[self._ended] = job.kept[key[1]]
        self._world.ends(key, failure)
        self._add(failure)
        self._go_on()

    def _add(self, failure: Failed | None) -> None:
        if failure is not None:
            self._failures[self._ended] = failure
        self._ended += 1
        if self._rng.random() < self._world.manners.eager:
            self._flush()

    def _flush(self) -> None:
        if self._ended:
            report = (self._chunk, self._ended, self._failures, self._kept, self._seconds)
            self._ended, self._failures, self._kept, self._seconds = 0, {}, {}, {}
            self._world.report(self.rank, Progressed(*report))


def _names(chunks: dict[int, list[int] | None], number: int, position: int) -> bool:
    """Tell whether an interruption means this task."""
    if number not in chunks:
        return False
    positions = chunks[number]
    return positions is None or position in positions
