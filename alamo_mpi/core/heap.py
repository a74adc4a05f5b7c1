"""Free memory of one arena, as one manager sees it: pure bookkeeping in units, no window.

A `Heap` holds free ranges, merged with their neighbours.  An
`Arena` adds the freed blocks that are parked: whole and in order, so that equal sizes are found at
once, and late readers find them untouched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

__all__ = ["Arena", "Heap"]


def _bin(units: int) -> int:
    """Index of the bin of a free range: exact below 16 units, then 8 bins an octave.

    >>> [_bin(n) for n in (1, 15, 16, 17, 18, 31, 32)]
    [1, 15, 16, 16, 17, 23, 24]
    """
    if units < 16:
        return units
    exponent = units.bit_length() - 1
    return 16 + (exponent - 4) * 8 + ((units >> (exponent - 3)) & 7)


class Heap:
    """Free ranges of one arena, merged with their neighbours, in bins by size.

    Attributes
    ----------
    managed, free : int
        Units ever added, and units that are free now.
    """

    def __init__(self) -> None:
        self.managed = 0
        self.free = 0
        self._size: dict[int, int] = {}  #: start of each free range -> units
        self._start: dict[int, int] = {}  #: end of each free range -> start
        self._bins: dict[int, dict[int, None]] = {}  #: bin -> starts, oldest first
        self._mask = 0  #: bit i is set if bin i is not empty

    def add(self, start: int, units: int) -> None:
        """Take over a leased extent."""
        self.managed += units
        self.give(start, units)

    def give(self, start: int, units: int) -> None:
        """Put a range back."""
        self.free += units
        before = self._start.get(start)
        if before is not None:
            size = self._remove(before)
            start, units = before, units + size
        if start + units in self._size:
            units += self._remove(start + units)
        self._insert(start, units)

    def take(self, units: int) -> int | None:
        """Return the start of a range, or None; a good fit, the oldest of its bin."""
        start = self._fit(units)
        if start is None:
            return None
        size = self._remove(start)
        if size > units:
            self._insert(start + units, size - units)
        self.free -= units
        return start

    def size_ending_at(self, end: int) -> int:
        """Return the units of the free range that ends there, 0 if there is none."""
        start = self._start.get(end)
        return 0 if start is None else end - start

    def largest(self) -> int:
        """Return the units of the largest free range (of its bin, the largest member)."""
        if not self._mask:
            return 0
        return max(self._size[start] for start in self._bins[self._mask.bit_length() - 1])

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Iterate over (start, units) of the free ranges."""
        yield from self._size.items()

    def _fit(self, units: int) -> int | None:
        index = _bin(units)
        if index < 16 and self._mask >> index & 1:
            return next(iter(self._bins[index]))
        above = self._mask >> (index + 1)
        if above:
            # Any range of a higher bin is long enough.
            index += (above & -above).bit_length()
            return next(iter(self._bins[index]))
        for start in self._bins.get(index, ()):
            if self._size[start] >= units:
                return start
        return None

    def _insert(self, start: int, units: int) -> None:
        self._size[start] = units
        self._start[start + units] = start
        index = _bin(units)
        self._bins.setdefault(index, {})[start] = None
        self._mask |= 1 << index

    def _remove(self, start: int) -> int:
        units = self._size.pop(start)
        del self._start[start + units]
        index = _bin(units)
        members = self._bins[index]
        del members[start]
        if not members:
            self._mask &= ~(1 << index)
        return units


class Arena:
    """What this manager has of one arena: its heap, and what is parked above it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.heap = Heap()
        self.small: dict[int, deque[int]] = {}
        self.large: deque[tuple[int, int]] = deque()
        self.pages: deque[int] = deque()  #: freed index pages; page memory stays page memory
        self.parked = 0

    def unpark(self) -> Iterator[tuple[int, int]]:
        """Empty the parking queues."""
        for units, starts in self.small.items():
            yield from ((start, units) for start in starts)
        yield from self.large
        self.small.clear()
        self.large.clear()
        self.parked = 0
