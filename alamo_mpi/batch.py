"""Batch: a list of tasks, written as a sequential program, run in parallel on the workers."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from alamo_mpi import attachment
from alamo_mpi.compiling import compiled_task
from alamo_mpi.core import access
from alamo_mpi.core.access import AccessTarget, DataAccess
from alamo_mpi.errors import TaskStateError
from alamo_mpi.handle import AsyncDict
from alamo_mpi.isolating import default_isolation, isolates
from alamo_mpi.job import job as _job
from alamo_mpi.placed import _Placed
from alamo_mpi.process import process as _process
from alamo_mpi.retrying import RetryOn
from alamo_mpi.runtime import home as homes
from alamo_mpi.runtime.home import Home
from alamo_mpi.submitting import make_submission
from alamo_mpi.task import Accesses, Task, _Compiled, _Function, default_timeout

if TYPE_CHECKING:
    from collections.abc import Hashable

    from alamo_mpi.core.policy import Policy
    from alamo_mpi.extras.telemetry import Telemetry
    from alamo_mpi.runtime.service import BatchService, BatchState

__all__ = ["Batch"]

#: What a forked child's copy of a batch has to make anew.
_OF_A_CLIENT = ("_manager", "_live", "_client")


class Batch:
    """A service that runs functions on worker ranks, in an order that their data accesses allow.

    Constructing the first service of a program starts the runtime: ranks other than 0 become
    workers there and never come back from it.  See ``docs/launching.md`` for the ways to start.

    Parameters
    ----------
    num_workers : int, optional
        Take this many worker ranks at most; by default all that no other live batch holds.
    log_level : int
        Level of this batch's loggers on every rank.
    enable_telem : bool
        Record the life of each task; see `telemetry`.
    isolate : bool, optional
        Whether function tasks run isolated, see `function`, that do not say it themselves; by
        default what ``ALAMO_ISOLATE`` says (1 or 0).  Clients that are unpickled do as this one.

    Raises
    ------
    WorkersBusyError
        If other live batches hold every worker, naming them.
    ValueError
        If `num_workers` is below 1, or ``ALAMO_ISOLATE`` is neither 0 nor 1.
    LaunchError
        If the program was started in a way that cannot work.

    Notes
    -----
    Local once the runtime is up: no worker is waited for.  Use it as a context manager: at the end
    of the block it is closed and joined, after an error terminated.

    Examples
    --------
    >>> from alamo_mpi import Batch
    >>> with Batch() as batch:  # doctest: +SKIP
    ...     task = batch.function(pow, 2, 10)
    ...     print(task.run())
    1024
    """

    def __init__(
        self,
        num_workers: int | None = None,
        log_level: int = logging.WARNING,
        enable_telem: bool | None = False,
        *,
        isolate: bool | None = None,
    ) -> None:
        if num_workers is not None:
            num_workers = operator.index(num_workers)
            if num_workers < 1:
                raise ValueError(f"num_workers must be 1 or more, not {num_workers}")
        self._isolate = isolates(isolate, default_isolation())
        self._manager: BatchService = attachment.service_or_start()
        self._record = bool(enable_telem)
        self._live, self._client = self._manager.open_batch(
            num_workers, log_level, record=self._record
        )
        homes.follow(self)

    @property
    def num_workers(self) -> int:
        """Number of worker ranks that this batch has."""
        return int(self._live.num_workers)

    # Accesses ---------------------------------------------------------------------------------

    def read(self, obj: AccessTarget, *channels: Hashable) -> DataAccess:
        """Describe that something reads channels of a communication object.

        Parameters
        ----------
        obj : pathlib.Path or CommunicationObject
            What is read: a directory, a file, or an object of your own kind.
        *channels
            Files below the directory, or hashable names; none stands for the whole object, which
            conflicts with each of its channels.

        Returns
        -------
        DataAccess
            For the `reads` of a task.

        Raises
        ------
        TypeError
            If `obj` is no communication object, or a channel does not fit it.
        """
        return access.read(obj, *channels)

    def write(self, obj: AccessTarget, *channels: Hashable) -> DataAccess:
        """Describe that something writes channels of a communication object; see `read`."""
        return access.write(obj, *channels)

    # Tasks ------------------------------------------------------------------------------------

    def function(
        self,
        func: Callable[..., Any],
        *args: Any,
        callback_func: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
        reads: Accesses = None,
        writes: Accesses = None,
        policy: Policy | None = None,
        timeout: float | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        retry_on: RetryOn = None,
        idempotent: bool = False,
        isolate: bool | None = None,
    ) -> _Function:
        """Create a task that calls a function.

        Parameters
        ----------
        func : callable
            Anything cloudpickle can pickle: a lambda, a closure, a method, or a function of the
            main program will do.
        *args
            Its arguments.  A `Task` of this batch, or its `Task.result`, stands for that task's
            result, which this task then depends on.  A `DataAccess` is never an argument: it is
            added to the accesses; and if there was one, and exactly one tuple is left, that tuple
            is the list of arguments.
        callback_func : callable, optional
            Called in this process after the task's success, with the result and `callback_args`.
        callback_args : tuple
            Further arguments of the callback.
        reads, writes : DataAccess or iterable of DataAccess, optional
            What the function accesses.
        policy : Policy, optional
            Where and how it runs; see ``docs/processes.md``.
        timeout : float, optional
            Seconds that the function may run, its own waits included.  Past it, it gets an
            exception at its next bytecode, and ``get()`` raises `TaskTimeoutError`; a function
            inside a long C call notices when that returns.  An isolated one is ended in any case:
            by SIGTERM, and a second later by SIGKILL.
        retries : int
            How often it is tried again after a failure that `retry_on` names; until the last
            attempt it is unfinished, and its successors wait.  See ``docs/failures.md``.
        retry_delay : float
            Seconds before the second attempt, doubled for each further one up to 60; meanwhile it
            takes no worker.
        retry_on : exception class or tuple of them, optional
            By default what is nobody's fault: a lost worker (`WorkerDiedError`) and time-outs
            (`TaskTimeoutError`, `subprocess.TimeoutExpired`), not what the function raises.
        idempotent : bool
            Allow retries of a task that reads what it writes: another attempt does no harm.
        isolate : bool, optional
            Run it in a process of its own beside the worker, which is no rank: a crash ends that
            process alone, and ``get()`` raises `WorkerDiedError`.  By default as the batch says.

        Returns
        -------
        Task
            Not started; start it, or compile it with others.

        Raises
        ------
        TypeError
            If `func` or `callback_func` cannot be called, an access is none, or `isolate` is not
            a bool.
        ValueError
            If an argument is a task of another batch, a number is out of range, no worker can
            honour the policy, or the task is to be tried again and reads what it writes.

        Notes
        -----
        Local, about 1 us: nothing is pickled or sent before the task is started.

        A function that cannot be imported by name travels with what it refers to, as that is when
        the task is started.  Tasks that are started together and run on one worker share that
        copy: what one of them changes in it (a list in a closure, a global) the next may see.
        """
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        declared: tuple[DataAccess, ...] = ()
        given: list[tuple[int, Task]] = []
        for each in args:
            if isinstance(each, DataAccess):
                declared = (*declared, each)
        if declared:
            args = tuple(each for each in args if not isinstance(each, DataAccess))
            if len(args) == 1 and isinstance(args[0], tuple):
                args = args[0]
        for at, each in enumerate(args):
            if isinstance(each, (Task, AsyncDict)):
                given.append((at, self._producer(each)))
        more = (callback_func, callback_args, reads, writes)
        if policy is None:
            task = _Function(self, func, args, *more)
        else:
            task = _Placed(self, func, args, *more, policy)
        if declared:
            task._accesses = (*task._accesses, *declared)
        if given:
            task._results_of = given
        if timeout is not None:
            task._timeout = _seconds(timeout)
        if retries:
            task._try_again(retries, retry_delay, retry_on, idempotent)
        if self._isolate or isolate is not None:
            task._isolated = isolates(isolate, self._isolate)
        return task

    process = _process
    job = _job

    def _producer(self, argument: Task | AsyncDict) -> Task:
        """Return the task whose result an argument stands for."""
        task = argument
        if isinstance(argument, AsyncDict):
            if argument._what != "result":
                raise TypeError(
                    f"only a task's result can be an argument of another task, not its "
                    f"{argument._what}: return the text from the task"
                )
            task = argument._task
        assert isinstance(task, Task)
        if task._batch is not self:
            raise ValueError(
                f"{task!r} belongs to another batch: get its result first, and pass that"
            )
        if isinstance(task, _Compiled):
            raise TypeError(f"{task!r} is a compiled task: pass the subtask whose result is meant")
        return task

    def compile(
        self,
        tasks_to_compile: Iterable[Task],
        callback_func: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
    ) -> Task:
        """Make one task of a list of tasks, ordered by what they read and write.

        The list is a sequential program: run in any order that the graph allows, its tasks leave
        files and objects as running them one after the other would.

        Parameters
        ----------
        tasks_to_compile : iterable of Task
            In the order of the sequential program.
        callback_func : callable, optional
            Called with `callback_args` after the success of all tasks and after their callbacks.
        callback_args : tuple
            Its arguments.

        Returns
        -------
        Task
            The compiled task; its subtasks cannot be started or waited for by themselves any more.

        Raises
        ------
        TaskStateError
            (a RuntimeError) If a task was compiled or started before, or stands in the list twice.
        ValueError
            If a task belongs to another batch, or comes before one whose result it takes.
        TypeError
            If something in the list is no task, or a compiled task.

        Notes
        -----
        Local.  Linear in the number of accesses: about 2 us each.
        """
        return compiled_task(self, list(tasks_to_compile), callback_func, callback_args)

    def _next_uid(self) -> int:
        return next(self._manager.uids)

    def _submit(self, task: Task) -> None:
        """Start a task; called by `Task.start`."""
        self._live.lifecycle.check_submit(self._client)
        submission = make_submission(self._manager, self._live, task, record=self._record)
        self._manager.submit(self._live, submission)

    # Ends -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Declare that this client starts no more tasks; may be called again.  Local."""
        self._manager.close(self._live, self._client)

    def join(self, timeout: float = default_timeout) -> None:
        """Wait until every client has closed the batch and all work is done.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        TaskStateError
            If this client has not closed the batch, or in a callback: either would wait for ever.
        TimeoutError
            If work is left after `timeout`; it goes on.

        Notes
        -----
        The workers are then free for another batch.  Failures of tasks are not raised here.
        """
        lifecycle = self._live.lifecycle
        if lifecycle.is_open(self._client):
            raise TaskStateError("Call close() before join(): an open Batch takes more work.")
        if self._manager.in_callback():
            raise TaskStateError("A Batch cannot be joined in a callback, which is a part of it.")

        if not self._manager.await_end(self._live, timeout):
            left = self._live.unfinished
            raise TimeoutError(
                f"{self._live} is not done after {timeout:g} s: {left} tasks are unfinished"
            )
        lifecycle.joined = True

    def cancel_all(self) -> None:
        """Give up every task that was started in this batch so far, by whichever client.

        As `Task.cancel` for each.  The batch goes on and takes further tasks.
        """
        self._manager.cancel_all(self._live)

    def terminate(self) -> None:
        """End what runs and cancel what waits; their ``get()`` raises `CancelledError`.

        Notes
        -----
        A running function gets an exception at its next bytecode.  This waits up to two seconds
        for that; a function inside a long C call ends after it, and keeps its worker until then.
        """
        self._manager.terminate(self._live)

    def telemetry(self) -> Telemetry:
        """Return the record of the tasks, of a batch made with ``enable_telem=True``.

        Returns
        -------
        Telemetry
            Rows of all tasks that have ended, and ways to write them; complete after `join`.

        Raises
        ------
        TaskStateError
            If the batch does not record.
        """
        records = self._manager.records(self._live)
        if records is None:
            raise TaskStateError("Nothing was recorded: create the Batch with enable_telem=True.")
        from alamo_mpi.extras.telemetry import Telemetry

        return Telemetry(records)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.terminate()
            return
        self.close()
        self.join()

    def __del__(self) -> None:
        # Only notes: a finalizer may run at any moment, on any thread.
        live = self.__dict__.get("_live")
        if live is not None and live.lifecycle.is_open(self._client):
            self._manager.leave(live, self._client)

    def __repr__(self) -> str:
        return f"<{self._live}, {self.num_workers} workers, {self._live.unfinished} tasks>"

    def __getstate__(self) -> tuple[BatchState, bool]:
        return self._manager.share(self._live), self._isolate

    def __setstate__(self, state: tuple[BatchState, bool]) -> None:
        """Become a further client of the batch: what unpickling does, in any process.

        Parameters
        ----------
        state : tuple
            As pickled.

        Raises
        ------
        TaskStateError
            If the batch has ended; on ranks other than 0 the first `Task.start` says so.

        Notes
        -----
        The new client closes for itself: `join` of the batch waits for that.  One that was made
        in a task, and one that nobody holds any more, counts as closed.
        """
        self._manager = attachment.service()
        shared, self._isolate = state
        self._record = shared[2]
        self._live, self._client = self._manager.join_in(shared)
        homes.follow(self)

    def _move(self, old: Home, new: Home) -> None:
        """In a forked child, become a further client when first used; local, starts nothing."""
        if "_live" in self.__dict__:
            for submission in list(self._live.submissions.values()):
                submission.disown()
            inherited = self._manager.share(self._live), self._isolate
            for name in _OF_A_CLIENT:
                del self.__dict__[name]
            self._inherited = inherited

    if not TYPE_CHECKING:  # else any name would be an attribute of a Batch

        def __getattr__(self, name: str) -> Any:
            if name in _OF_A_CLIENT and "_inherited" in self.__dict__:
                with homes.current().lock:
                    if "_inherited" in self.__dict__:
                        self.__setstate__(self._inherited)
                        del self._inherited
                return self.__dict__[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _seconds(timeout: float) -> float:
    seconds = float(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return seconds
