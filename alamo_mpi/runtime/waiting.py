"""Waiting for what others do in the memory pool: the one place where long waits begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from alamo_mpi.runtime.backoff import Backoff, longest_nap_s

if TYPE_CHECKING:
    from alamo_mpi.mpi.window import MpiWindow

__all__ = ["wait_for"]

T = TypeVar("T")

#: A yield that takes longer has met another process that wants the core.
_CROWDED_S = 2e-4
_SHORT_NAP_S = 5e-5


def wait_for(look: Callable[[], T], window: MpiWindow, timeout_s: float | None) -> T:
    """Look again and again until the answer is true; blocks, makes MPI progress, burns no core.

    Parameters
    ----------
    look : callable
        Takes the locks that it needs, and holds none when it returns.
    timeout_s : float or None
        Looks once more when the time is over, and returns what it saw; None waits for ever.

    Notes
    -----
    Looks all the time for a millisecond, giving way to others, then in naps of 1/64 of the time
    already waited, so the end of a wait is noticed late by under 2 % of it, and 10 ms at most.
    Where a process that computes shares the core, giving way once costs milliseconds: naps, after
    which the kernel prefers the sleeper, begin at once.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    longest_s = longest_nap_s(window.one_node)
    backoff = Backoff()
    left_s = longest_s
    crowded = False
    while True:
        if deadline is not None:
            left_s = deadline - time.monotonic()
        found = look()
        if found or left_s <= 0:
            return found
        window.progress()
        if crowded and backoff.spinning:
            time.sleep(_SHORT_NAP_S)
            continue
        before = backoff.waited_s
        backoff.pause(min(longest_s, left_s))
        crowded = crowded or backoff.waited_s - before > _CROWDED_S
