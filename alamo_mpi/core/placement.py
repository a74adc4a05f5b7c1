"""Which ready task a worker gets next: longest path first, and near its data where known.

`ReadySet` holds the ready tasks of one program.  A task with the longer way to an exit of the
graph comes first (list scheduling by bottom level); among equals the order of the user's list
holds.  A task whose big input lies on one rank is kept for that rank: another one gets it only
when it has nothing to do and nothing else is ready.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Container, Sequence

__all__ = ["ReadySet"]


#: The heap of a set that nothing was pushed to; never changed.
_NO_HEAP: list[int] = []


class ReadySet:
    """Ready tasks of one program, by priority and by the rank that holds their data.

    Parameters
    ----------
    ntasks
        Number of tasks of the program.
    levels
        Bottom level of each node; None when all are equal.
    fresh
        Whether all tasks are ready from the start, as without any dependency; they are then
        held as a range, so that a million of them cost nothing.
    """

    __slots__ = ("_cursor", "_heap", "_homes", "_levels", "_ntasks", "_top", "count")

    def __init__(
        self, ntasks: int, levels: Sequence[int] | None = None, *, fresh: bool = False
    ) -> None:
        self._ntasks = ntasks
        self._levels = levels
        self._top = max(levels, default=0) if levels is not None else 0
        #: Tasks from here on are ready and in no heap.
        self._cursor = 0 if fresh else ntasks
        self._heap = _NO_HEAP
        self._homes: dict[int, list[int]] = {}
        #: Number of ready tasks.
        self.count = ntasks if fresh else 0

    def _key(self, index: int) -> int:
        """Priority and index in one int: cheaper to order than a tuple."""
        if self._levels is None:
            return index
        return (self._top - self._levels[index]) * self._ntasks + index

    def push(self, index: int, home: int | None = None) -> None:
        """Add a task; `home` is the rank that holds most of its input, if any does."""
        if home is not None:
            heap = self._homes.setdefault(home, [])
        else:
            if self._heap is _NO_HEAP:
                self._heap = []
            heap = self._heap
        heapq.heappush(heap, self._key(index))
        self.count += 1

    def pop(self, rank: int) -> int:
        """Remove and return the best task for `rank`; the set must not be empty.  O(log n)."""
        self.count -= 1
        own = self._homes.get(rank)
        if own:
            return self._drop(rank, own)
        if self._heap:
            return heapq.heappop(self._heap) % self._ntasks
        if self._cursor < self._ntasks:
            self._cursor += 1
            return self._cursor - 1
        # Only tasks kept for others are left: an idle worker is worse than a moved array.
        return self._drop(*self._fullest())

    def peek(self, rank: int) -> int:
        """Return what `pop` would, and leave it there.  O(1)."""
        heap = self._homes.get(rank) or self._heap
        if not heap:
            if self._cursor < self._ntasks:
                return self._cursor
            _, heap = self._fullest()
        return heap[0] % self._ntasks

    def has_for(self, rank: int) -> bool:
        """Tell whether `pop` would return a task that is not kept for another rank.  O(1)."""
        return bool(self._heap) or self._cursor < self._ntasks or rank in self._homes

    def home_among(self, ranks: Container[int]) -> int | None:
        """Return one of these ranks for which a task is kept, if any is.  O(number of ranks)."""
        for rank in self._homes:
            if rank in ranks:
                return rank
        return None

    def pop_range(self, most: int) -> range:
        """Remove and return up to `most` consecutive tasks that have no preference.  O(1)."""
        if self._heap or self._homes:
            return range(0)
        first = self._cursor
        self._cursor = min(first + most, self._ntasks)
        self.count -= self._cursor - first
        return range(first, self._cursor)

    def drain(self) -> list[int]:
        """Remove and return all tasks."""
        rest = list(range(self._cursor, self._ntasks))
        self._cursor = self._ntasks
        for heap in (self._heap, *self._homes.values()):
            rest.extend(key % self._ntasks for key in heap)
            heap.clear()
        self._homes.clear()
        self.count = 0
        return rest

    def discard(self, tasks: Collection[int]) -> None:
        """Remove those of these tasks that are here.  O(number of ready tasks)."""
        if any(index >= self._cursor for index in tasks):
            fresh = [self._key(index) for index in range(self._cursor, self._ntasks)]
            self._heap = self._heap + fresh
            self._cursor = self._ntasks
        left = 0
        for heap in (self._heap, *self._homes.values()):
            heap[:] = [key for key in heap if key % self._ntasks not in tasks]
            heapq.heapify(heap)
            left += len(heap)
        self._homes = {home: heap for home, heap in self._homes.items() if heap}
        self.count = left + self._ntasks - self._cursor

    def _fullest(self) -> tuple[int, list[int]]:
        """Return the rank for which most tasks are kept, and these."""
        return max(self._homes.items(), key=lambda item: len(item[1]))

    def _drop(self, home: int, heap: list[int]) -> int:
        index = heapq.heappop(heap) % self._ntasks
        if not heap:
            del self._homes[home]
        return index
