"""From a list of tasks to one compiled task: what may stand in the list, and its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alamo_mpi.errors import TaskStateError
from alamo_mpi.inference import infer
from alamo_mpi.task import Task, _Compiled, _Function

if TYPE_CHECKING:
    from alamo_mpi.batch import Batch

__all__ = ["compiled_task"]


def compiled_task(
    batch: Batch,
    subtasks: Sequence[Task],
    callback_func: Callable[..., Any] | None,
    callback_args: tuple[Any, ...],
) -> Task:
    """Return one task of a list of tasks of a batch; see `Batch.compile`."""
    compiled_subtasks: list[_Function] = []
    for task in subtasks:
        _check_compilable(batch, task)
        compiled_subtasks.append(task)  # type: ignore[arg-type]
    values = _value_pairs(compiled_subtasks)
    graph = infer([task._accesses for task in subtasks], values)
    compiled = _Compiled(batch, compiled_subtasks, graph, callback_func, callback_args)
    with batch._manager.preparer.lock:
        for index, task in enumerate(subtasks):
            if task._parent is not None or task._submission is not None:
                twice = task._parent is compiled
                for earlier in subtasks[:index]:
                    earlier._parent = None
                if not twice:  # another thread was quicker
                    _check_compilable(batch, task)
                raise TaskStateError(
                    f"{task._title()} stands in the list twice: create one task for each call.",
                    uid=task._uid,
                )
            task._parent = compiled
            task._index = index
    return compiled


def _check_compilable(batch: Batch, task: object) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"compile takes a list of tasks; {task!r} is none")
    if task._batch is not batch:
        raise ValueError(f"{task!r} belongs to another batch: create it with this one")
    if task._parent is not None:
        raise TaskStateError(
            f"{task._title()} was compiled before: create a new task for another list.",
            uid=task._uid,
        )
    if task._submission is not None:
        raise TaskStateError(
            f"{task._title()} was started by itself: compile tasks before they are started.",
            uid=task._uid,
        )
    if isinstance(task, _Compiled):
        raise TypeError(f"{task!r} is a compiled task: compile all subtasks in one list instead")


def _value_pairs(tasks: Sequence[_Function]) -> list[tuple[int, int]]:
    """Return (producer, consumer) for results passed inside the list."""
    if not any(task._results_of for task in tasks):
        return []
    position = {id(task): index for index, task in enumerate(tasks)}
    return [
        (position[id(producer)], index)
        for index, task in enumerate(tasks)
        for _, producer in task._results_of
        if id(producer) in position
    ]
