"""Cutting a chunk: the tasks that one worker gets in one message.

A chunk is cut by estimated time.  From a ready task on it follows the *chain*: a successor whose
unfinished predecessors are all in the chunk can run nowhere else before the chunk reports, so
taking it along saves a round trip and loses no parallelism.  Side branches are taken only within
the (smaller) budget that keeps the other workers fed.  Order within a chunk is a topological
order, and a worker runs its chunks in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

__all__ = ["LONGEST_S", "MOST_TASKS", "SHORTEST_S", "Chunk"]

#: A chunk lasts about this long at most, chains included.
LONGEST_S = 10e-3
#: Below this a message costs more than it brings.
SHORTEST_S = 0.5e-3
#: Bounds the size of one message.
MOST_TASKS = 4096

_RAW = int(Hazard.RAW)
_WAITING = int(State.WAITING)
_RUNNING = int(State.RUNNING)
_WAITING = int(State.WAITING)
_RUNNING_BYTE = bytes([State.RUNNING])


class Chunk:
    """Tasks on their way to one worker, in the order in which it runs them.

    Attributes
    ----------
    parts : list of (Program, sequence of int)
        Runs of tasks of one program.
    needs : dict
        Position -> positions in this chunk whose failure makes that task skipped.
    expected : float
        Estimated seconds; infinite while a function was never measured.
    done : int
        Number of tasks, from the front, that have ended.
    loose : int
        Position of the last task that need not wait for the one right before it.
    gang : tuple of int
        Of a job, the workers that it takes, `rank` the first of them; else empty.
    """

    __slots__ = ("done", "expected", "gang", "loose", "needs", "number", "parts", "rank", "size")

    def __init__(self, number: int, rank: int) -> None:
        self.number = number
        self.rank = rank
        self.parts: list[tuple[Program, Sequence[int]]] = []
        self.needs: dict[int, tuple[int, ...]] = {}
        self.expected = 0.0
        self.size = 0
        self.done = 0
        self.loose = 0
        self.gang: tuple[int, ...] = ()

    @classmethod
    def of_job(cls, number: int, gang: tuple[int, ...], program: Program, index: int) -> Chunk:
        """Return the chunk of one job, which is alone in it: its first worker leads the others."""
        chunk = cls.alone(number, gang[0], program, index)
        chunk.gang = gang
        return chunk

    @classmethod
    def alone(cls, number: int, rank: int, program: Program, index: int) -> Chunk:
        """Return a chunk of one ready task, behind which nothing is sent ahead."""
        chunk = cls(number, rank)
        chunk.expected = float("inf")
        program.states[index] = _RUNNING
        chunk._append(program, [index])
        return chunk

    def take(self, program: Program, durations: Durations, budget_s: float) -> None:
        """Move ready tasks of `program` into this chunk, within `budget_s` seconds."""
        if program.graph is None and isinstance(program.kinds, int):
            self._take_alike(program, durations.of(program.kinds), budget_s)
        else:
            self._take_graph(program, durations, budget_s)

    def full(self, budget_s: float) -> bool:
        """Tell whether nothing more fits."""
        return self.size >= MOST_TASKS or (self.size > 0 and self.expected >= budget_s)

    def _take_alike(self, program: Program, each_s: float | None, budget_s: float) -> None:
        """Take independent tasks of one function: arithmetic instead of a walk."""
        if each_s is None:
            room = 0 if self.size else 1
            each_s = float("inf")
        else:
            room = max(int((budget_s - self.expected) / each_s), 0 if self.size else 1)
        room = min(room, MOST_TASKS - self.size)
        ready, states = program.ready, program.states
        fresh = ready.pop_range(room)
        returned: list[int] = []  # tasks that a worker gave back are held one by one
        while not fresh and ready.count and len(returned) < room:
            if returned and not ready.has_for(self.rank):
                break  # the rest is kept for others
            index = ready.pop(self.rank)
            states[index] = _RUNNING
            returned.append(index)
            fresh = ready.pop_range(room - len(returned))
        states[fresh.start : fresh.stop] = _RUNNING_BYTE * len(fresh)
        for indices in (returned, fresh):
            if indices:
                self._append(program, indices)
                self.expected += each_s * len(indices)
                self.loose = self.size - 1

    def _take_graph(self, program: Program, durations: Durations, budget_s: float) -> None:
        indices: list[int] = []
        start = self.size
        walk = _Walk(program, durations, start)
        ready = program.ready
        side: list[int] = []
        while start + len(indices) < MOST_TASKS:
            if walk.chain is not None and self.expected < LONGEST_S:
                index = walk.chain
            elif indices and self.expected >= budget_s:
                break
            elif side:
                index = side.pop()
            elif not self.size + len(indices) or (
                self.expected < budget_s and ready.has_for(self.rank)
            ):
                index = ready.pop(self.rank)
            else:
                break
            each_s = walk.seconds(index)
            if each_s is None and (indices or self.size):
                # Never measured: it travels alone, so that the next chunk can be cut by time.
                if program.waiting and program.waiting[index]:
                    walk.chain = None
                    continue
                ready.push(index, program.home(index))
                break
            if index != walk.chain:
                self.loose = start + len(indices)
            indices.append(index)
            self.expected += float("inf") if each_s is None else each_s
            walk.enter(index, side, self.needs)
        if indices:
            self._append(program, indices)

    def _append(self, program: Program, indices: Sequence[int]) -> None:
        self.parts.append((program, indices))
        self.size += len(indices)

    def advance(self, count: int) -> Iterator[tuple[Program, Sequence[int], int]]:
        """Mark the next `count` tasks as ended; yield them as (program, tasks, offset).

        The offset is that of the first of these tasks from the first of this call.
        """
        first, last = self.done, self.done + count
        self.done = last
        yield from self.span(first, last)

    def span(self, first: int, last: int) -> Iterator[tuple[Program, Sequence[int], int]]:
        """Yield the tasks at positions `first` to `last` as (program, tasks, offset)."""
        base = 0
        for program, indices in self.parts:
            lo, hi = max(first - base, 0), min(last - base, len(indices))
            if lo < hi:
                yield program, indices[lo:hi], base + lo - first
            base += len(indices)
            if base >= last:
                return

    def cut_tail(self, count: int) -> list[tuple[Program, Sequence[int]]]:
        """Remove the last `count` tasks, which the worker gave back, and return them."""
        tail = [(p, indices) for p, indices, _ in self.span(self.size - count, self.size)]
        keep = [(p, indices) for p, indices, _ in self.span(0, self.size - count)]
        self.parts = keep
        self.expected *= (self.size - count) / self.size
        self.size -= count
        return tail

    def at(self, position: int) -> tuple[Program, int]:
        """Return the task at a position."""
        for program, indices, _ in self.span(position, position + 1):
            return program, indices[0]
        raise IndexError(position)


class _Walk:
    """The walk through one graph while a chunk is cut: who became runnable inside it."""

    __slots__ = ("_durations", "_met", "_position", "_program", "_raw", "chain")

    def __init__(self, program: Program, durations: Durations, position: int) -> None:
        self._program = program
        self._durations = durations
        self._position = position
        #: Unfinished predecessors of a task that are not inside the chunk.
        self._met: dict[int, int] = {}
        #: Positions of those among them that it reads from.
        self._raw: dict[int, list[int]] = {}
        #: The successor to go on with.
        self.chain: int | None = None

    def seconds(self, index: int) -> float | None:
        return self._durations.of(self._program.kind(index))

    def enter(self, index: int, side: list[int], needs: dict[int, tuple[int, ...]]) -> None:
        """Take `index` along; sort its newly runnable successors into `chain` and `side`."""
        program, position = self._program, self._position
        self._position = position + 1
        program.states[index] = _RUNNING
        raw = self._raw.pop(index, None)
        if raw:
            needs[position] = tuple(raw)
        self.chain = None
        graph = program.graph
        if graph is None or index in program.retry:  # tried again, it is not through here
            return
        met, waiting, succ = self._met, program.waiting, graph.succ
        for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
            successor = succ[edge]
            if successor >= program.ntasks:
                continue  # joins are settled by the scheduler
            if graph.hazard[edge] & _RAW:
                if successor in self._raw:
                    self._raw[successor].append(position)
                else:
                    self._raw[successor] = [position]
            left = met.get(successor) or waiting[successor]
            met[successor] = left - 1
            if (
                left == 1
                and program.states[successor] == _WAITING  # not cancelled
                and not (successor in program.doomed or program.stands_alone(successor))
            ):
                if self.chain is None:
                    self.chain = successor
                else:
                    side.append(successor)
