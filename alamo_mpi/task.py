"""Tasks and the handles of what they leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from alamo_mpi.core import access
from alamo_mpi.core.access import AccessTarget, DataAccess
from alamo_mpi.core.states import State
from alamo_mpi.errors import CancelledError, DependencyError, InternalError, TaskStateError
from alamo_mpi.inference import explain
from alamo_mpi.runtime.failures import rebuild
from alamo_mpi.runtime.functions import name_of
from alamo_mpi.runtime.packing import ATOMS, unpack

if TYPE_CHECKING:
    from collections.abc import Hashable

    from alamo_mpi.batch import Batch
    from alamo_mpi.core.graph import Graph
    from alamo_mpi.runtime.submission import Submission

__all__ = ["AsyncDict", "Task"]

#: The seed's "no limit", in seconds.
default_timeout = 1e9

Accesses = DataAccess | Iterable[DataAccess] | None


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
        submission, index = self._task._locate(tuid)
        if self._what == "result":
            return self._task._result_of(submission, index, timeout)
        return self._task._stream_of(submission, index, self._what, timeout)

    def __repr__(self) -> str:
        return f"<{self._what} of {self._task!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A task's handle cannot be pickled. Pass it, or the task, as an argument of its own "
            "(not inside a container) to a task of the same batch: the result takes its place."
        )


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
            if not manager.drive(lambda: submission.over, timeout):
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
            self._result_of(submission, failed, None)
        if error is not None:
            raise error
        if submission.program.ntasks == 1:
            return self._result_of(submission, 0, None)
        return None

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

    def _await(self, submission: Submission, index: int, timeout: float | None) -> None:
        def final() -> bool:
            return submission.is_final(index)

        if not final() and not self._batch._manager.drive(final, timeout):
            raise TimeoutError(
                f"Task {submission.uids[index]} {submission.names[index]!r} has not ended after "
                f"{timeout:g} s"
            )

    def _result_of(self, submission: Submission, index: int, timeout: float | None) -> Any:
        state = submission.program.states[index]
        if state == State.DONE and index not in submission.kept:
            payload = submission.results[index]
            if type(payload) in ATOMS:
                return payload
        values = submission.values
        if index not in values:
            deadline = None if timeout is None else time.perf_counter() + timeout
            self._await(submission, index, timeout)
            rest = None if deadline is None else max(deadline - time.perf_counter(), 1e-3)
            if submission.program.states[index] == State.DONE:
                return self._value(submission, index, rest)
            values[index] = self._error(submission, index)
        value = values[index]
        if submission.program.states[index] == State.DONE:
            return value
        # Without the frames that an earlier get() has left on it.
        raise value.with_traceback(None)

    def _value(self, submission: Submission, index: int, timeout: float | None) -> Any:
        """Rebuild a result, fetching it from its worker if it is there."""
        manager = self._batch._manager
        kept = submission.kept.get(index)
        if kept is None:
            value = unpack(submission.results[index], manager.find_blob)
        else:
            rank, key = kept[0], (submission.uids[index], "result")
            payload = manager.fetch(rank, key, timeout)
            if payload is None:
                raise InternalError(f"the result of task {key[0]} is not on rank {rank} any more")
            value = unpack(payload[0], manager.find_blob)
            if index not in submission.wanted:
                manager.forget(rank, key)
        # Two threads may come here at once; both get the first one's object.
        return submission.values.setdefault(index, value)

    def _error(self, submission: Submission, index: int) -> BaseException:
        uid, name = submission.uids[index], submission.names[index]
        title = f"Task {uid} {name!r}"
        state = submission.program.states[index]
        if state == State.CANCELLED:
            return CancelledError(f"{title} was cancelled.", uid=uid, task_name=name)
        if state == State.SKIPPED:
            source, root = submission.roots[index]
            error = DependencyError(
                f"{title} was not run: {self._reason(submission, index, source, root)} task "
                f"{source.uids[root]} {source.names[root]!r} failed.",
                uid=uid,
                task_name=name,
            )
            if root not in source.values:
                source.values[root] = self._error(source, root)
            error.__cause__ = source.values[root]
            return error
        failure, rank = submission.failures[index]
        return rebuild(failure, name, uid, rank, self._batch._manager.hosts[rank])

    def _reason(self, submission: Submission, index: int, source: Submission, root: int) -> str:
        """Say through which data a failure reached a task, if that can be said in a few words."""
        compiled = self if isinstance(self, _Compiled) else self._parent
        if source is submission and isinstance(compiled, _Compiled):
            graph, subtasks = compiled._dag()
            accesses = [task._accesses for task in subtasks]
            why = explain(graph, accesses, root, index)
            if why is not None:
                return f"{why}, and"
        return "it depends on data of a task that did not end well;"

    def _stream_of(
        self, submission: Submission, index: int, what: str, timeout: float | None
    ) -> str:
        self._await(submission, index, timeout)
        streams = submission.streams.get(index)
        if streams is None:
            return ""
        rank, out, err = streams
        data = out if what == "stdout" else err
        if isinstance(data, int):
            payload = self._batch._manager.fetch(rank, (submission.uids[index], what), timeout)
            if payload is None:
                raise InternalError(f"the {what} of {self._title()} is not on rank {rank} any more")
            data = payload[0]
        return bytes(data).decode(errors="replace")


class _Function(Task):
    """A call of a Python function."""

    __slots__ = ("_arguments", "_function", "_results_of")

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
        #: (argument index, task whose result goes there).
        self._results_of: Sequence[tuple[int, Task]] = ()

    def _name(self) -> str:
        return name_of(self._function)


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
