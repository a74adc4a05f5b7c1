"""A world of simulated workers around a real scheduler, on a virtual clock, driven by a seed.

The workers follow the protocol of ``runtime.worker``, ``execute`` and ``report``: a chunk is run
position by position from the left; a position whose `needs` failed is skipped and reported with
the position at the root; a recall or an interruption takes from the right whatever is not
started; the ends of tasks are reported in order, in messages of any size, and at the latest when
the worker turns to another chunk or has nothing left.  What a real run leaves to chance is drawn
from the seed: how long tasks and messages take, how slowly a worker starts, when it reports.
Messages between one worker and the manager keep their order, those of different workers do not.

`World` watches the run.  Of every task it records the one end it may have, at each start it asks
an independent list of predecessors, and after each event it asks the scheduler for its invariants
and looks for idle workers beside ready tasks.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.events import (
    Cancelled,
    Command,
    Event,
    Failed,
    Finished,
    Interrupted,
    Progressed,
    RecallTail,
    Resumed,
    SendChunk,
    Settled,
    Submitted,
    Suspended,
    TailReturned,
    Terminated,
    Ticked,
    Unrun,
)
from alamo_mpi.core.program import Program
from alamo_mpi.core.scheduler import Scheduler
from alamo_mpi.core.states import FIRST_FINAL, State

#: A task, by its program's number and its own.
Key = tuple[int, int]

_TICK_S = 1e-3


@dataclass
class Job:
    """A program to be submitted, and what only the simulation knows of it."""

    program: Program
    #: Seconds that each task takes.
    seconds: Sequence[float]
    #: Tasks whose function raises.
    raising: frozenset[int] = frozenset()
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


class _Work:
    """A chunk as its worker sees it: a copy, since the scheduler's own changes."""

    def __init__(self, chunk: Chunk) -> None:
        self.number = chunk.number
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
        self._inbox: deque[_Work] = deque()
        self._current: _Work | None = None
        #: Position of the running task; None between tasks.
        self._position: int | None = None
        self._awake = False
        #: Suspended: number -> (chunk, position).
        self._suspended: dict[int, tuple[_Work, int]] = {}
        #: Those of them whose wait is over, with how they end and what is left to do.
        self._returning: deque[tuple[_Work, int, Failed | None, float]] = deque()
        #: The chunk that a resumed task has come in between of.
        self._passed: _Work | None = None
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

    def receive_chunk(self, work: _Work) -> None:
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

    def _begin(self, work: _Work, position: int) -> None:
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
        failure = Failed(State.FAILED) if key[1] in job.raising else None
        self._run_on(work, position, failure, job.seconds[key[1]])
        if self._ended:
            self._world.after(self._rng.uniform(1e-3, 3e-3), self._flush)

    def _turn_to(self, work: _Work) -> None:
        self._current = work
        self._flush()
        self._chunk = work.number

    # Waiting ----------------------------------------------------------------------------------

    def _run_on(self, work: _Work, position: int, failure: Failed | None, seconds: float) -> None:
        """Run what is left of a task, up to its end or to its next wait."""
        if self._rng.random() >= self._world.manners.waiting:
            self._world.after(seconds, lambda: self._end(work, position, failure))
            return
        part = seconds * self._rng.random()
        self._world.after(part, lambda: self._suspend(work, position, failure, seconds - part))

    def _suspend(self, work: _Work, position: int, failure: Failed | None, left: float) -> None:
        if self._current is not work or self._position != position:
            return  # it was interrupted before
        self._flush()
        self._current = self._position = None
        self._world.report(self.rank, Suspended(work.number, work.give_back()))
        self._suspended[work.number] = work, position
        wait_s = self._rng.uniform(0, self._world.manners.wait_s)
        self._world.after(wait_s, lambda: self._wait_over(work, failure, left))
        self._go_on()

    def _wait_over(self, work: _Work, failure: Failed | None, left: float) -> None:
        if work.number not in self._suspended:
            return  # it was interrupted before
        _, position = self._suspended.pop(work.number)
        self._returning.append((work, position, failure, left))
        self._awake = True
        self._go_on()

    def _resume(self, work: _Work, position: int, failure: Failed | None, left: float) -> None:
        if self._current is not None and self._current.todo:
            self._passed = self._current
            self._world.met.add("resumed inside a chunk")
        self._turn_to(work)
        self._position = position
        self._world.report(self.rank, Resumed(work.number))
        self._run_on(work, position, failure, left)

    def _end(self, work: _Work, position: int, failure: Failed | None) -> None:
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
        self._world.ends(key)
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


class World:
    """A scheduler, its workers and the messages between them.

    Attributes
    ----------
    order : list of Key
        Tasks in the order in which they ended by running.
    finals : dict
        Task -> its final state, as the scheduler's commands told it.
    finished : list of int
        Programs in the order in which they were called finished.
    """

    def __init__(self, nworkers: int, rng: random.Random, manners: Manners) -> None:
        self.rng = rng
        self.manners = manners
        self.nworkers = nworkers
        self.now = 0.0
        self.scheduler = Scheduler(range(1, nworkers + 1))
        self.jobs: dict[int, Job] = {}
        self.ended: set[Key] = set()
        self.order: list[Key] = []
        self.finals: dict[Key, State] = {}
        self.finished: list[int] = []
        #: What has happened at least once.
        self.met: set[str] = set()
        self.nevents = 0
        self._workers = {rank: SimulatedWorker(self, rank) for rank in range(1, nworkers + 1)}
        #: Tasks of each chunk that the manager has not heard the end of, by rank and number.
        self._owed: dict[int, dict[int, int]] = {rank: {} for rank in self._workers}
        #: Chunks whose task waits, or runs again after it has waited.
        self._aside: set[int] = set()
        self._resumed: dict[int, int] = {}
        #: Programs from this number on are cancelled.
        self.cancelled_from: float = float("inf")
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._arrived: dict[tuple[int, bool], float] = {}
        self._ticking = False

    # The agenda -------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action; those of one moment happen in the order in which they were planned."""
        self._at(self.now + seconds, action)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (when, self._count, action))

    def submit(self, job: Job, when: float = 0.0) -> None:
        """Plan the submission of a program; they must be planned in the order of their numbers."""
        self._at(when, lambda: self._submit(job))

    def terminate(self, when: float) -> None:
        self._at(when, lambda: self._handle(Terminated()))

    def cancel(self, first: int, when: float) -> None:
        """Plan the cancellation of all programs from number `first` on."""
        self._at(when, lambda: self._cancel(first))

    def withdraw(self, pid: int, tasks: frozenset[int], when: float) -> None:
        """Plan the cancellation of some tasks of a program, if it is submitted by then."""
        self._at(when, lambda: self._withdraw(pid, tasks))

    def run(self, most_events: int) -> None:
        """Run until nothing is left to happen."""
        while self._agenda:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
            assert self.nevents <= most_events, "the run does not come to an end"
        assert self.scheduler.unfinished == 0
        assert self.scheduler.running == 0

    def _send(self, rank: int, down: bool, action: Callable[[], None]) -> None:
        """Deliver a message after a random time, but after all earlier ones of this link."""
        when = max(
            self.now + self.rng.uniform(0, self.manners.latency_s),
            self._arrived.get((rank, down), 0.0),
        )
        self._arrived[rank, down] = when
        self._at(when, action)

    # What workers say -------------------------------------------------------------------------

    def report(self, rank: int, event: Event) -> None:
        self._send(rank, False, lambda: self._handle(event))

    def starts(self, key: Key) -> None:
        job = self.jobs[key[0]]
        early = {before for before in job.after[key[1]] if not self._is_over(before)}
        assert not early, f"task {key} starts before {early}"
        assert key not in self.ended, f"task {key} runs twice"

    def ends(self, key: Key) -> None:
        self.ended.add(key)
        self.order.append(key)

    def _is_over(self, key: Key) -> bool:
        return key in self.ended or key in self.finals

    # What the manager does --------------------------------------------------------------------

    def _submit(self, job: Job) -> None:
        self.jobs[job.program.pid] = job
        job.program.cancelled = job.program.pid >= self.cancelled_from
        self._handle(Submitted(job.program))

    def _cancel(self, first: int) -> None:
        self.cancelled_from = first
        self._handle(Cancelled([job.program for pid, job in self.jobs.items() if pid >= first]))

    def _withdraw(self, pid: int, tasks: frozenset[int]) -> None:
        if pid in self.jobs:
            self._handle(Cancelled([self.jobs[pid].program], tasks))

    def _tick(self) -> None:
        self._ticking = False
        self._handle(Ticked())

    def _handle(self, event: Event) -> None:
        self.nevents += not isinstance(event, Ticked)
        self._note(event)
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            self._perform(command)
        if commands or not isinstance(event, Ticked):
            self.scheduler.check()
            self._check_workers()
        if self.scheduler.running and not self._ticking:
            self._ticking = True
            self.after(_TICK_S, self._tick)

    def _note(self, event: Event) -> None:
        ends: dict[int, int] = {}
        if isinstance(event, TailReturned):
            ends = dict(event.tails)
            self.met.add("tail" if ends else "no tail")
        elif isinstance(event, Progressed):
            ends = {event[0]: event[1]}
        elif isinstance(event, Suspended):
            ends = {event.chunk: event.tail} if event.tail else {}
            self.met.add("suspended with a tail" if ends else "suspended")
            self._aside.add(event.chunk)
            self._resumed = {r: n for r, n in self._resumed.items() if n != event.chunk}
        elif isinstance(event, Resumed):
            (rank,) = (r for r, owed in self._owed.items() if event.chunk in owed)
            self._resumed[rank] = event.chunk
        for number, count in ends.items():
            for owed in self._owed.values():
                if number in owed:
                    owed[number] -= count
                    if not owed[number]:
                        del owed[number]
                        self._aside.discard(number)
                        self._resumed = {r: n for r, n in self._resumed.items() if n != number}
                        if isinstance(event, TailReturned):
                            self.met.add("whole chunk")

    def _perform(self, command: Command) -> None:
        if isinstance(command, SendChunk):
            chunk, rank = command.chunk, command.chunk.rank
            work = _Work(chunk)
            assert work.tasks
            self._owed[rank][chunk.number] = len(work.tasks)
            self._send(rank, True, lambda: self._workers[rank].receive_chunk(work))
        elif isinstance(command, (RecallTail, Interrupted)):
            worker = self._workers[command.rank]
            self._send(worker.rank, True, lambda: worker.receive(command))
        elif isinstance(command, Settled):
            for index in command.indices:
                self._final(command.program, index, State(command.program.states[index]))
        elif isinstance(command, Unrun):
            program, index, state, _ = command
            self._final(program, index, state)
        elif isinstance(command, Finished):
            pid = command.program.pid
            assert pid not in self.finished
            missing = [i for i in range(command.program.ntasks) if (pid, i) not in self.finals]
            assert not missing, f"program {pid} is called finished before its tasks {missing}"
            self.finished.append(pid)

    def _final(self, program: Program, index: int, state: State) -> None:
        key = program.pid, index
        assert key not in self.finals, f"task {key} ends twice"
        assert state >= FIRST_FINAL
        assert program.states[index] == state
        self.finals[key] = state

    def _check_workers(self) -> None:
        """Look for work that is not given out, and for more than a worker may have."""
        ready = sum(
            job.program.states[: job.program.ntasks].count(State.READY)
            for job in self.jobs.values()
        )
        here = {rank: owed.keys() - self._aside for rank, owed in self._owed.items()}
        idle = [rank for rank, owed in here.items() if not owed and rank not in self._resumed]
        assert not (ready and idle), f"{ready} tasks are ready while {idle} have nothing to do"
        assert max(len(owed) for owed in here.values()) <= 2
