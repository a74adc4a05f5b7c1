"""AsyncDict: the handle of what a task leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from alamo_mpi.task import Task

__all__ = ["AsyncDict"]


class AsyncDict:
    """Handle of one kind of output of a task: its result, stdout or stderr.

    Made by the properties of `Task`, never by the user.
    """

    __slots__ = ("_task", "_what")

    def __init__(self, task: Task, what: str) -> None:
        self._task = task
        self._what = what

    def get(self, tuid: int | None = None, timeout: float | None = None) -> Any:
        """Return the output of a task, waiting for its end if need be.

        Parameters
        ----------
        tuid : int, optional
            The uid of a subtask.  Needed for a compiled task of several subtasks, optional for any
            other task.
        timeout : float, optional
            Seconds to wait for the task's end; by default as long as it takes.

        Returns
        -------
        object
            For `Task.result` what the task returned, for `Task.stdout` and `Task.stderr` the text
            that it wrote (also when it failed).  Each call returns the same object.

        Raises
        ------
        TimeoutError
            If the task has not ended in time; it goes on.
        BaseException
            For a result: the exception that the task raised, with the traceback on its rank as
            ``__cause__``.
        RemoteError
            In place of an exception that cannot be rebuilt here, and of ``SystemExit`` and
            ``KeyboardInterrupt``, which would end the caller's program.
        DependencyError
            If the task was not run because one whose data it reads failed.
        CancelledError
            If the task was cancelled.
        SerializationError
            If the result cannot be rebuilt here.
        TypeError
            If `tuid` is missing for a compiled task of several subtasks.
        KeyError
            If no subtask has this uid.
        TaskStateError
            If the task was not started.

        Notes
        -----
        Local, but for an output over 64 KiB, which is fetched from the worker that has it.
        """
        task = self._task
        submission, index = task._locate(tuid)
        if self._what == "result":
            return task._batch._manager.outcomes.result(submission, index, timeout, task._reason)
        return task._batch._manager.outcomes.text(submission, index, self._what, timeout)

    def __repr__(self) -> str:
        return f"<{self._what} of {self._task!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A task's handle cannot be pickled. Pass it, or the task, as an argument of its own "
            "(not inside a container) to a task of the same batch: the result takes its place."
        )
