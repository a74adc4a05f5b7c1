"""One start of a task, single or compiled, on rank 0: what goes out, and what has come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alamo_mpi.core.messages import Address, Failure, Progress
from alamo_mpi.core.program import NO_TASKS, Program
from alamo_mpi.core.states import FIRST_FINAL, State
from alamo_mpi.errors import TaskStateError

__all__ = ["Callback", "Decoding", "Submission", "Tried"]

#: A function and the arguments that follow the task's result.
Callback = tuple[Callable[..., Any], tuple[Any, ...]]


class Decoding(NamedTuple):
    """How what a task wrote becomes text."""

    encoding: str
    errors: str
    #: Whether every way to end a line becomes a newline.
    newlines: bool

    def text(self, data: bytes | bytearray) -> str:
        """Decode."""
        text = data.decode(self.encoding, self.errors)
        return text.replace("\r\n", "\n").replace("\r", "\n") if self.newlines else text


class Tried(NamedTuple):
    """One attempt at a task that is tried again, as it is kept."""

    rank: int
    #: Seconds since the epoch, by the clock of its rank.
    started: float
    ended: float
    #: Why it has failed; None if it has not.
    failure: Failure | None


class Submission:
    """The tasks of one start, by their index in it.

    Parameters
    ----------
    program
        The scheduler's view; its ``states`` are the tasks' states.
    uids, names
        Unique id and function name of each task.
    arguments
        Payload of each argument list.

    Attributes
    ----------
    inputs : dict
        Task -> [(argument index, submission, task there)], for arguments that are results.
    blobs : dict
        Task -> numbers of the blobs among its arguments.
    results : list
        Payload of each result, None where there is none.
    failures : dict
        Task -> (what happened, rank), for failed tasks.
    roots : dict
        Task -> (submission, task there) at the root, for skipped tasks.
    kept : dict
        Task -> (rank, bytes), for results that stay on their worker.
    wanted : dict
        Task -> number of unfinished tasks that take its result as an argument.
    homes : dict
        Task -> rank that holds its result for them.
    streams : dict
        Task -> (rank, stdout, stderr), for tasks that wrote something.
    decodings : dict
        Task -> how its output becomes text, where that is not the usual way.
    callbacks : dict
        Task -> callback, for those that have not run.
    callback_errors : dict
        Task -> exception that its callback raised; -1 stands for the compiled task itself.
    limits : dict
        Task -> seconds that it may run, for those that have a limit.
    attempts : dict
        Task -> its attempts so far, of those that are tried again.
    isolated : frozenset
        Tasks that run in a process of their own.
    values : dict
        Task -> result or exception as the user got it, so that each ``get`` gives the same object.
    """

    __slots__ = (
        "__weakref__",
        "_uid_index",
        "arguments",
        "attempts",
        "blobs",
        "callback",
        "callback_errors",
        "callbacks",
        "callbacks_left",
        "complete",
        "decodings",
        "failures",
        "homes",
        "inputs",
        "isolated",
        "kept",
        "limits",
        "names",
        "origin",
        "program",
        "results",
        "roots",
        "streams",
        "submitted",
        "uids",
        "values",
        "wanted",
    )

    def __init__(
        self,
        program: Program,
        uids: Sequence[int],
        names: list[str],
        arguments: list[Any],
    ) -> None:
        self.program = program
        self.uids = uids
        self.names = names
        self.arguments = arguments
        self.inputs: dict[int, list[tuple[int, Submission, int]]] = {}
        self.blobs: dict[int, list[int]] = {}
        self.results: list[Any] = [None] * program.ntasks
        self.failures: dict[int, tuple[Failure, int]] = {}
        self.roots: dict[int, tuple[Submission, int]] = {}
        self.kept: dict[int, tuple[int, int]] = {}
        self.wanted: dict[int, int] = {}
        self.homes: dict[int, int] = {}
        self.streams: dict[int, tuple[int, bytes | int, bytes | int]] = {}
        self.decodings: dict[int, Decoding] = {}
        self.callbacks: dict[int, Callback] = {}
        self.callback: Callback | None = None
        #: Callbacks that must have run before the start is over.
        self.callbacks_left = 0
        #: Whether every task is final and everything of it is stored; set last.
        self.complete = False
        self.callback_errors: dict[int, BaseException] = {}
        self.limits: dict[int, float] = {}
        self.attempts: dict[int, list[Tried]] = {}
        self.isolated = NO_TASKS
        self.values: dict[int, Any] = {}
        #: Seconds by the manager's clock.
        self.submitted = 0.0
        #: On rank 0, of one that came by message: its client, and its number there.
        self.origin: tuple[Address, int] | None = None
        self._uid_index: dict[int, int] | None = None

    @property
    def over(self) -> bool:
        """Whether every task is final and every callback has run."""
        return not self.program.remaining and not self.callbacks_left

    def is_final(self, index: int) -> bool:
        """Tell whether a task has its final state."""
        return self.program.states[index] >= FIRST_FINAL

    def index_of(self, uid: int) -> int:
        """Return the index of a task.

        Raises
        ------
        KeyError
            If the uid belongs to none of these tasks.
        """
        if self._uid_index is None:
            self._uid_index = {each: index for index, each in enumerate(self.uids)}
        return self._uid_index[uid]

    def first_failure(self) -> int | None:
        """Return the first task in list order that has no result; None if all have."""
        states = self.program.states[: self.program.ntasks]
        if states.count(State.DONE) == len(states):
            return None
        return next(i for i, state in enumerate(states) if state != State.DONE)

    def store(self, message: Progress, indices: Sequence[int], offset: int, rank: int) -> None:
        """Take in what a worker says about these tasks."""
        count = len(indices)
        results = message.results
        if results is not None:
            part = results[offset : offset + count] if count != len(results) else results
            if isinstance(indices, range):
                self.results[indices.start : indices.stop] = part
            else:
                for index, result in zip(indices, part, strict=True):
                    self.results[index] = result
        if self.wanted:
            self.homes.update((index, rank) for index in indices if index in self.wanted)
        for at, failure in message.failures.items():
            if 0 <= at - offset < count:
                self.failures[indices[at - offset]] = failure, rank
        for at, nbytes in message.kept.items():
            if 0 <= at - offset < count:
                self.kept[indices[at - offset]] = rank, nbytes
        for at, (out, err) in message.streams.items():
            if 0 <= at - offset < count:
                self.streams[indices[at - offset]] = rank, out, err

    def note_attempt(self, message: Progress, index: int, offset: int, rank: int) -> Tried:
        """Take in how an attempt has ended, at a task that is tried again."""
        started = ended = 0.0
        if message.spans is not None:
            started, ended = message.spans[offset]
        attempt = Tried(rank, started, ended, message.failures.get(offset))
        self.attempts.setdefault(index, []).append(attempt)
        return attempt

    def drop_arguments(self, indices: Sequence[int]) -> None:
        """Free the arguments of tasks that are final."""
        if isinstance(indices, range):
            self.arguments[indices.start : indices.stop] = [None] * len(indices)
        else:
            for index in indices:
                self.arguments[index] = None

    def disown(self) -> None:
        """In a forked child: nothing is heard here of tasks that are not final; say so."""
        for index in range(self.program.ntasks):
            if not self.is_final(index):
                error = TaskStateError(
                    f"Task {self.uids[index]} {self.names[index]!r} was started by the process "
                    "that this one was forked from: wait for it there.",
                    uid=self.uids[index],
                    task_name=self.names[index],
                )
                self.program.states[index] = State.FAILED
                self.values[index] = self.callback_errors[-1] = error
        self.program.remaining = self.callbacks_left = 0
        self.callbacks.clear()
        self.callback = None
        self.complete = True
