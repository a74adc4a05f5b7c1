"""What a rank gives back when it stops serving, beyond what its worker made at the start.

Things that are made when a task first needs them enter themselves here, so that a rank that never
needs them imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["at_end", "give_back"]

_entered: list[Callable[[], None]] = []


def at_end(close: Callable[[], None]) -> None:
    """Have `close` called once when this rank stops serving; local."""
    _entered.append(close)


def give_back() -> None:
    """Call what was entered, the last first; local."""
    while _entered:
        _entered.pop()()
