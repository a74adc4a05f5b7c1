"""The scheduler of one batch: a state machine without I/O, clock or threads.

Events go in through one door, `Scheduler.handle`, and commands come out; the caller performs
them in order.  The rules:

1. A task becomes READY when its last predecessor reaches a final state, or WAITING -> RUNNING
   inside a chunk that holds all its unfinished predecessors.
2. A failed, skipped or cancelled task *dooms* its RAW successors.  A doomed task is settled as
   SKIPPED only when its last predecessor is final, so that whoever is ordered after it (WAR, WAW)
   stays ordered after its predecessors too.
3. Join nodes pass completion and doom on at no cost; they are settled here and never sent.
4. Programs are served in the order of submission; within one, by `placement`.
5. A worker has at most two chunks: the one it runs and, where tasks are short, the next.
6. When a worker is idle and nothing is ready, the worker that is most behind gives back what it
   has not started, and that is cut anew: a wrong estimate costs one long task, not a chunk.

``Scheduler.check`` asserts the invariants; the tests call it after every event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from alamo_mpi.core.chunk import LONGEST_S, SHORTEST_S, Chunk
from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.events import (
    Command,
    Event,
    Finished,
    Interrupted,
    Progressed,
    RecallTail,
    SendChunk,
    Settled,
    Submitted,
    TailReturned,
    Terminated,
    Unrun,
)
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.invariants import check_programs, check_workers
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import FIRST_FINAL, State
from alamo_mpi.errors import InternalError

__all__ = ["Scheduler"]

_RAW = int(Hazard.RAW)
_WAITING = int(State.WAITING)
_READY = int(State.READY)
_VALUE = int(Hazard.VALUE)
_RUNNING = int(State.RUNNING)
_DONE = int(State.DONE)
_DONE_BYTE = bytes([State.DONE])

#: A task shorter than this may stand behind another one though a worker is about to be idle.
_TINY_S = 1e-3
#: A worker that says nothing for this long is asked for what it has not started.
_LATE_S = 2e-3
#: Results smaller than this do not tie their readers to the worker that holds them.
_HEAVY_NBYTES = 1 << 16


class _Worker:
    """What the scheduler knows of one worker."""

    __slots__ = ("chunks", "patience_s", "rank", "recalled", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        #: Chunks sent and not ended, in the order in which the worker runs them.
        self.chunks: list[Chunk] = []
        #: When it last spoke, or got work after it had none.
        self.since = 0.0
        #: How long after that it is asked for its rest.  Doubled each time it gave back all it
        #: had, until a task of its own has ended: where messages are slower than `_LATE_S`, two
        #: workers would else pass a chunk to and fro and never begin it.
        self.patience_s = _LATE_S
        #: Whether a recall is on its way.
        self.recalled = False


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
        self._workers = {rank: _Worker(rank) for rank in ranks}
        self._durations = durations if durations is not None else Durations()
        #: Programs with unfinished tasks, by number.
        self._programs: dict[int, Program] = {}
        #: Heap of the numbers of programs that have ready tasks.
        self._queue: list[int] = []
        #: Number of ready tasks in all programs.
        self._nready = 0
        #: Chunks on workers, by number.
        self._chunks: dict[int, Chunk] = {}
        self._next_chunk = 0
        #: Workers without a chunk, and with one: who gets the next.
        self._idle = dict(self._workers)
        self._half: dict[int, _Worker] = {}
        self._now = 0.0
        #: No worker is late before this: saves the look at all of them after most events.
        self._late_at = math.inf
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
        elif isinstance(event, Terminated):
            self._terminate()
        for program in self._ended:
            del self._programs[program.pid]
            self._commands.append(Finished(program))
        self._ended.clear()
        self._fill()
        if self._now >= self._late_at and self._idle and not self._nready:
            self._recall()
        commands, self._commands = self._commands, []
        return commands

    @property
    def unfinished(self) -> int:
        """Number of tasks in no final state."""
        return sum(program.remaining for program in self._programs.values())

    @property
    def running(self) -> int:
        """Number of answers that workers owe: chunks under way, and recalls."""
        return len(self._chunks) + sum(worker.recalled for worker in self._workers.values())

    # Events -----------------------------------------------------------------------------------

    def _submitted(self, program: Program) -> None:
        self._programs[program.pid] = program
        self._nready += program.ready.count
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
        elif self._terminated:
            self._cancel(program)
        elif program.graph is not None:
            waiting, states = program.waiting, program.states
            for index in range(program.ntasks):
                # One that is skipped here, for a producer that failed, opens others further on.
                if not waiting[index] and states[index] == _WAITING:
                    self._open(program, index)
        self._enqueue(program)

    def _progressed(self, event: Progressed) -> None:
        chunk = self._chunks.get(event.chunk)
        if chunk is None or event.ended > chunk.size - chunk.done:
            raise InternalError(f"{event} does not fit the chunks on the workers: {self._chunks}")
        for kind, (count, seconds) in event.seconds.items():
            self._durations.observe(kind, count, seconds)
        for program, indices, offset in chunk.advance(event.ended):
            self._commands.append(Settled(program, indices, offset, chunk.rank))
            if program.graph is None and not event.failures and not program.watchers:
                self._settle_all(program, indices)
            else:
                self._settle_each(chunk, program, indices, offset, event)
        worker = self._workers[chunk.rank]
        worker.since = self._now
        worker.patience_s = _LATE_S
        if chunk.done == chunk.size:
            self._end_chunk(worker, chunk)

    def _tail_returned(self, event: TailReturned) -> None:
        worker = self._workers[event.rank]
        worker.recalled = False
        # It has spoken: asked again at once, it would answer the same until its task ends.
        worker.since = self._now
        for number, count in event.tails.items():
            chunk = self._chunks.get(number)
            if chunk is None or count > chunk.size - chunk.done:
                raise InternalError(f"{event} does not fit the chunks: {self._chunks}")
            for program, indices in chunk.cut_tail(count):
                for index in indices:
                    self._take_back(program, index)
            if chunk.done == chunk.size:
                self._end_chunk(worker, chunk)
        if not worker.chunks:
            worker.patience_s *= 2
        self._expect_from(worker)

    def _terminate(self) -> None:
        self._terminated = True
        for worker in self._workers.values():
            if worker.chunks:
                numbers = [chunk.number for chunk in worker.chunks]
                self._commands.append(Interrupted(worker.rank, numbers))
        for program in self._programs.values():
            self._cancel(program)

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
                if event.kept.get(at, 0) >= _HEAVY_NBYTES:
                    self._prefer(program, index, chunk.rank)
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
            program.states[index] = state
            doom = None if state == _DONE else root or (program, index)
            if index < program.ntasks:
                self._count_down(program, 1)
            graph = program.graph
            if graph is not None:
                for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
                    carried = doom if graph.hazard[edge] & _RAW else None
                    self._tell(program, graph.succ[edge], carried, stack)
            for other, successor in program.watchers.pop(index, ()):
                self._tell(other, successor, doom, stack)

    def _tell(
        self,
        program: Program,
        index: int,
        doom: tuple[Program, int] | None,
        stack: list[tuple[Program, int, State, tuple[Program, int] | None]],
    ) -> None:
        """Tell a node that one of its predecessors is final, and with what doom if it failed."""
        if doom is not None:
            program.doomed.setdefault(index, doom)
        program.waiting[index] -= 1
        if program.waiting[index] or program.states[index] != _WAITING:
            return  # others are unfinished, or it runs behind its predecessor in the same chunk
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
        program.ready.push(index, program.homes.get(index))
        self._nready += 1
        self._enqueue(program)

    def _take_back(self, program: Program, index: int) -> None:
        """Put a task that was sent but not started where it stood before."""
        program.states[index] = _WAITING
        if self._terminated:
            self._cancel_one(program, index)
        elif not (program.waiting and program.waiting[index]):
            self._open(program, index)

    def _cancel(self, program: Program) -> None:
        """Cancel every task that is on no worker."""
        self._nready -= program.ready.count
        program.ready.drain()
        for index in range(program.ntasks):
            if program.states[index] < _RUNNING:
                self._cancel_one(program, index)

    def _cancel_one(self, program: Program, index: int) -> None:
        program.states[index] = State.CANCELLED
        self._count_down(program, 1)
        self._commands.append(Unrun(program, index, State.CANCELLED, None))

    def _count_down(self, program: Program, count: int) -> None:
        program.remaining -= count
        if not program.remaining:
            self._ended.append(program)

    def _prefer(self, program: Program, index: int, rank: int) -> None:
        """Tie the readers of a big result to the rank that holds it."""
        graph = program.graph
        if graph is None:
            return
        for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
            if graph.hazard[edge] & _VALUE:
                program.homes[graph.succ[edge]] = rank

    # Workers ----------------------------------------------------------------------------------

    def _enqueue(self, program: Program) -> None:
        if program.ready.count and not program.queued:
            program.queued = True
            heapq.heappush(self._queue, program.pid)

    def _head(self) -> Program | None:
        """Return the first program with ready tasks."""
        while self._queue:
            program = self._programs.get(self._queue[0])
            if program is not None and program.ready.count:
                return program
            heapq.heappop(self._queue)
            if program is not None:
                program.queued = False
        return None

    def _fill(self) -> None:
        """Give chunks to workers while there are both."""
        while self._nready:
            worker = self._next_worker()
            if worker is None:
                return
            chunk = self._cut(worker.rank)
            if not worker.chunks:
                worker.since = self._now
                del self._idle[worker.rank]
                self._half[worker.rank] = worker
            else:
                del self._half[worker.rank]
            worker.chunks.append(chunk)
            self._expect_from(worker)
            self._chunks[chunk.number] = chunk
            self._commands.append(SendChunk(chunk))

    def _next_worker(self) -> _Worker | None:
        """Return an idle worker, else one whose present chunk is short enough to add another."""
        for worker in self._idle.values():
            return worker
        for worker in self._half.values():
            chunk = worker.chunks[0]
            if chunk.expected > 2 * LONGEST_S or worker.recalled:
                continue
            # Of long tasks the last few are left for whoever is idle first.
            if self._nready > len(self._workers) or chunk.expected <= _TINY_S * chunk.size:
                return worker
        return None

    def _cut(self, rank: int) -> Chunk:
        """Cut the next chunk for a worker; some task must be ready."""
        chunk = Chunk(self._next_chunk, rank)
        self._next_chunk += 1
        budget = SHORTEST_S
        program = self._head()
        if program is not None:
            each_s = self._durations.of(program.kind(0))
            if each_s is not None:
                share = each_s * self._nready / (2 * len(self._workers))
                budget = min(max(share, SHORTEST_S), LONGEST_S)
        while program is not None and not chunk.full(budget):
            before, size = program.ready.count, chunk.size
            chunk.take(program, self._durations, budget)
            self._nready -= before - program.ready.count
            if program.ready.count or chunk.size == size:
                break
            program = self._head()
        return chunk

    def _end_chunk(self, worker: _Worker, chunk: Chunk) -> None:
        worker.chunks.remove(chunk)
        del self._chunks[chunk.number]
        if worker.chunks:
            self._half[worker.rank] = worker
        else:
            self._half.pop(worker.rank, None)
            self._idle[worker.rank] = worker

    def _expect_from(self, worker: _Worker) -> None:
        """Note by when a worker should have spoken."""
        self._late_at = min(self._late_at, worker.since + worker.patience_s)

    def _recall(self) -> None:
        """Ask the worker with the most left among those that are late, as another is idle."""
        self._late_at = math.inf
        if self._terminated:
            return  # what is not started was asked back already
        late, most = None, 0
        for worker in self._workers.values():
            waiting = sum(chunk.size - chunk.done for chunk in worker.chunks) - 1
            if waiting <= 0 or worker.recalled:
                continue
            self._expect_from(worker)
            if waiting > most and self._now >= worker.since + worker.patience_s:
                late, most = worker, waiting
        if late is not None:
            late.recalled = True
            self._commands.append(RecallTail(late.rank))

    # Invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants; O(tasks), for tests.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        check_programs(self._programs, self._chunks, self._nready)
        check_workers(self._workers, self._idle, self._half)
