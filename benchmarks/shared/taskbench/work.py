"""The task functions, one definition for every system, so that all of them run the same work."""

from __future__ import annotations

import os
import time
from typing import Any

__all__ = ["first_element", "nap", "nothing", "successor", "who"]


def nothing(number: int) -> int:
    """Return the argument: the cheapest task whose result can still be checked."""
    return number


def nap(seconds: float) -> float:
    """Sleep, using no processor, and return the length of the sleep."""
    time.sleep(seconds)
    return seconds


def successor(number: int) -> int:
    """Return ``number + 1``; one link of a chain."""
    return number + 1


def first_element(array: Any, number: int) -> float:
    """Touch one element of a large array that many tasks share."""
    return float(array[0]) + number


def who(seconds: float) -> tuple[str, int]:
    """Return (host, process id) after a sleep long enough for other workers to take a task."""
    time.sleep(seconds)
    return os.uname().nodename, os.getpid()
