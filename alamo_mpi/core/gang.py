"""Jobs that wait for several workers at once: gang scheduling, the waiting half.

1. Jobs start in the order of their programs (`Program.order`) and, inside one, in the order in
   which they became ready.  None overtakes the first: the narrow ones would else starve the wide.
2. While a job waits, workers that become idle are held back for it, and none gets a chunk ahead:
   it starts as soon as as many workers as it needs have ended what they had.
3. A worker that comes from a job is not held back while tasks wait that need one worker only: it
   runs one chunk of them first.  So a row of jobs does not starve those either.
4. A job that is to be spread waits until there is an idle worker on as many hosts as can be, and
   takes one of each in turn; the others take neighbours where there is a choice.

Who the idle workers are, and who is taken by a job, `core.crew` knows.
"""

from __future__ import annotations

import heapq

from alamo_mpi.core.invariants import expect
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

__all__ = ["GangQueue"]


class GangQueue:
    """The ready jobs of one scheduler, first come first served."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Program]] = []
        self._pushed = 0

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self._heap)

    @property
    def width(self) -> int:
        """Number of workers that the first job needs; there must be one."""
        _, _, index, program = self._heap[0]
        return program.widths[index]

    @property
    def allowed(self) -> frozenset[int] | None:
        """The workers that the first job may have, None for all; there must be one."""
        _, _, index, program = self._heap[0]
        return program.pins.get(index)

    @property
    def hosts(self) -> tuple[frozenset[int], ...]:
        """The hosts over which the first job is to be spread, if it is; there must be one."""
        _, _, index, program = self._heap[0]
        return program.spreads.get(index, ())

    @property
    def first(self) -> tuple[Program, int]:
        """The first job; there must be one."""
        _, _, index, program = self._heap[0]
        return program, index

    def push(self, program: Program, index: int) -> None:
        """Add a job that has become ready.  O(log n)."""
        self._pushed += 1
        heapq.heappush(self._heap, (program.order, self._pushed, index, program))

    def pop(self) -> tuple[Program, int]:
        """Remove and return the first job; there must be one.  O(log n)."""
        _, _, index, program = heapq.heappop(self._heap)
        return program, index

    def drop(self, program: Program, tasks: frozenset[int] | None = None) -> None:
        """Remove the jobs of a program, or those among these tasks of it.  O(n)."""
        self._heap = [
            entry
            for entry in self._heap
            if entry[3] is not program or (tasks is not None and entry[2] not in tasks)
        ]
        heapq.heapify(self._heap)

    def waiting(self) -> dict[int, int]:
        """Return how many jobs of each program wait."""
        count: dict[int, int] = {}
        for _, _, _, program in self._heap:
            count[program.pid] = count.get(program.pid, 0) + 1
        return count

    def check(self, nworkers: int) -> None:
        """Assert the invariants.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        for _, _, index, program in self._heap:
            expect(program.states[index] == State.READY, f"job {index} waits ready", program)
            expect(program.widths[index] <= nworkers, f"job {index} can ever start", program)
