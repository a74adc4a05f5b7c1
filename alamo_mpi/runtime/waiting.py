"""Waiting for what others do in the memory pool: the one place where long waits begin and end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from alamo_mpi.runtime.backoff import Backoff, longest_nap_s
from alamo_mpi.runtime.bell import Bell
from alamo_mpi.runtime.turn import released, seat

if TYPE_CHECKING:
    from alamo_mpi.mpi.window import MpiWindow

__all__ = ["Board", "wait_for"]

T = TypeVar("T")

#: How long to go on looking before a nap.
_SPIN_S = 1e-3
#: A yield that takes longer has met another process that wants the core.
_CROWDED_S = 1e-4
#: First nap of a waiter that will be woken.
_NAP_S = 1e-3


class Board(Protocol):
    """Where a waiter leaves the name of its bell, for those who bring what it waits for."""

    def enlist(self, name: int) -> bool:
        """Leave a name; False if there is no room."""

    def delist(self, name: int) -> None:
        """Take it off again."""


def wait_for(
    look: Callable[[], T],
    window: MpiWindow,
    timeout_s: float | None,
    board: Board | None = None,
) -> T:
    """Look again and again until the answer is true; blocks, makes MPI progress, burns no core.

    Parameters
    ----------
    look : callable
        Takes the locks that it needs, and holds none when it returns.
    timeout_s : float or None
        Looks once more when the time is over, and returns what it saw; None waits for ever.
    board : Board, optional
        Where somebody on this host looks who brings what is waited for.

    Notes
    -----
    Looks all the time for a millisecond, giving way to others, then in naps of 1/64 of the time
    already waited, at most 10 ms.  From then on a task has given its worker's turn away; what
    interrupts it is raised here.  With a board the naps end when the bell rings; the first begins
    as soon as giving way has taken long: another process computes on this core, and the kernel
    prefers who sleeps.  Without, the end of a wait is noticed late by up to a nap.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    longest_s = left_s = longest_nap_s(window.one_node)
    backoff = Backoff()
    bell: Bell | None = None
    crowded = away = False
    place = seat()
    with contextlib.ExitStack() as stack:
        if board is not None:
            stack.callback(lambda: _leave(board, bell))
        while True:
            if deadline is not None:
                left_s = deadline - time.monotonic()
            waited_s = backoff.waited_s
            spinning = waited_s < _SPIN_S and not crowded
            listed = False
            if board is not None and not spinning:
                bell = bell or Bell()
                listed = board.enlist(bell.name)
            found = look()
            if found or left_s <= 0:
                return found
            if place is not None and not spinning:
                if not away:
                    # Whoever brings what is waited for may be a task that waits for this worker.
                    stack.enter_context(released())
                    away = True
                place.check()
            window.progress()
            if bell is not None and listed:
                bell.wait(min(max(waited_s / 64, _NAP_S), longest_s, left_s))
            else:
                before = backoff.waited_s
                backoff.pause(min(longest_s, left_s))
                crowded = spinning and backoff.waited_s - before > _CROWDED_S


def _leave(board: Board, bell: Bell | None) -> None:
    """Take a waiter's name off the board."""
    if bell is not None:
        try:
            board.delist(bell.name)
        finally:
            bell.close()
