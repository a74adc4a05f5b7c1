"""Exceptions of tasks on their way home: the same class, and where it happened as its cause."""

from __future__ import annotations

import traceback

from alamo_mpi.core.messages import OWN, Failure
from alamo_mpi.core.retry import kinds_of
from alamo_mpi.errors import (
    RemoteError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    WorkerDiedError,
)
from alamo_mpi.runtime.packing import dumps, loads

__all__ = ["describe", "rebuild"]

#: Exceptions that would end or confuse the program of whoever calls ``get()``.
_NOT_RAISED_AGAIN = (SystemExit, KeyboardInterrupt, GeneratorExit)
#: Those that say which task they are about.
_OURS = (RemoteError, TaskTimeoutError, SerializationError, WorkerDiedError)


def describe(error: BaseException, skip: int = 1) -> Failure:
    """Write down an exception so that it can travel whatever its class does.

    Parameters
    ----------
    error
        What the task raised.
    skip
        Number of innermost frames of this package at the top of its traceback, not shown.
    """
    trace = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None else None
    kind = type(error)
    try:
        text = "".join(traceback.format_exception(kind, error, trace))
        message = str(error)
    except Exception as failure:
        text = f"{kind.__qualname__} (its text cannot be made: {failure!r})\n"
        message = ""
    pickled = None
    if not isinstance(error, _NOT_RAISED_AGAIN):
        try:
            pickled = dumps(error)
        except SerializationError as failure:
            message = f"{message} ({failure})"
    name = f"{kind.__module__}.{kind.__qualname__}"
    return Failure(name, message, text, pickled, OWN, kinds_of(kind))


def rebuild(failure: Failure, task: str, uid: int, rank: int, host: str) -> BaseException:
    """Make the exception that ``get()`` raises.

    Parameters
    ----------
    failure
        As made by `describe` on the worker.
    task
        The name of the task's function.
    uid, rank, host
        Which task, and where it ran.

    Returns
    -------
    BaseException
        The task's own exception, or a `RemoteError` if that could not travel, in either case with
        a `RemoteTraceback` as its cause.
    """
    where = f"Task {uid} {task!r} failed on rank {rank} (host {host})"
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = loads(failure.pickled)
        except SerializationError as problem:
            error = _stand_in(failure, f"{where}; its exception cannot be rebuilt ({problem})")
        if not isinstance(error, BaseException):  # a __reduce__ that returns something else
            error = None
    if error is None:
        error = _stand_in(failure, where)
    if type(error) is SerializationError and error.uid is None:
        # Ours: the task's argument or result could not travel, which its worker says of "a value".
        error = SerializationError(f"{where}: {error}")
    if type(error) is TaskTimeoutError and error.uid is None:
        limit_s = error.limit_s
        error = TaskTimeoutError(
            f"Task {uid} {task!r} on rank {rank} (host {host}) was ended, as it ran longer than "
            f"its timeout of {limit_s:g} s. Give it a longer timeout=, or less to do.",
            limit_s=limit_s,
        )
    if type(error) is WorkerDiedError and error.uid is None:
        error.args = (f"{where}: {error}",)
    if isinstance(error, _OURS) and error.uid is None:
        error.uid, error.task_name, error.rank, error.host = uid, task, rank, host
    error.__cause__ = RemoteTraceback(f"{where}:\n{failure.traceback}")
    return error


def _stand_in(failure: Failure, where: str) -> RemoteError:
    name = failure.type_name.removeprefix("builtins.")
    return RemoteError(f"{where}: {name}: {failure.message}", type_name=name)
