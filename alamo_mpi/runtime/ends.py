"""What a rank gives back when it stops serving, beyond what its worker made at the start.

Things that are made when a task first needs them enter themselves here, so that a rank that never
needs them imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["at_end", "failed", "fails", "give_back"]

_entered: list[Callable[[], None]] = []
_failed = False


def at_end(close: Callable[[], None]) -> None:
    """Have `close` called once when this rank stops serving; local."""
    _entered.append(close)


def fails() -> None:
    """Note that an error ends the program; local."""
    global _failed
    _failed = True


def failed() -> bool:
    """Tell whether an error ends the program, for what is called by `give_back`."""
    return _failed


def give_back() -> None:
    """Call what was entered, the last first; local."""
    global _failed
    while _entered:
        _entered.pop()()
    _failed = False
