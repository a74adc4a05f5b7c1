"""Tasks: what the user declares, starts and waits for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from alamo_mpi.core import access
from alamo_mpi.core.access import AccessTarget, DataAccess
from alamo_mpi.core.states import State
from alamo_mpi.errors import TaskStateError
from alamo_mpi.handle import AsyncDict
from alamo_mpi.inference import explain
from alamo_mpi.retrying import attempts_of, mark_attempts, refuse_unsafe, retry_terms
from alamo_mpi.runtime.functions import name_of
from alamo_mpi.runtime.vigil import endless

if TYPE_CHECKING:
    from collections.abc import Hashable

    from alamo_mpi.batch import Batch
    from alamo_mpi.core.graph import Graph
    from alamo_mpi.core.record import Attempt
    from alamo_mpi.core.retry import Retry
    from alamo_mpi.runtime.submission import Submission

__all__ = ["Task"]

#: The seed's "no limit", in seconds.
default_timeout = 1e9

Accesses = DataAccess | Iterable[DataAccess] | None


class Task:
    """Something to be run: made by `Batch.function` and `Batch.compile`, not directly.

    Parameters
    ----------
    batch : Batch
        The batch it belongs to.
    callback_func : callable, optional
        Called in this process after the task's success, with its result (for a compiled task:
        without) and `callback_args`.
    callback_args : tuple
        Further arguments of the callback.
    reads, writes : DataAccess or iterable of DataAccess, optional
        What the task accesses.  This orders the subtasks of a compiled task, and has no effect on
        a task that is started by itself.
    compiled : bool
        Whether this is a compiled task.

    Raises
    ------
    TypeError
        If an access is none, or a callback cannot be called.
    """

    __slots__ = (
        "__weakref__",
        "_accesses",
        "_batch",
        "_callback",
        "_index",
        "_parent",
        "_submission",
        "_uid",
    )

    def __init__(
        self,
        batch: Batch,
        callback_func: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
        reads: Accesses = None,
        writes: Accesses = None,
        compiled: bool = False,
    ) -> None:
        self._batch = batch
        self._uid = batch._next_uid()
        self._callback: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        if callback_func is not None:
            if not callable(callback_func):
                raise TypeError(f"callback_func must be callable, not {callback_func!r}")
            self._callback = callback_func, tuple(callback_args)
        #: Everything declared, in the order of declaration; usually a tuple, to be small.
        self._accesses: Sequence[DataAccess] = ()
        if reads is not None:
            self._accesses = _checked(reads, access.Mode.READ, "reads")
        if writes is not None:
            self._accesses = (*self._accesses, *_checked(writes, access.Mode.WRITE, "writes"))
        self._submission: Submission | None = None
        self._index = 0
        #: The compiled task that this one is a part of.
        self._parent: Task | None = None

    # Declaring --------------------------------------------------------------------------------

    def read(self, obj: AccessTarget, *channels: Hashable) -> None:
        """Declare that the task reads channels of a communication object.

        Parameters
        ----------
        obj : pathlib.Path or CommunicationObject
            What is read: a directory, a file, or an object of your own kind.
        *channels
            Files below the directory, or hashable names; none stands for the whole object.

        Raises
        ------
        TypeError
            If `obj` is no communication object, or a channel does not fit it.
        TaskStateError
            If the task was compiled or started: its order is settled by then.
        """
        self._declare(access.read(obj, *channels))

    def write(self, obj: AccessTarget, *channels: Hashable) -> None:
        """Declare that the task writes channels of a communication object; see `read`."""
        self._declare(access.write(obj, *channels))

    def _declare(self, declared: DataAccess) -> None:
        if self._parent is not None or self._submission is not None:
            raise TaskStateError(
                f"{self._title()} was {'compiled' if self._parent is not None else 'started'} "
                "already: declare reads and writes before.",
                uid=self._uid,
                task_name=self._name(),
            )
        self._accesses = (*self._accesses, declared)

    # Running ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the task, and return at once.

        Functions and arguments are pickled here: what the caller changes afterwards does not
        reach the task.

        Raises
        ------
        TaskStateError
            If it was started before, is a part of a compiled task, takes the result of a task that
            was not started, or its batch is closed.
        SerializationError
            If a function or argument cannot be pickled, naming the task.  Nothing was started.

        Notes
        -----
        Local, never waits for a worker.  About 10 us and the pickling.
        """
        with self._batch._manager.preparer.lock:
            self._check_own("started")
            if self._submission is not None:
                raise TaskStateError(
                    f"{self._title()} was started already, and a task runs once: use wait() or "
                    "result.get(), or create a new task to run the function again.",
                    uid=self._uid,
                    task_name=self._name(),
                )
            self._batch._submit(self)

    def wait(self, timeout: float = default_timeout) -> None:
        """Wait until the task, its subtasks and their callbacks have ended.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        TimeoutError
            If they have not ended in time; they go on.
        TaskStateError
            If the task was not started, is a part of a compiled task, or waits for itself in its
            own callback.
        Exception
            What a callback of the task raised.  The task's own exception is raised by `run` and
            by ``result.get()``, not here.
        """
        self._check_own("waited for")
        submission = self._started()
        manager = self._batch._manager
        if not submission.over:
            if manager.in_callback(submission):
                raise TaskStateError(
                    f"{self._title()} cannot be waited for in its own callback, which is a part "
                    "of it.",
                    uid=self._uid,
                )
            on = (submission, None) if endless(timeout) else None
            if not manager.drive(lambda: submission.over, timeout, on):
                left = submission.program.remaining
                raise TimeoutError(
                    f"{self._title()} has not ended after {timeout:g} s: {left} of "
                    f"{submission.program.ntasks} tasks are unfinished"
                )
        if submission.callback_errors:
            raise submission.callback_errors[min(submission.callback_errors, key=_last_if_whole)]

    def run(self, timeout: float = default_timeout) -> Any:
        """Start the task, wait for its end, and return its result.

        Parameters
        ----------
        timeout : float
            Seconds.

        Returns
        -------
        object
            What the task returned; for a compiled task of one subtask what that returned, and None
            for one of several (use ``result.get(uid)``).

        Raises
        ------
        BaseException
            What `start`, `wait` and ``result.get()`` raise; for a compiled task, the first failure
            in list order.
        """
        self.start()
        error: Exception | None = None
        try:
            self.wait(timeout)
        except TimeoutError:
            raise
        except Exception as raised:  # a callback's; the task's own comes first
            error = raised
        submission = self._started()
        failed = submission.first_failure()
        if failed is not None:
            self._batch._manager.outcomes.result(submission, failed, None, self._reason)
        if error is not None:
            raise error
        if submission.program.ntasks == 1:
            return self._batch._manager.outcomes.result(submission, 0, None, self._reason)
        return None

    def cancel(self) -> None:
        """Give up the task, and of a compiled task all subtasks; works on a subtask too.

        What waits never starts, and what runs gets an exception at its next bytecode; ``get()``
        raises `CancelledError` for either.  What has ended before keeps its result, and so does a
        function that returns in spite of the exception.  Tasks that read what a cancelled one
        should have written (RAW) are skipped with a `DependencyError`; those that are only ordered
        after it (WAR, WAW) run.

        Raises
        ------
        TaskStateError
            If the task was not started.

        Notes
        -----
        Returns at once; `wait` waits for the end.  A function inside a long C call notices when
        that returns.  For a subtask the cost grows with the number of ready subtasks.
        """
        submission = self._started()
        tasks = [self._index] if self._parent is not None else None
        self._batch._manager.cancel(self._batch._live, submission, tasks)

    # Outputs ----------------------------------------------------------------------------------

    @property
    def uid(self) -> int:
        """Unique id of the task in its program."""
        return self._uid

    @property
    def result(self) -> AsyncDict:
        """Handle of what the task returns."""
        return AsyncDict(self, "result")

    @property
    def stdout(self) -> AsyncDict:
        """Handle of the text that the task writes to stdout."""
        return AsyncDict(self, "stdout")

    @property
    def stderr(self) -> AsyncDict:
        """Handle of the text that the task writes to stderr."""
        return AsyncDict(self, "stderr")

    @property
    def attempts(self) -> list[Attempt] | dict[int, list[Attempt]]:
        """The attempts at the task that have ended, if it was made with ``retries=``.

        A list of records (number, rank, host, started, ended, error), empty for a task without
        retries; of a compiled task a dictionary of lists by uid, of its subtasks with retries.
        """
        return attempts_of(self, compiled=isinstance(self, _Compiled))

    def dump_dag(self, file_name: str | os.PathLike[str]) -> None:
        """Draw the dependency graph of a compiled task, before or after it ran.

        Parameters
        ----------
        file_name : str or path
            The ending picks the format: ``.png``, ``.svg``, ``.pdf`` (pictures), ``.dot``,
            ``.graphml``, ``.json`` (data).

        Raises
        ------
        TaskStateError
            If the task was not compiled.
        ValueError
            If the ending is unknown.
        ImportError
            If a picture is asked for and matplotlib is missing; says how to get it.
        OSError
            If the file cannot be written.

        Notes
        -----
        Local.  Once the task was started, colours show each subtask's state at the moment.
        """
        graph, subtasks = self._dag()
        from alamo_mpi.extras.dagplot import draw

        names = [f"{task._uid} {task._name()}" for task in subtasks]
        states = None
        if self._submission is not None:
            mark_attempts(names, self._submission)
            program = self._submission.program
            states = [State(program.states[i]).name.lower() for i in range(program.ntasks)]
        draw(graph, names, os.fspath(file_name), states=states)

    def _dag(self) -> tuple[Graph, Sequence[Task]]:
        raise TaskStateError(
            f"{self._title()} is a single task and has no dependency graph: "
            "dump_dag draws what Batch.compile made.",
            uid=self._uid,
        )

    # Inside -----------------------------------------------------------------------------------

    def _name(self) -> str:
        return type(self).__name__.lstrip("_").lower()

    def _title(self) -> str:
        return f"Task {self._uid} {self._name()!r}"

    def __repr__(self) -> str:
        if self._submission is None:
            state = "compiled" if self._parent is not None else "not started"
        elif self._submission.program.ntasks == 1 or self._parent is not None:
            state = State(self._submission.program.states[self._index]).name.lower()
        else:
            left = self._submission.program.remaining
            state = f"{left} unfinished" if left else "ended"
        return f"<{self._title()}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self._title()} cannot be pickled. Pass it as an argument of its own (not inside a "
            "container) to a task of the same batch: its result takes its place."
        )

    def _check_own(self, done: str) -> None:
        if self._parent is not None:
            raise TaskStateError(
                f"{self._title()} is a part of compiled task {self._parent._uid} and cannot be "
                f"{done} by itself: use the compiled task. result.get() works on either.",
                uid=self._uid,
                task_name=self._name(),
            )

    def _started(self) -> Submission:
        submission = self._submission
        if submission is None and self._parent is not None:
            submission = self._parent._submission
        if submission is None:
            which = self._title() if self._parent is None else self._parent._title()
            raise TaskStateError(
                f"{which} was not started: call start() or run() first.", uid=self._uid
            )
        return submission

    def _locate(self, uid: int | None) -> tuple[Submission, int]:
        """Return where a subtask's outputs are."""
        submission = self._started()
        if self._parent is not None or not isinstance(self, _Compiled):
            if uid is not None and uid != self._uid:
                raise KeyError(f"{self._title()} has no subtask with uid {uid}")
            return submission, self._index
        if uid is None:
            if submission.program.ntasks == 1:
                return submission, 0
            raise TypeError(
                f"compiled task {self._uid} has {submission.program.ntasks} subtasks: say whose "
                "output is meant, as in get(subtask.uid), or ask the subtask itself"
            )
        try:
            return submission, submission.index_of(uid)
        except KeyError:
            raise KeyError(f"compiled task {self._uid} has no subtask with uid {uid}") from None

    def _reason(self, root: int, index: int) -> str | None:
        """Say through which data one subtask depends on another, if it does so directly."""
        compiled = self if isinstance(self, _Compiled) else self._parent
        if not isinstance(compiled, _Compiled):
            return None
        graph, subtasks = compiled._dag()
        return explain(graph, [task._accesses for task in subtasks], root, index)


class _Function(Task):
    """A call of a Python function."""

    __slots__ = ("_arguments", "_function", "_isolated", "_results_of", "_retry", "_timeout")

    def __init__(
        self,
        batch: Batch,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        callback_func: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
        reads: Accesses = None,
        writes: Accesses = None,
    ) -> None:
        Task.__init__(self, batch, callback_func, callback_args, reads, writes)
        self._function = function
        self._arguments = arguments
        #: Seconds that it may run; None for as long as it likes.
        self._timeout: float | None = None
        #: On what terms it is tried again, if it is.
        self._retry: Retry | None = None
        #: Whether it runs in a process of its own.
        self._isolated = False
        #: (argument index, task whose result goes there).
        self._results_of: Sequence[tuple[int, Task]] = ()

    def _declare(self, declared: DataAccess) -> None:
        if self._retry is not None:
            refuse_unsafe(self._retry, (*self._accesses, declared), self._title())
        Task._declare(self, declared)

    def _try_again(self, *terms: Any) -> None:
        """Note on what terms it is tried again: arguments of `retry_terms`."""
        self._retry = retry_terms(*terms)
        refuse_unsafe(self._retry, self._accesses, self._title())

    def _name(self) -> str:
        return name_of(self._function)

    def _enter(self, submission: Submission, index: int) -> None:
        """Tell the submission what it cannot know from the function; called when it starts."""


class _Compiled(Task):
    """A list of tasks with the graph of their dependencies."""

    __slots__ = ("_graph", "_subtasks")

    def __init__(
        self,
        batch: Batch,
        subtasks: Sequence[_Function],
        graph: Graph,
        callback_func: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
    ) -> None:
        Task.__init__(self, batch, callback_func, callback_args, compiled=True)
        self._subtasks = subtasks
        self._graph = graph

    def _dag(self) -> tuple[Graph, Sequence[Task]]:
        return self._graph, self._subtasks


def _last_if_whole(index: int) -> float:
    return float("inf") if index < 0 else index


def _checked(declared: Accesses, mode: access.Mode, argument: str) -> tuple[DataAccess, ...]:
    """Return the accesses as a tuple, after a look at each."""
    if isinstance(declared, DataAccess):
        declared = (declared,)
    assert declared is not None
    try:
        accesses = tuple(declared)
    except TypeError:
        raise TypeError(
            f"{argument}= takes what Batch.{argument[:-1]} returns, or a list of it, not "
            f"{declared!r}"
        ) from None
    for each in accesses:
        if not isinstance(each, DataAccess) or each.mode != mode:
            raise TypeError(
                f"{argument}= takes what Batch.{argument[:-1]} returns, or a list of it; "
                f"{each!r} is something else"
            )
    return accesses
