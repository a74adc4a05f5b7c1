"""The exceptions of the package; this module imports nothing of it.

Every error that concerns one task carries ``uid``, ``task_name``, ``rank`` and ``host`` (``None``
where they make no sense) and ends with what to do about it.  A task's own exception is never
wrapped: ``get()`` raises it unchanged, with a `RemoteTraceback` as its ``__cause__``.
"""

from __future__ import annotations

import concurrent.futures
import pickle
import signal

__all__ = [
    "AlamoError",
    "CancelledError",
    "DDictDestroyedError",
    "DDictError",
    "DDictFrozenError",
    "DDictFullError",
    "DDictTimeoutError",
    "DeadlockError",
    "DependencyError",
    "GatewayError",
    "InternalError",
    "JobError",
    "JobTimeoutError",
    "LaunchError",
    "QueueClosedError",
    "QueueDestroyedError",
    "QueueMemoryError",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "ShardLostError",
    "StopSignal",
    "TaskStateError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "WorkersBusyError",
]


class AlamoError(Exception):
    """Base of all errors raised by `alamo_mpi` itself.

    Attributes
    ----------
    uid : int or None
        The task that the error is about.
    task_name : str or None
        Its function's name.
    rank : int or None
        The rank, in the program's communicator, where it happened.
    host : str or None
        The name of that rank's host.
    """

    def __init__(
        self,
        message: str = "",
        *,
        uid: int | None = None,
        task_name: str | None = None,
        rank: int | None = None,
        host: str | None = None,
    ) -> None:
        super().__init__(message)
        self.uid = uid
        self.task_name = task_name
        self.rank = rank
        self.host = host

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only attributes travel as state, so that every subclass pickles.
        return type(self), self.args, self.__dict__


class TaskStateError(AlamoError, RuntimeError):
    """A call that the task or batch does not allow in its present state."""


class DeadlockError(TaskStateError):
    """A wait of a task that would have no end: what it waits for waits for the task itself.

    The message names the tasks of the circle and what each waits for.
    """


class DependencyError(AlamoError):
    """A task was not run because a task whose data it reads failed; see ``__cause__``."""


class CancelledError(AlamoError, concurrent.futures.CancelledError):
    """The task was cancelled before it had a result: `Task.cancel`, `Batch.terminate`."""


class TaskTimeoutError(AlamoError, TimeoutError):
    """The task was ended because it ran longer than its ``timeout``; see ``__cause__``.

    Attributes
    ----------
    limit_s : float or None
        The timeout, in seconds.
    """

    def __init__(self, message: str = "", *, limit_s: float | None = None, **where: object) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.limit_s = limit_s


class SerializationError(AlamoError, pickle.PicklingError):
    """A function, argument, result or exception cannot be pickled, or not be rebuilt."""


class RemoteError(AlamoError):
    """Stands for a task's exception that could not be rebuilt in this process.

    Attributes
    ----------
    type_name : str
        Qualified name of the exception's class, as seen on the worker.
    """

    def __init__(self, message: str = "", *, type_name: str = "", **where: object) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.type_name = type_name


class RemoteTraceback(Exception):  # noqa: N818 - a cause to be shown, never raised by itself
    """The text of a traceback on another rank; the ``__cause__`` of a task's exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class JobError(AlamoError):
    """A job was ended from outside its program's own will, or could not be started.

    Attributes
    ----------
    rank : int or None
        The rank, in the job's own communicator, that is to blame; None if it is the whole job, as
        after a time-out.
    host : str
        The name of that rank's host.
    status : int or None
        Its exit status, or what it gave MPI_Abort; negative for a signal.
    signal : str or None
        The name of the signal that ended it.
    exception : BaseException or None
        What the callable raised there, or why the program could not be started.
    stderr : str
        The end of what that rank wrote to stderr.
    """

    status: int | None = None
    signal: str | None = None
    exception: BaseException | None = None
    stderr: str = ""


class JobTimeoutError(JobError, TaskTimeoutError):
    """A job was ended because it ran longer than its ``timeout``."""


class WorkerDiedError(AlamoError):
    """What ran a task, or kept its result, has ended: an isolated task's process, or a rank.

    Attributes
    ----------
    status : int or None
        Its exit status; negative for a signal, None where nobody was there to see it.
    signal : str or None
        The name of the signal that ended it.
    pid : int or None
        Its process id on `host`.
    peak_nbytes : int
        Most memory that it had at a time, also for tasks before; 0 where that is not known.
    stderr : str
        The end of what the task wrote to stderr, with the Python stack of a crash.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        signal: str | None = None,
        pid: int | None = None,
        peak_nbytes: int = 0,
        stderr: str = "",
        **where: object,
    ) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.status = status
        self.signal = signal
        self.pid = pid
        self.peak_nbytes = peak_nbytes
        self.stderr = stderr


class WorkersBusyError(AlamoError, RuntimeError):
    """Every worker is held by other live batches."""


class LaunchError(AlamoError, RuntimeError):
    """The program was started in a way that cannot work; the message says which way does."""


class GatewayError(AlamoError, ConnectionError):
    """A process that is not a rank has no program to be attached to, or not any more."""


class DDictError(AlamoError):
    """Base of the errors of `DDict` that a `dict` does not know."""


class DDictFullError(DDictError, MemoryError):
    """There is no room for a value; everything stored before is untouched.

    The message names the sizes and the setting to raise.  Deleting keys makes room.
    """


class DDictDestroyedError(DDictError, RuntimeError):
    """The dictionary was destroyed, here or by another client."""


class DDictFrozenError(DDictError, TypeError):
    """A write to a dictionary that is frozen; `DDict.unfreeze` allows it again."""


class DDictTimeoutError(DDictError, TimeoutError):
    """A key did not come, or not get the value waited for, in time; the message names it."""


class ShardLostError(DDictError):
    """What was to be read or written lies in the memory of a rank that was lost; `rank` says which.

    Raised by `DDict` and `Queue` in a program that survives the loss of a rank.
    """


class QueueClosedError(AlamoError, ValueError):
    """A put to a `Queue` that was closed, or a get from one that is empty too."""


class QueueDestroyedError(QueueClosedError):
    """The queue was destroyed, here or by another client, with what was in it."""


class QueueMemoryError(AlamoError, MemoryError):
    """There is no memory for an item of a `Queue`, and it was not put; the queue is as it was.

    The message names the sizes and the setting to raise.  Taking items out makes room.
    """


class InternalError(AlamoError):
    """A contradiction inside `alamo_mpi`: please report it, with the story in the message."""


class StopSignal(SystemExit):
    """The program has been asked to end: by SIGTERM, or another signal of a batch system.

    Raised in the main thread of the main program, where no handler of the program's own is set.
    No `AlamoError`, nor any ``Exception``: what handles errors does not catch it.  Who does catch
    it, to save something, has ``ALAMO_GRACE`` seconds (20 by default) until the job is aborted.

    Attributes
    ----------
    signum : int
        The signal.
    name : str
        Its name.
    status : int
        What the program exits with: 128 + `signum`.
    """

    def __init__(self, signum: int) -> None:
        self.signum = int(signum)
        self.name = signal.Signals(signum).name
        self.status = 128 + self.signum
        super().__init__(self.status)

    def __reduce__(self) -> tuple[type[StopSignal], tuple[int]]:
        return type(self), (self.signum,)
