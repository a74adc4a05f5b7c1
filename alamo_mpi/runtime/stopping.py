"""A request to end the program, until the main thread has raised it; see ARCHITECTURE-signals.md.

`alamo_mpi.stopsignals` makes it, in a signal handler, and raises it itself where it can.  A task of
a world of one rank cannot be left that way, for what is raised in it is its own failure: so whoever
waits for tasks on the main thread looks here.
"""

from __future__ import annotations

import threading

from alamo_mpi.runtime.turn import seat

__all__ = ["Request", "check", "request"]


class Request:
    """The exception that is on its way; None if there is none.  One instance a process."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def take(self) -> BaseException | None:
        """Return it, once; on the main thread only, where the handler runs too."""
        error, self.error = self.error, None
        return error


request = Request()


def check() -> None:
    """Raise what was asked for, on the main thread and outside of tasks; local.

    Raises
    ------
    SystemExit
        If the program has been asked to end and does not know it yet.
    """
    if threading.current_thread() is threading.main_thread() and seat() is None:
        error = request.take()
        if error is not None:
            raise error
