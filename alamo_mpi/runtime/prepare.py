"""From tasks as the user wrote them to a submission: functions numbered, arguments packed.

Everything is pickled here, at the start of the task: whatever cannot be is reported at once and by
name, before anything runs, and what the user changes afterwards does not reach the tasks.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.program import Program
from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK, FunctionTable, name_of
from alamo_mpi.runtime.packing import is_atomic, pack
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.turn import seat

__all__ = ["Calls", "Preparer"]


class Calls(NamedTuple):
    """Function tasks that are started together, in list order; column by column, to be quick."""

    uids: list[int]
    functions: list[Callable[..., Any]]
    arguments: list[tuple[Any, ...]]
    #: Task -> number of workers that it takes, for jobs.
    widths: Mapping[int, int]
    #: Task -> the workers that may run it, where not all may.
    pins: Mapping[int, frozenset[int]]
    #: Task -> the hosts, as the workers there, over which it is to be spread, for such jobs.
    spreads: Mapping[int, tuple[frozenset[int], ...]]


class Preparer:
    """Make submissions.

    Parameters
    ----------
    functions, blobs
        The tables of the program.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever starts or compiles tasks: the tables, and the tasks themselves, are for one
        thread at a time.  Taken before the manager's lock, never after it.
    """

    def __init__(self, functions: FunctionTable, blobs: BlobTable) -> None:
        self.lock = threading.RLock()
        self._functions = functions
        self._blobs = blobs
        self._started = itertools.count()

    def submission(
        self,
        calls: Calls,
        graph: Graph | None,
        inputs: dict[int, list[tuple[int, Submission | None, int]]],
        *,
        record: bool,
    ) -> Submission:
        """Make the submission of tasks that are started together: number, and pack.

        Parameters
        ----------
        calls
            The tasks, in list order.
        graph
            Their dependencies.
        inputs
            Task -> [(argument index, submission, task there)]; None stands for this submission.
        record
            Whether the batch records its tasks.

        Raises
        ------
        SerializationError
            Naming the task whose function or argument cannot be pickled; nothing was submitted.
        """
        kinds, names = self._number(calls)
        blobs: dict[int, list[int]] = {}
        try:
            arguments = self._pack_all(calls, kinds, inputs, blobs)
        except BaseException:
            for numbers in blobs.values():
                for number in numbers:
                    self._blobs.release(number)
            raise
        externals = [
            (index, source.program, at)
            for index, entries in inputs.items()
            for _, source, at in entries
            if source is not None
        ]
        alike: int | list[int] = kinds
        if kinds and kinds.count(kinds[0]) == len(kinds):
            alike = kinds[0]
        place = seat()
        program = Program(
            self.next_program(),
            alike,
            len(kinds),
            graph,
            externals or (),
            record=record,
            depth=0 if place is None else place.depth,
            widths=calls.widths,
            pins=calls.pins,
            spreads=calls.spreads,
        )
        submission = Submission(program, _compact(calls.uids), names, arguments)
        submission.blobs = blobs
        for index, entries in inputs.items():
            # A function that travels with its task stands in front of the arguments.
            shift = int(kinds[index] == TRAVELS_WITH_TASK)
            submission.inputs[index] = [
                (at + shift, submission if source is None else source, index_there)
                for at, source, index_there in entries
            ]
        return submission

    def next_program(self) -> int:
        """Return the number for another program; on any thread."""
        return next(self._started)

    def _number(self, calls: Calls) -> tuple[list[int], list[str]]:
        """Return the number and the name of each task's function."""
        keys = list(map(id, calls.functions))
        # One task is started at a time often enough to spare it the slow way to count one.
        uses: Mapping[int, int] = {keys[0]: 1} if len(keys) == 1 else Counter(keys)
        numbers: dict[int, int] = {}
        names: dict[int, str] = {}
        for index, (key, function) in enumerate(zip(keys, calls.functions, strict=True)):
            if key in numbers:
                continue
            try:
                numbers[key] = self._functions.number(function, uses[key])
            except SerializationError as error:
                raise _named(error, calls, index, "its function") from error.__cause__
            names[key] = name_of(function)
            if len(uses) == 1:
                return [numbers[key]] * len(keys), [names[key]] * len(keys)
        return [numbers[key] for key in keys], [names[key] for key in keys]

    def _pack_all(
        self,
        calls: Calls,
        kinds: list[int],
        inputs: dict[int, list[tuple[int, Submission | None, int]]],
        blobs: dict[int, list[int]],
    ) -> list[Any]:
        met: dict[tuple[int, int], tuple[int, memoryview]] = {}
        packed: list[Any] = []
        for index, (values, kind) in enumerate(zip(calls.arguments, kinds, strict=True)):
            if index in inputs:
                # The result takes its place on the worker.
                holes = {at for at, _, _ in inputs[index]}
                values = tuple(None if at in holes else v for at, v in enumerate(values))
            if kind == TRAVELS_WITH_TASK:
                values = (calls.functions[index], *values)
            elif is_atomic(values):
                packed.append(values)
                continue
            used: list[int] = []
            blobs[index] = used
            try:
                packed.append(self._pack(values, met, used))
            except SerializationError as error:
                what = "its function or an argument"
                raise _named(error, calls, index, what) from error.__cause__
            if not used:
                del blobs[index]
        return packed

    def _pack(
        self,
        values: tuple[Any, ...],
        met: dict[tuple[int, int], tuple[int, memoryview]],
        used: list[int],
    ) -> Any:
        def place(raw: memoryview) -> int | pickle.PickleBuffer | None:
            number = self._blobs.use(raw, met)
            used.append(number)
            return number

        return pack(values, place)


def _named(error: SerializationError, calls: Calls, index: int, what: str) -> SerializationError:
    uid, name = calls.uids[index], name_of(calls.functions[index])
    return SerializationError(
        f"Task {uid} {name!r} was not started: {what} cannot travel to a worker: {error}",
        uid=uid,
        task_name=name,
    )


def _compact(uids: list[int]) -> Sequence[int]:
    """Return consecutive ids as a range."""
    if len(uids) == 1 or (uids and uids == list(range(uids[0], uids[0] + len(uids)))):
        return range(uids[0], uids[0] + len(uids))
    return uids
