"""Waiting for what others do in the memory pool: the one place where long waits begin and end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from alamo_mpi.runtime.backoff import Backoff, longest_nap_s
from alamo_mpi.runtime.bell import Bell, own_bell
from alamo_mpi.runtime.turn import released, seat

if TYPE_CHECKING:
    from alamo_mpi.mpi.window import MpiWindow

__all__ = ["Board", "wait_for"]

T = TypeVar("T")

#: How long to look, giving way to others, before the first nap of a waiter that will be woken:
#: waking it takes up to 0.1 ms of the time of who does it.
_LOOK_S = 1e-3
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
    Looks all the time for a millisecond, giving way to others.  From then on a task has given its
    worker's turn away; what interrupts it is raised here.  With a board it then sleeps until its
    bell rings, and looks now and then for safety.  Without, it takes naps of 1/64 of the time
    already waited, at most 10 ms, so that it is late by up to a nap.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    longest_s = left_s = longest_nap_s(window.one_node)
    backoff = Backoff()
    place, away = seat(), False
    bell: Bell | None = None
    with contextlib.ExitStack() as stack:
        while True:
            if deadline is not None:
                left_s = deadline - time.monotonic()
            found = look()
            if found or left_s <= 0:
                return found
            window.progress()
            waited_s = backoff.waited_s
            if waited_s >= _LOOK_S and place is not None:
                if not away:
                    # Whoever brings what is waited for may be a task that waits for this worker.
                    stack.enter_context(released())
                    away = True
                place.check()
            if board is None or waited_s < _LOOK_S:
                backoff.pause(min(longest_s, left_s))
                continue
            if bell is None:
                bell = own_bell()
                stack.callback(board.delist, bell.name)
            if not board.enlist(bell.name):
                backoff.pause(min(longest_s, left_s))
            elif found := look():  # what came before the name was there
                return found
            else:
                bell.wait(min(max(waited_s / 64, _NAP_S), longest_s, left_s))
