"""How long tasks take: one running estimate per function, so that chunks can be cut by time."""

from __future__ import annotations

__all__ = ["Durations"]

#: Weight of a new measurement; a few chunks are enough to forget a slow first run.
_WEIGHT = 0.5


class Durations:
    """Seconds per task of each function, as an exponentially weighted mean.

    Cost: O(1) per measurement, which covers all tasks of one function in one message.
    """

    __slots__ = ("_seconds", "_waiting")

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._waiting: set[int] = set()

    def observe(self, kind: int, count: int, seconds: float) -> None:
        """Take in that `count` tasks of function `kind` took `seconds` in all."""
        mean = max(seconds / count, 1e-7)
        old = self._seconds.get(kind)
        self._seconds[kind] = mean if old is None else old + _WEIGHT * (mean - old)

    def of(self, kind: int) -> float | None:
        """Return the estimate for one task of function `kind`.

        None before the first one ran, and for one that waits: such tasks travel alone, as what
        is behind them would be sent and given back again and again.
        """
        return None if kind in self._waiting else self._seconds.get(kind)

    def note_waiting(self, kind: int) -> None:
        """Note that a task of this function has waited for others."""
        self._waiting.add(kind)
