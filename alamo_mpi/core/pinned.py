"""Tasks that only some workers may run: where a policy names a host, say.

1. Such a task is ready in this queue and not in its program's ready set, and is sent alone: nothing
   that is cut for any worker has to look at it.
2. An idle worker gets what only it and its like may run before what everybody may, unless that
   belongs to a program that was submitted earlier.
3. While such tasks wait, the workers that may run them get nothing ahead, and so become idle.
"""

from __future__ import annotations

import heapq
from collections.abc import Container

from alamo_mpi.core.invariants import expect
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

__all__ = ["PinnedQueue"]


class PinnedQueue:
    """The ready tasks of one scheduler that only some workers may run, first come first served."""

    def __init__(self) -> None:
        #: All and only the sets of workers for which a task waits.
        self._heaps: dict[frozenset[int], list[tuple[int, int, int, Program]]] = {}
        self._pushed = 0

    def __bool__(self) -> bool:
        """Whether a task waits."""
        return bool(self._heaps)

    def push(self, program: Program, index: int) -> None:
        """Add a task that has become ready.  O(log n)."""
        self._pushed += 1
        heap = self._heaps.setdefault(program.pins[index], [])
        heapq.heappush(heap, (program.order, self._pushed, index, program))

    def pop(self, rank: int, latest: int | None) -> tuple[Program, int] | None:
        """Remove and return the first task that a worker may run.  O(number of sets).

        Parameters
        ----------
        rank
            The worker.
        latest
            Place (`Program.order`) of the last program that counts; None for all.
        """
        best = None
        for ranks, heap in self._heaps.items():
            if rank in ranks and (best is None or heap[0] < self._heaps[best][0]):
                best = ranks
        if best is None:
            return None
        heap = self._heaps[best]
        if latest is not None and heap[0][0] > latest:
            return None
        _, _, index, program = heapq.heappop(heap)
        if not heap:
            del self._heaps[best]
        return program, index

    def wanted(self) -> Container[int]:
        """Return the workers for which a task waits."""
        return frozenset().union(*self._heaps)

    def drop(self, program: Program, tasks: frozenset[int] | None = None) -> None:
        """Remove the tasks of a program, or these of it.  O(n)."""
        for ranks in list(self._heaps):
            rest = [
                entry
                for entry in self._heaps[ranks]
                if entry[3] is not program or (tasks is not None and entry[2] not in tasks)
            ]
            heapq.heapify(rest)
            if rest:
                self._heaps[ranks] = rest
            else:
                del self._heaps[ranks]

    def waiting(self) -> dict[int, int]:
        """Return how many tasks of each program wait."""
        count: dict[int, int] = {}
        for heap in self._heaps.values():
            for _, _, _, program in heap:
                count[program.pid] = count.get(program.pid, 0) + 1
        return count

    def check(self, workers: Container[int]) -> None:
        """Assert the invariants.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        for ranks, heap in self._heaps.items():
            expect(any(rank in workers for rank in ranks), f"somebody may run tasks of {ranks}")
            for _, _, index, program in heap:
                ready = program.states[index] == State.READY
                expect(ready, f"task {index} waits ready", program)
