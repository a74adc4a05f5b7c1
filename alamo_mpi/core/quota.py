"""A bound on the memory of one dictionary, shared out among the managers.

What is left of the bound is one word in the dictionary's root block, changed by sums only.  A
manager takes from it in portions, spends them on its own blocks, and returns what it has too much
of.  So the word is touched once in many writes, the bound is never exceeded, and at most two
portions a manager, together 1/32 of the bound, lie idle where another could not have them.
"""

from __future__ import annotations

from .window import Window

__all__ = ["Quota"]

_PORTIONS = 64


class Quota:
    """One manager's part of a dictionary's bound; in units.

    Parameters
    ----------
    window : Window
    rank, offset : int
        Where the word is that holds what is left.
    total : int
        The bound.
    """

    def __init__(self, window: Window, rank: int, offset: int, total: int) -> None:
        self.total = total
        self._window = window
        self._rank = rank
        self._offset = offset
        self._portion = max(1, total // (_PORTIONS * window.size))
        self._spare = 0

    def take(self, units: int) -> bool:
        """Spend some; False if there is too little."""
        missing = units - self._spare
        if missing > 0:
            for amount in (missing + self._portion, missing):
                if self._fetch(amount):
                    self._spare += amount
                    break
            else:
                return False
        self._spare -= units
        return True

    def give(self, units: int) -> None:
        """Earn back what a freed block had."""
        self._spare += units
        if self._spare > 2 * self._portion:
            surplus = self._spare - self._portion
            self._spare -= surplus
            self._window.add(self._rank, self._offset, surplus)

    def _fetch(self, amount: int) -> bool:
        # Others may see too little for a moment when this takes too much: they are refused what
        # would have been the last units, which is as if this had come first.
        left = self._window.add(self._rank, self._offset, -amount)
        if amount <= left < 1 << 63:
            return True
        self._window.add(self._rank, self._offset, amount)
        return False
