"""Threads that run a worker's chunks while a task of it waits on the thread that it began on."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from alamo_mpi.runtime.backoff import Backoff

__all__ = ["Guard", "Interruption", "OwnGuard", "Runners"]

#: Seconds that the end of the program waits for a runner; it runs nothing by then.
_JOIN_S = 5.0
_UNTIL_IT_COMES = 1 << 16


class Interruption(BaseException):
    """Raised inside a task that is to be given up, at its next bytecode."""


class Interruptible(Protocol):
    """Which tasks of a chunk are to be given up, and which one runs."""

    given_up: frozenset[int]
    position: int


class Guard:
    """Aims interruptions at what one runner thread calls, and at nothing behind it.

    An asynchronous exception comes up some bytecodes after it was set.  So it is set under a lock
    while the call goes on, at most once a call, and taken back under the same lock at its end.

    Parameters
    ----------
    on_runner
        Whether this thread is one of the runners.
    """

    def __init__(self, *, on_runner: bool = True) -> None:
        self.on_runner = on_runner
        self._ident = threading.get_ident()
        self._thread = ctypes.c_ulong(self._ident)
        self._lock = threading.Lock()
        self._open = False
        #: Whether an exception was set since, which may not have come up yet.
        self._aimed = False

    def call(self, function: Callable[..., Any], values: Any, task: Interruptible) -> Any:
        """Call the function; an interruption is raised in it or not at all."""
        error: BaseException | None = None
        result = None
        self._open = True
        try:
            if task.position in task.given_up:
                raise Interruption
            result = function(*values)
        except BaseException as raised:
            error = raised
        while True:
            # An exception set just before comes up here at the latest.
            try:
                self.leave()
                break
            except Interruption as late:
                error = error or late
        if error is not None:
            try:
                raise error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
            finally:
                error = None
        return result

    def leave(self) -> None:
        """Take no more aim, as the thread leaves user code."""
        with self._lock:
            self._open = False
        if self._aimed:
            self._take_back()

    def _take_back(self) -> None:
        """See to it that no exception comes up on this thread, its own, any more.

        One set here takes the place of one that has not come up, and comes up in this loop.  To
        set none instead would leave the interpreter's mark that there is one (up to Python 3.12):
        each call is slow then, and under a profiler none ever begins.
        """
        try:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(Interruption))
            for _ in range(_UNTIL_IT_COMES):  # with the first round
                pass
        except Interruption:
            pass
        self._aimed = False

    def enter(self) -> None:
        """Take aim again, as the thread goes back to user code."""
        self._open = True

    def interrupt(self, allowed: Callable[[FrameType | None], bool] = lambda frame: True) -> bool:
        """Interrupt the call; return False if one goes on that cannot be at this moment.

        Parameters
        ----------
        allowed
            Whether it can be, by the frame that the thread is in.  The exception comes up before
            the thread has done more than enter one more function.
        """
        with self._lock:
            if not self._open:
                return True
            if not allowed(sys._current_frames().get(self._ident)):
                return False
            self._open, self._aimed = False, True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(Interruption))
            return True


class OwnGuard(threading.local):
    """Each thread's own guard, for those that are no runners."""

    def __init__(self) -> None:
        self.guard = Guard(on_runner=False)


class Host(Protocol):
    """What runners need of their worker."""

    @property
    def has_work(self) -> bool: ...

    @property
    def waits(self) -> bool: ...

    def step(self, guard: Guard) -> bool: ...


class Runners:
    """The runner threads ("alamo-runner") of one worker.

    As long as a task waits, one of them is free to run others; those that are too many, and all
    when nothing waits, sleep on a condition.

    Parameters
    ----------
    host
        The worker.
    poll
        Receives messages; called by one that is free and has nothing to do.
    longest_s
        Longest nap.
    """

    def __init__(self, host: Host, poll: Callable[[], bool], longest_s: float) -> None:
        self._host = host
        self._poll = poll
        self._longest_s = longest_s
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        #: Runners that neither sleep nor wait inside a task.
        self._free = 0
        self._asleep = 0
        self._wanted = 0
        self._stopping = False
        #: What ended a runner, to be raised on the main thread.
        self.error: BaseException | None = None

    def cover(self, *, leaving: bool) -> None:
        """See to it that a runner is free, as a task is about to wait.

        Parameters
        ----------
        leaving
            Whether the task is on a runner itself.
        """
        with self._changed:
            self._free -= leaving
            if self._free or self._stopping:
                return
            self._free += 1
            if self._asleep:
                self._wanted += 1
                self._changed.notify()
                return
            thread = threading.Thread(target=self._run, name="alamo-runner", daemon=True)
            self._threads.append(thread)
        thread.start()

    def returned(self) -> None:
        """Note that a runner's task does not wait any more."""
        with self._changed:
            self._free += 1

    def stop(self) -> None:
        """End the threads, and wait for them."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _run(self) -> None:
        guard = Guard()
        backoff = Backoff()
        try:
            while not self._stopping:
                if self._host.has_work and self._host.step(guard):
                    backoff.reset()
                elif self._surplus():
                    if not self._sleep():
                        return
                    backoff.reset()
                elif self._poll():
                    backoff.reset()
                else:
                    backoff.pause(self._longest_s)
        except BaseException as error:  # handed to the main thread, which ends the rank
            self.error = error

    def _surplus(self) -> bool:
        return self._free > 1 or not self._host.waits

    def _sleep(self) -> bool:
        """Sleep until wanted; return whether to go on."""
        with self._changed:
            if not self._surplus():
                return True
            self._free -= 1
            self._asleep += 1
            while not self._wanted and not self._stopping:
                self._changed.wait()
            self._asleep -= 1
            if self._stopping:
                return False
            self._wanted -= 1
            return True
