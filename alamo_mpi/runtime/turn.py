"""Whose turn it is to run user code in this process, and how a task that waits gives it away.

One *turn* per worker.  The thread that runs a task has it; one that waits inside a task gives it
to others (`released`) and takes it again before user code goes on.  It is handed over directly:
first to whoever returns from a wait, then to whoever begins a chunk, each in the order of asking.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

__all__ = ["PATIENCE_S", "Seat", "Turn", "leave_seat", "released", "seat", "sit", "waiting"]

#: A wait shorter than this keeps the turn: giving it away costs a message and two switches.
PATIENCE_S = 2e-4


class Turn:
    """The right to run user code: one thread has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        #: Who wants it back, each blocked on a lock of its own.
        self.returning: deque[threading.Lock] = deque()
        self._beginning: deque[threading.Lock] = deque()

    def take(self, *, block: bool = True) -> bool:
        """Take it to begin something; return whether it was taken."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            if not block:
                return False
            mine = _blocked()
            self._beginning.append(mine)
        self._await(mine, self._beginning)
        return True

    def take_again(self) -> None:
        """Take it to go on with something, ahead of who begins; returns with it in any case."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = _blocked()
            self.returning.append(mine)
        error: BaseException | None = None
        while True:
            try:
                mine.acquire()
                break
            except BaseException as raised:  # Ctrl-C: later, the turn must be had to unwind
                error = raised
        if error is not None:
            raise error

    def give(self) -> None:
        """Give it to the next, if anybody wants it."""
        with self._lock:
            waiting = self.returning or self._beginning
            if waiting:
                waiting.popleft().release()
            else:
                self._taken = False

    def pass_on(self) -> None:
        """Let those return who want to, and come back behind them."""
        self.give()
        self.take_again()

    def _await(self, mine: threading.Lock, queue: deque[threading.Lock]) -> None:
        try:
            mine.acquire()
        except BaseException:
            with self._lock:
                given = mine not in queue
                if not given:
                    queue.remove(mine)
            if given:
                self.give()
            raise


def _blocked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Seat(Protocol):
    """A thread's place in a task."""

    @property
    def at_end(self) -> list[Callable[[], None]]:
        """What is to be called, each once, when the task has ended."""

    @property
    def at_loss(self) -> list[Callable[[], None]]:
        """What is to be called, each once, when the task is given up while it waits.

        What it waits for may have its turn, which it needs to unwind: that has to go as well.
        """

    @property
    def uid(self) -> int:
        """Id of the task."""

    @property
    def depth(self) -> int:
        """How deep what the task starts is nested."""

    def released(self) -> contextlib.AbstractContextManager[None]:
        """Give the turn away for the length of a block; for this thread only.

        The end of the block raises what interrupts the task, if anything does.
        """

    def check(self) -> None:
        """Raise what interrupts the task, if anything does; for waits inside `released`."""


_here = threading.local()


def seat() -> Seat | None:
    """Return the seat of the calling thread; None if it runs no task."""
    return getattr(_here, "seat", None)


def leave_seat() -> None:
    """Note that the calling thread runs no task: it is a forked child's, and the task stays."""
    _here.seat = None


@contextlib.contextmanager
def sit(place: Seat) -> Iterator[None]:
    """Note for the length of a block that the calling thread runs tasks."""
    before = seat()
    _here.seat = place
    try:
        yield
    finally:
        _here.seat = before


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Let the worker run other tasks for the length of a block; does nothing outside of tasks.

    For waits that have taken `PATIENCE_S`.  Inside the block no user code may run, and long waits
    call `check` now and then.
    """
    place = seat()
    if place is None:
        yield
        return
    with place.released():
        yield


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Let this task's worker run other tasks for the length of a block that waits.

    For waits that this package does not see, as for a program that the task has started or for a
    lock of another library: a worker is otherwise kept by its task until that ends, and a program
    whose tasks need that very worker would wait for ever.  Waits of this package (for tasks,
    `DDict`, `Queue`) do the same by themselves.

    Notes
    -----
    At the end of the block the task waits until it can go on: what runs on its worker by then ends
    or waits first.  The same holds for what interrupts it (`Task.cancel`, a time limit): that is
    raised at the end of the block, so give the wait a limit of its own.  What the block, or a
    program that it has started, writes to stdout and stderr counts as output of whichever task runs
    there: capture it, or write it to a file.

    Outside of tasks, in a job, and in a process that is no rank it does nothing.

    Examples
    --------
    ::

        with alamo_mpi.waiting():
            done = subprocess.run(command, capture_output=True, timeout=600)
    """
    place = seat()
    if place is None:
        yield
        return
    with place.released():
        _here.seat = None  # the turn can be given away but once
        try:
            yield
        finally:
            _here.seat = place
