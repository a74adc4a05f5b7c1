"""Callbacks: run once, after success, in the client, and never under the manager's lock."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

from alamo_mpi.core.states import State
from alamo_mpi.runtime.submission import Submission

__all__ = ["CallbackQueue"]

logger = logging.getLogger(__name__)

#: Stands for the compiled task itself where subtasks are counted from 0.
WHOLE = -1


class CallbackQueue:
    """Callbacks that are due, in the order in which their tasks ended.

    Parameters
    ----------
    lock
        The manager's lock; held by the callers of all methods but `run`.
    value_of
        Gives the result of a task that is done.
    on_over
        Called under the lock when the last callback of a submission has run.
    """

    def __init__(
        self,
        lock: contextlib.AbstractContextManager[object],
        value_of: Callable[[Submission, int], object],
        on_over: Callable[[Submission], None],
    ) -> None:
        self._lock = lock
        self._value_of = value_of
        self._on_over = on_over
        self._due: deque[tuple[Submission, int]] = deque()
        self._running = threading.local()

    @property
    def due(self) -> bool:
        """Whether a callback can be run."""
        return bool(self._due)

    def inside(self, submission: Submission | None = None) -> bool:
        """Tell whether this thread is in a callback, of this submission if one is given."""
        stack: list[Submission] = getattr(self._running, "stack", [])
        return bool(stack) if submission is None else submission in stack

    def settled(self, submission: Submission, index: int) -> None:
        """Note that a task with a callback is final: the callback is due, or will never be."""
        if submission.program.states[index] == State.DONE:
            self._due.append((submission, index))
        else:
            del submission.callbacks[index]
            submission.callbacks_left -= 1

    def finished(self, submission: Submission) -> None:
        """Note that all tasks are final; the compiled task's own callback comes last."""
        if submission.callback is None or submission.callbacks_left != 1:
            return
        if submission.first_failure() is None:
            self._due.append((submission, WHOLE))
        else:
            submission.callback = None
            submission.callbacks_left = 0

    def run(self) -> bool:
        """Run one callback that is due; return whether there was one.

        Notes
        -----
        Takes as long as the callback does.  Safe on any thread; each callback runs once.
        """
        try:
            submission, index = self._due.popleft()
        except IndexError:
            return False
        stack: list[Submission] = self._running.__dict__.setdefault("stack", [])
        stack.append(submission)
        try:
            self._call(submission, index)
        except Exception as error:
            name = "the compiled task" if index == WHOLE else repr(submission.names[index])
            logger.exception("The callback of %s raised an exception", name)
            submission.callback_errors[index] = error
        finally:
            stack.pop()
            with self._lock:
                self._ran(submission)
        return True

    def _call(self, submission: Submission, index: int) -> None:
        if index == WHOLE:
            assert submission.callback is not None
            function, arguments = submission.callback
            function(*arguments)
        else:
            function, arguments = submission.callbacks[index]
            function(self._value_of(submission, index), *arguments)

    def _ran(self, submission: Submission) -> None:
        submission.callbacks_left -= 1
        if not submission.program.remaining:
            self.finished(submission)
            if not submission.callbacks_left:
                self._on_over(submission)
