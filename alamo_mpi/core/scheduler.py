"""The scheduler of one batch: a state machine without I/O, clock or threads.

Events go in through one door, `Scheduler.handle`, and commands come out; the caller performs
them in order.  The rules:

1. A task becomes READY when its last predecessor reaches a final state, or WAITING -> RUNNING
   inside a chunk that holds all its unfinished predecessors.
2. A failed, skipped or cancelled task *dooms* its RAW successors.  A doomed task is settled as
   SKIPPED only when its last predecessor is final, so that whoever is ordered after it (WAR, WAW)
   stays ordered after its predecessors too.  A cancelled task is final at once; whoever is ordered
   after it hears of that when its last predecessor is final.
3. Join nodes pass completion and doom on at no cost; they are settled here and never sent.
4. Programs that deeper tasks have started come first, so that a tree of calls is walked depth
   first; then the order of submission; within one, `placement`.
5. Who gets the next chunk, and who is asked to give back what it has not started, `crew` says.
6. The chunk of a task that waits is *suspended*: one task is left of it, and it takes no place on
   its worker until that task runs again (resumed).
7. A task that has failed may be tried again, and is not final before its last attempt; see `retry`.
8. A task that takes several workers at once, a job, is a chunk of its own; see `gang`.  So is one
   that only some workers may run; see `pinned`.

``Scheduler.check`` asserts the invariants; the tests call it after every event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.dispatch import Dispatch
from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.events import (
    Cancelled,
    Command,
    Event,
    Finished,
    Interrupted,
    Lost,
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
    Unrun,
)
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.program import Program
from alamo_mpi.core.retry import Holds, sift
from alamo_mpi.core.states import FIRST_FINAL, State
from alamo_mpi.errors import InternalError

__all__ = ["Scheduler"]

_RAW = int(Hazard.RAW)
_WAITING = int(State.WAITING)
_READY = int(State.READY)
_VALUE = int(Hazard.VALUE)
_RUNNING = int(State.RUNNING)
_DONE = int(State.DONE)
_CANCELLED = int(State.CANCELLED)
_DONE_BYTE = bytes([State.DONE])
#: The function number under which functions travel that have none: says nothing of any of them.
_UNNUMBERED = 0

#: Results smaller than this do not tie their readers to the worker that holds them.
_HEAVY_NBYTES = 1 << 16
#: More than any result: no datum ties a task to the worker on which it has failed.
_AWAY_NBYTES = 1 << 62


class Scheduler:
    """Decide which worker runs what, and what follows from each end.

    Parameters
    ----------
    ranks
        The workers of this batch.
    durations
        Estimates to share with other batches of the program; a fresh table by default.
    """

    def __init__(self, ranks: Iterable[int], durations: Durations | None = None) -> None:
        self._durations = durations if durations is not None else Durations()
        #: Programs with unfinished tasks, by number.
        self._programs: dict[int, Program] = {}
        #: What is ready, and who has what.
        self.dispatch = Dispatch(ranks, self._durations, self._programs)
        self._crew = self.dispatch.crew
        self._chunks = self.dispatch.chunks
        #: Tasks between two attempts.
        self._held = Holds()
        self._now = 0.0
        self._terminated = False
        self._commands: list[Command] = []
        #: Programs whose last task became final in this event.
        self._ended: list[Program] = []

    # The door ---------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; return what is to be done, in order.

        Parameters
        ----------
        event
            What happened.
        now
            Seconds of a monotonic clock.

        Returns
        -------
        list of Command
            To be performed in order.

        Raises
        ------
        InternalError
            If the event contradicts the state.
        """
        self._now = now
        if isinstance(event, Progressed):
            self._progressed(event)
        elif isinstance(event, Submitted):
            self._submitted(event.program)
        elif isinstance(event, TailReturned):
            self._tail_returned(event)
        elif isinstance(event, Suspended):
            self._suspended(event)
        elif isinstance(event, Resumed):
            self._crew.resumed(self._chunk(event.chunk, event), now)
        elif isinstance(event, Lost):
            self._lost(event)
        elif isinstance(event, Cancelled):
            self._cancel_some(event)
        elif isinstance(event, Terminated):
            self._terminate()
        if self._held:
            self._end_holds()
        while self._crew.gone and (wide := self.dispatch.too_wide()) is not None:
            self._cancel_some(wide)
        for program in self._ended:
            del self._programs[program.pid]
            self._commands.append(Finished(program))
        self._ended.clear()
        self._commands += map(SendChunk, self.dispatch.fill(now))
        if not self._terminated:
            rank = self.dispatch.recall(now)
            if rank is not None:
                self._commands.append(RecallTail(rank))
        commands, self._commands = self._commands, []
        return commands

    @property
    def unfinished(self) -> int:
        """Number of tasks in no final state."""
        return sum(program.remaining for program in self._programs.values())

    @property
    def running(self) -> int:
        """Number of answers that workers owe: chunks under way, and recalls."""
        return self.dispatch.running

    @property
    def held(self) -> dict[tuple[int, int], float]:
        """Tasks between two attempts: program number and task -> when the next one is due."""
        return self._held.untils()

    @property
    def needs_ticks(self) -> bool:
        """Whether time alone can change anything."""
        return self.running > 0 or len(self._held) > 0

    # Events -----------------------------------------------------------------------------------

    def _submitted(self, program: Program) -> None:
        if program.pid in self._programs:
            raise InternalError(f"program {program.pid} was submitted before")
        self._programs[program.pid] = program
        self.dispatch.add(program)
        for index, producer, source in program.externals:
            state = producer.states[source]
            if state < FIRST_FINAL:
                producer.watchers.setdefault(source, []).append((program, index))
                program.waiting[index] += 1
            elif state != _DONE:
                root = producer.doomed.get(source, (producer, source))
                program.doomed.setdefault(index, root)
        if not program.ntasks:
            self._ended.append(program)
        elif self._terminated or program.cancelled:
            self._cancel(program)
        elif program.graph is not None:
            waiting, states = program.waiting, program.states
            for index in range(program.ntasks):
                # One that is skipped here, for a producer that failed, opens others further on.
                if not waiting[index] and states[index] == _WAITING:
                    self._open(program, index)
        self.dispatch.enqueue(program)
        if self._crew.gone:
            self._give_up_stuck(program)

    def _progressed(self, event: Progressed) -> None:
        chunk = self._chunk(event.chunk, event)
        if event.ended > chunk.size - chunk.done:
            raise InternalError(f"{event} does not fit the chunks on the workers: {self._chunks}")
        if not chunk.gang:  # what a job takes says nothing about tasks of one worker
            for kind, (count, seconds) in event.seconds.items():
                self._durations.observe(kind, count, seconds)
        for program, indices, offset in chunk.advance(event.ended):
            if program.retry and event.failures:
                self._settle_or_hold(chunk, program, indices, offset, event)
                continue
            self._commands.append(Settled(program, indices, offset, chunk.rank))
            if program.graph is None and not event.failures and not program.watchers:
                self._settle_all(program, indices)
            else:
                self._settle_each(chunk, program, indices, offset, event)
        self._crew.progressed(chunk.rank, self._now)
        if chunk.done == chunk.size:
            self.dispatch.end(chunk)

    def _tail_returned(self, event: TailReturned) -> None:
        if event.rank not in self._crew.workers:
            raise InternalError(f"{event} comes from rank {event.rank}, which is no worker here")
        for number, count in event.tails.items():
            chunk = self._chunks.get(number)
            if chunk is None or chunk.rank != event.rank or count > chunk.size - chunk.done:
                raise InternalError(f"{event} does not fit the chunks: {self._chunks}")
            self._take_back_tail(chunk, count)
            if chunk.done == chunk.size:
                self.dispatch.end(chunk)
        self._crew.answered(event.rank, self._now)

    def _suspended(self, event: Suspended) -> None:
        chunk = self._chunk(event.chunk, event)
        if event.tail != chunk.size - chunk.done - 1:
            raise InternalError(f"{event} does not fit the chunks on the workers: {self._chunks}")
        self._take_back_tail(chunk, event.tail)
        program, index = chunk.at(chunk.done)
        if program.kind(index) != _UNNUMBERED:
            self._durations.note_waiting(program.kind(index))
        self._crew.suspended(chunk)

    def _lost(self, event: Lost) -> None:
        self._crew.lost(event.rank)
        for program in list(self._programs.values()):
            self._give_up_stuck(program)

    def _give_up_stuck(self, program: Program) -> None:
        """Cancel what nobody can run any more."""
        stuck = self._crew.stuck(program.pins)
        if stuck is None or stuck:
            self._cancel_some(Cancelled([program], stuck))

    def _chunk(self, number: int, event: Event) -> Chunk:
        chunk = self._chunks.get(number)
        if chunk is None:
            raise InternalError(f"{event} does not fit the chunks on the workers: {self._chunks}")
        return chunk

    def _terminate(self) -> None:
        self._terminated = True
        self._interrupt({number: None for number in self._chunks})
        for program in self._programs.values():
            self._cancel(program)

    def _cancel_some(self, event: Cancelled) -> None:
        programs = [program for program in event.programs if program.pid in self._programs]
        for program in programs:
            if event.tasks is None:
                program.cancelled = True
            else:
                program.withdrawn = program.withdrawn.union(event.tasks)
        named, tasks = set(programs), event.tasks
        found: dict[int, list[int] | None] = {}
        for chunk in self._chunks.values():
            positions = [
                chunk.done + offset + at
                for program, indices, offset in chunk.span(chunk.done, chunk.size)
                if program in named
                for at, index in enumerate(indices)
                if tasks is None or index in tasks
            ]
            if positions:
                found[chunk.number] = positions
        self._interrupt(found)
        # All are marked before anybody hears of any: what was cancelled is not skipped.
        loose = [self._cancel(program, tasks) for program in programs]
        for program, indices in zip(programs, loose, strict=True):
            for index in indices:
                self._settle(program, index, State.CANCELLED, None)

    def _interrupt(self, positions: dict[int, list[int] | None]) -> None:
        """Have tasks of these chunks given up, each worker by one command."""
        by_rank: dict[int, dict[int, list[int] | None]] = {}
        for number, which in positions.items():
            by_rank.setdefault(self._chunks[number].rank, {})[number] = which
        self._commands += [Interrupted(rank, chunks) for rank, chunks in by_rank.items()]

    # States -----------------------------------------------------------------------------------

    def _settle_all(self, program: Program, indices: Sequence[int]) -> None:
        """Settle tasks that are done and that nobody waits for."""
        states = program.states
        if isinstance(indices, range):
            states[indices.start : indices.stop] = _DONE_BYTE * len(indices)
        else:
            for index in indices:
                states[index] = _DONE
        self._count_down(program, len(indices))

    def _settle_or_hold(
        self,
        chunk: Chunk,
        program: Program,
        indices: Sequence[int],
        offset: int,
        event: Progressed,
    ) -> None:
        """Settle tasks, but hold those that are tried again."""
        again, parts, event = sift(program, indices, offset, event, all_over=self._terminated)
        # Predecessors first: who is held waits for nobody, and must not be released by them.
        for part, at in parts:
            self._commands.append(Settled(program, part, at, chunk.rank))
            self._settle_each(chunk, program, part, at, event)
        for index, at, delay_s in again:
            program.states[index] = _WAITING
            program.tried.setdefault(index, []).append(chunk.rank)
            self._held.push(program, index, self._now + delay_s)
            self._commands.append(Retried(program, index, at, chunk.rank))

    def _end_holds(self) -> None:
        """Make tasks ready whose time has come, each kept for a worker that is new to it."""
        for program, index in self._held.pop_due(self._now):
            other = self._crew.other_than(program.tried[index])
            if other is not None:
                program.homes[index] = _AWAY_NBYTES, other
            if program.ready_at is None:
                program.ready_at = {}
            self._release(program, index)

    def _settle_each(
        self,
        chunk: Chunk,
        program: Program,
        indices: Sequence[int],
        offset: int,
        event: Progressed,
    ) -> None:
        for at, index in enumerate(indices, offset):
            failed = event.failures.get(at)
            if failed is None:
                nbytes = event.kept.get(at, 0)
                if nbytes >= _HEAVY_NBYTES:
                    self._prefer(program, index, nbytes, chunk.rank)
                if program.resident:
                    program.prefer_readers(index, chunk.rank)
                self._settle(program, index, State.DONE, None)
                continue
            root = None
            if failed.root >= 0:
                root = program.doomed.setdefault(index, chunk.at(failed.root))
            self._settle(program, index, failed.state, root)

    def _settle(
        self, program: Program, index: int, state: State, root: tuple[Program, int] | None
    ) -> None:
        """Give a task its final state and work through all that follows from it."""
        stack = [(program, index, state, root)]
        while stack:
            program, index, state, root = stack.pop()
            if index < program.ntasks and program.states[index] < FIRST_FINAL:
                self._count_down(program, 1)
            program.states[index] = state
            doom = None if state == _DONE else root or (program, index)
            graph = program.graph
            if graph is not None:
                waiting, succ = program.waiting, graph.succ
                for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
                    successor = succ[edge]
                    if doom is not None and graph.hazard[edge] & _RAW:
                        program.doomed.setdefault(successor, doom)
                    left = waiting[successor] - 1
                    waiting[successor] = left
                    if not left:
                        self._go_on(program, successor, stack)
            for other, reader in program.watchers.pop(index, ()) if program.watchers else ():
                if doom is not None:
                    other.doomed.setdefault(reader, doom)
                other.waiting[reader] -= 1
                if not other.waiting[reader]:
                    self._go_on(other, reader, stack)

    def _go_on(
        self,
        program: Program,
        index: int,
        stack: list[tuple[Program, int, State, tuple[Program, int] | None]],
    ) -> None:
        """Release, skip or settle a node whose last predecessor has become final."""
        if program.states[index] == _CANCELLED:
            stack.append((program, index, State.CANCELLED, None))
            return
        if program.states[index] != _WAITING:
            return  # it runs behind its predecessor in the same chunk
        doom = program.doomed.get(index)
        if doom is not None:
            if index < program.ntasks:
                self._commands.append(Unrun(program, index, State.SKIPPED, doom))
            stack.append((program, index, State.SKIPPED, doom))
        elif index < program.ntasks:
            self._release(program, index)
        else:
            stack.append((program, index, State.DONE, None))

    def _open(self, program: Program, index: int) -> None:
        """Make a task ready that waits for nobody, or skip it if it is doomed already."""
        doom = program.doomed.get(index)
        if doom is None:
            self._release(program, index)
        else:
            self._commands.append(Unrun(program, index, State.SKIPPED, doom))
            self._settle(program, index, State.SKIPPED, doom)

    def _release(self, program: Program, index: int) -> None:
        program.states[index] = _READY
        if program.ready_at is not None:
            program.ready_at[index] = self._now
        self.dispatch.release(program, index)

    def _take_back_tail(self, chunk: Chunk, count: int) -> None:
        for program, indices in chunk.cut_tail(count):
            for index in indices:
                self._take_back(program, index)

    def _take_back(self, program: Program, index: int) -> None:
        """Put a task that was sent but not started where it stood before."""
        program.states[index] = _WAITING
        if self._terminated or program.gives_up(index):
            self._cancel_one(program, index)
            if not (program.waiting and program.waiting[index]):
                self._settle(program, index, State.CANCELLED, None)
        elif not (program.waiting and program.waiting[index]):
            self._open(program, index)

    def _cancel(self, program: Program, tasks: frozenset[int] | None = None) -> list[int]:
        """Cancel those of these tasks, or of all, that are on no worker.

        Returns those that wait for nobody: who is ordered after them has to hear of it.
        """
        self.dispatch.drop(program, tasks)
        if self._held:
            self._held.drop(program, tasks)
        loose = []
        for index in range(program.ntasks) if tasks is None else sorted(tasks):
            if program.states[index] < _RUNNING:
                if not (program.waiting and program.waiting[index]):
                    loose.append(index)
                self._cancel_one(program, index)
        return loose

    def _cancel_one(self, program: Program, index: int) -> None:
        program.states[index] = State.CANCELLED
        self._count_down(program, 1)
        self._commands.append(Unrun(program, index, State.CANCELLED, None))

    def _count_down(self, program: Program, count: int) -> None:
        program.remaining -= count
        if not program.remaining:
            self._ended.append(program)

    def _prefer(self, program: Program, index: int, nbytes: int, rank: int) -> None:
        """Tie the readers of a big result to the rank that holds it."""
        graph = program.graph
        if graph is not None:
            for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
                if graph.hazard[edge] & _VALUE:
                    program.prefer(graph.succ[edge], nbytes, rank)
        for other, reader in program.watchers.get(index, ()):
            other.prefer(reader, nbytes, rank)

    # Invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants; O(tasks), for tests.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        self.dispatch.check(self._held.untils().keys())
