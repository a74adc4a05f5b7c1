"""Tasks that are tried again: what may be asked for, and what is refused."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alamo_mpi.core.access import DataAccess, Mode
from alamo_mpi.core.retry import Retry, kinds_of
from alamo_mpi.errors import TaskTimeoutError, WorkerDiedError

if TYPE_CHECKING:
    from alamo_mpi.core.record import Attempt
    from alamo_mpi.runtime.submission import Submission
    from alamo_mpi.task import Task

__all__ = ["RetryOn", "attempts_of", "mark_attempts", "refuse_unsafe", "retry_terms"]

RetryOn = type[BaseException] | tuple[type[BaseException], ...] | None

#: What a task is tried again after, unless the caller says: nothing that it has raised itself.
_USUAL = frozenset(
    (
        *(kinds_of(kind)[0] for kind in (WorkerDiedError, TaskTimeoutError)),
        "subprocess.TimeoutExpired",
    )
)


def retry_terms(
    retries: int, retry_delay: float, retry_on: RetryOn, idempotent: bool
) -> Retry | None:
    """Return the terms on which a task is tried again; None if it is not.

    Raises
    ------
    TypeError
        If `retries` is no integer, or `retry_on` has something in it that is no exception class.
    ValueError
        If a number is negative.
    """
    count = operator.index(retries)
    if count < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    delay_s = float(retry_delay)
    if not 0 <= delay_s < float("inf"):
        raise ValueError(f"retry_delay must be a number of seconds from 0 on, not {retry_delay!r}")
    kinds = _USUAL
    if retry_on is not None:
        classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        for each in classes:
            if not (isinstance(each, type) and issubclass(each, BaseException)):
                raise TypeError(
                    f"retry_on takes an exception class or a tuple of them, not {each!r}"
                )
        if not classes:
            raise ValueError("retry_on is empty: name an exception class, or leave it out")
        kinds = frozenset(kinds_of(each)[0] for each in classes)
    if not count:
        return None
    return Retry(count, delay_s, kinds, bool(idempotent))


def refuse_unsafe(retry: Retry | None, accesses: Sequence[DataAccess], title: str) -> None:
    """Refuse to try a task again that reads what it writes, as a failed attempt may have done so.

    Raises
    ------
    ValueError
        Unless its maker says that another attempt does no harm.
    """
    if retry is None or retry.idempotent:
        return
    reads = [access for access in accesses if access.mode == Mode.READ]
    for mine in (access for access in accesses if access.mode == Mode.WRITE):
        for other in reads:
            if _meet(mine, other):
                raise ValueError(
                    f"{title} reads and writes {_named(mine)}, so that retries= is not safe: an "
                    "attempt that fails half-way has changed what the next one would read. Let it "
                    "write something else, leave retries out, or say idempotent=True if another "
                    "attempt does no harm."
                )


def _meet(mine: DataAccess, other: DataAccess) -> bool:
    """Tell whether two accesses have a channel in common, by name."""
    if isinstance(mine.obj, str) and isinstance(other.obj, str):
        return any(
            os.path.commonpath((one, two)) in (one, two)
            for one in _paths(mine)
            for two in _paths(other)
        )
    if mine.obj != other.obj:
        return False
    both = set(mine.channels), set(other.channels)
    return not all(both) or not both[0].isdisjoint(both[1])


def _paths(access: DataAccess) -> list[str]:
    assert isinstance(access.obj, str)
    names = access.channels or ("",)
    return [os.path.abspath(os.path.join(access.obj, str(name))) for name in names]


def _named(access: DataAccess) -> str:
    return repr(access).partition("(")[2][:-1]


def attempts_of(task: Task, *, compiled: bool) -> list[Attempt] | dict[int, list[Attempt]]:
    """Return the attempts at a task, or by uid at the subtasks of a compiled one; see `Task`."""
    submission = task._submission
    if submission is None:
        return {} if compiled else []
    outcomes, retry = task._batch._manager.outcomes, submission.program.retry
    if compiled:
        uids = submission.uids
        return {uids[i]: outcomes.attempts(submission, i, task._reason) for i in sorted(retry)}
    if task._index not in retry:
        return []
    return outcomes.attempts(submission, task._index, task._reason)


def mark_attempts(names: list[str], submission: Submission) -> None:
    """Add to the names of tasks that were tried again how often they were."""
    for index, attempts in list(submission.attempts.items()):
        if len(attempts) > 1:
            names[index] += f", attempt {len(attempts)}"
