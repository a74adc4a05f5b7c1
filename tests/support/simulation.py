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
from collections import Counter
from collections.abc import Callable

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
    Retried,
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
from tests.support.simulated_worker import Job, Key, Manners, SimulatedWorker, Work

_TICK_S = 1e-3


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
        #: Task -> how often it was begun.
        self.attempts: Counter[Key] = Counter()
        self.finals: dict[Key, State] = {}
        self.finished: list[int] = []
        #: What has happened at least once.
        self.met: set[str] = set()
        self.nevents = 0
        self._workers = {rank: SimulatedWorker(self, rank) for rank in range(1, nworkers + 1)}
        #: Workers taken by a job that another one leads, by the number of its chunk.
        self.members: dict[int, tuple[int, ...]] = {}
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
        self.attempts[key] += 1

    def ends(self, key: Key, failure: Failed | None) -> None:
        program, attempts = self.jobs[key[0]].program, self.attempts[key]
        if failure is not None and failure.state == State.FAILED and key[1] in program.retry:
            assert attempts <= program.retry[key[1]].retries + 1, f"task {key} is tried too often"
            if attempts <= program.retry[key[1]].retries:
                return  # unless the manager gives it up: then it says so
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
        if self.scheduler.needs_ticks and not self._ticking:
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
                        self.members.pop(number, None)
                        if isinstance(event, TailReturned):
                            self.met.add("whole chunk")

    def _perform(self, command: Command) -> None:
        if isinstance(command, SendChunk):
            chunk, rank = command.chunk, command.chunk.rank
            work = Work(chunk)
            assert work.tasks
            self._check_gang(chunk)
            self._owed[rank][chunk.number] = len(work.tasks)
            self._send(rank, True, lambda: self._workers[rank].receive_chunk(work))
        elif isinstance(command, (RecallTail, Interrupted)):
            worker = self._workers[command.rank]
            self._send(worker.rank, True, lambda: worker.receive(command))
        elif isinstance(command, Settled):
            for index in command.indices:
                self._final(command.program, index, State(command.program.states[index]))
        elif isinstance(command, Retried):
            self._note_retried(command)
        elif isinstance(command, Unrun):
            program, index, state, _ = command
            self._final(program, index, state)
        elif isinstance(command, Finished):
            pid = command.program.pid
            assert pid not in self.finished
            missing = [i for i in range(command.program.ntasks) if (pid, i) not in self.finals]
            assert not missing, f"program {pid} is called finished before its tasks {missing}"
            self.finished.append(pid)

    def _note_retried(self, command: Retried) -> None:
        key = command.program.pid, command.task
        assert key not in self.finals, f"task {key} is tried again after its end"
        self.met.add("tried again at once" if key not in self.scheduler.held else "held")
        tried = command.program.tried[command.task]
        assert tried[-1] == command.rank
        assert len(tried) == self.attempts[key]

    def _final(self, program: Program, index: int, state: State) -> None:
        key = program.pid, index
        assert key not in self.finals, f"task {key} ends twice"
        assert state >= FIRST_FINAL
        assert program.states[index] == state
        self.finals[key] = state

    def _check_gang(self, chunk: Chunk) -> None:
        """A job gets as many workers as it asked for, all of them with nothing else to do."""
        taken = {rank for gang in self.members.values() for rank in gang}
        assert chunk.rank not in taken, f"worker {chunk.rank} of a job gets something else"
        for part, indices, _ in chunk.span(0, chunk.size):
            for index in indices:
                if index in part.pins:
                    self.met.add("pinned")
                    assert chunk.rank in part.pins[index], f"{chunk.rank} may not run {index}"
        program, index = chunk.at(0)
        width = program.widths.get(index)
        assert len(chunk.gang) == (width or 0)
        if width is None:
            return
        self.met.add("job")
        assert chunk.size == 1
        assert chunk.rank == chunk.gang[0]
        assert len(set(chunk.gang)) == width
        assert not taken & set(chunk.gang), "a worker is taken by two jobs"
        # Those whose task waits have nothing else to do.
        here = {rank: owed.keys() - self._aside for rank, owed in self._owed.items()}
        busy = {rank for rank in chunk.gang[1:] if here[rank]} | set(chunk.gang) & set(
            self._resumed
        )
        busy |= {chunk.rank} if len(here[chunk.rank]) > 1 else set()
        assert not busy, f"a job takes {busy}, which have something to do"
        self.members[chunk.number] = chunk.gang[1:]

    def _check_workers(self) -> None:
        """Look for work that is not given out, and for more than a worker may have."""
        ready, widths, pins = 0, [], []
        for job in sorted(self.jobs.values(), key=lambda job: job.program.order):
            program = job.program
            for index in range(program.ntasks):
                if program.states[index] == State.READY:
                    if index in program.widths:
                        widths.append((program.order, program.widths[index]))
                    elif index in program.pins:
                        pins.append(program.pins[index])
                    else:
                        ready += 1
        taken = {rank for gang in self.members.values() for rank in gang} | set(self._resumed)
        here = {rank: owed.keys() - self._aside for rank, owed in self._owed.items()}
        idle = [rank for rank, owed in here.items() if not owed and rank not in taken]
        if widths:
            self.met.add("waiting job")
            # Of one program, whichever job was ready first is at the head.
            widest = max(width for order, width in widths if order == widths[0][0])
            assert len(idle) < widest, f"jobs {widths} wait while {idle} have nothing to do"
        else:
            assert not (ready and idle), f"{ready} tasks are ready while {idle} have nothing to do"
            if pins and idle:
                self.met.add("waiting for others")
            assert not frozenset().union(*pins).intersection(idle), f"{pins} wait for {idle}"
        assert max(len(owed) for owed in here.values()) <= 2
