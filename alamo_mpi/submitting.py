"""From a task that is started to the submission that its service gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alamo_mpi.errors import TaskStateError
from alamo_mpi.job import spreads_of, widths_of
from alamo_mpi.placed import pins_of
from alamo_mpi.runtime.prepare import Calls
from alamo_mpi.task import Task, _Compiled, _Function

if TYPE_CHECKING:
    from alamo_mpi.core.retry import Retry
    from alamo_mpi.runtime.service import BatchHandle, BatchService
    from alamo_mpi.runtime.submission import Submission

__all__ = ["make_submission"]


def make_submission(
    service: BatchService, live: BatchHandle, task: Task, *, record: bool
) -> Submission:
    """Make the submission of a task, single or compiled, and enter it in the task.

    Raises
    ------
    TaskStateError
        If it takes the result of a task that was not started.
    SerializationError
        If a function or argument cannot be pickled; nothing is entered.
    """
    if isinstance(task, _Compiled):
        tasks: Sequence[_Function] = task._subtasks
        graph = task._graph if task._graph.nedges else None
    else:
        assert isinstance(task, _Function)
        tasks, graph = (task,), None
    calls = Calls(
        [each._uid for each in tasks],
        [each._function for each in tasks],
        [each._arguments for each in tasks],
        widths_of(tasks, live.num_workers),
        pins_of(tasks),
        spreads_of(tasks),
    )
    inputs = _inputs(task, tasks)
    locality = None
    if not service.one_node:
        from alamo_mpi.runtime.locality import Locality  # starts MPI

        locality = Locality(live.ranks, [each._accesses for each in tasks])
        graph = locality.graph(graph)
    submission = service.preparer.submission(calls, graph, inputs, record=record)
    if locality is not None:
        locality.note(submission.program)
    retry: dict[int, Retry] = {}
    isolated: list[int] = []
    for index, each in enumerate(tasks):
        if each._callback is not None:
            submission.callbacks[index] = each._callback
        if each._timeout is not None:
            submission.limits[index] = each._timeout
        if each._retry is not None:
            retry[index] = each._retry
        if each._isolated:
            isolated.append(index)
        if type(each) is not _Function:
            each._enter(submission, index)
    submission.program.retry = retry
    if isolated:
        submission.isolated = frozenset(isolated)
    submission.callbacks_left = len(submission.callbacks)
    if isinstance(task, _Compiled) and task._callback is not None:
        submission.callback = task._callback
        submission.callbacks_left += 1
    task._submission = submission
    for each in tasks:
        each._submission = submission
    return submission


def _inputs(
    task: Task, tasks: Sequence[_Function]
) -> dict[int, list[tuple[int, Submission | None, int]]]:
    """Say for each task which arguments are results, and of which tasks."""
    inputs: dict[int, list[tuple[int, Submission | None, int]]] = {}
    for index, each in enumerate(tasks):
        for at, producer in each._results_of:
            inside = producer._parent is task and task is not producer
            if not inside and producer._submission is None:
                raise TaskStateError(
                    f"{each._title()} takes the result of {producer._title()}, which was not "
                    "started: start that first, or compile both in one list.",
                    uid=each._uid,
                )
            source = None if inside else producer._submission
            inputs.setdefault(index, []).append((at, source, producer._index))
    return inputs
