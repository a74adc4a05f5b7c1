"""The ends of tasks on their way from the manager to clients on other ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from alamo_mpi.core.messages import Ended
from alamo_mpi.core.states import State
from alamo_mpi.runtime.submission import Submission

__all__ = ["Relay"]


class Relay:
    """Gather what one event ends of each submission, and send it as one message.

    All methods are called under the manager's lock.

    Parameters
    ----------
    send
        ``send(rank, message)``.
    """

    def __init__(self, send: Callable[[int, Any], None]) -> None:
        self._send = send
        #: Program number -> (submission, its tasks that have ended).
        self._gathered: dict[int, tuple[Submission, list[int]]] = {}
        self._finished: set[int] = set()
        #: Program number -> its tasks that are tried again.
        self._attempted: dict[int, list[int]] = {}

    def ended(self, submission: Submission, indices: Iterable[int]) -> None:
        """Note that tasks have their final state and all that belongs to it."""
        pid = submission.program.pid
        self._gathered.setdefault(pid, (submission, []))[1].extend(indices)

    def attempted(self, submission: Submission, index: int) -> None:
        """Note that an attempt at a task has failed and that another one follows."""
        pid = submission.program.pid
        self._gathered.setdefault(pid, (submission, []))
        self._attempted.setdefault(pid, []).append(index)

    def finished(self, submission: Submission) -> None:
        """Note that no task of a submission is left."""
        pid = submission.program.pid
        self._gathered.setdefault(pid, (submission, []))
        self._finished.add(pid)

    def flush(self) -> None:
        """Send what was gathered."""
        if not self._gathered:
            return
        for pid, (submission, tasks) in self._gathered.items():
            assert submission.origin is not None
            again = self._attempted.pop(pid, [])
            message = _message(submission, tasks, again, finished=pid in self._finished)
            self._send(submission.origin[0][0], message)
        self._gathered.clear()
        self._finished.clear()


def _message(
    submission: Submission, tasks: list[int], again: list[int], *, finished: bool
) -> Ended:
    assert submission.origin is not None
    address, number = submission.origin
    states = submission.program.states
    results = [submission.results[index] for index in tasks]
    roots = {}
    for index in tasks:
        if states[index] == State.SKIPPED:
            owner, root = submission.roots[index]
            assert owner.origin is not None  # a task depends on tasks of its own client only
            roots[index] = owner.origin[1], root
    return Ended(
        address,
        number,
        tasks,
        bytes(states[index] for index in tasks),
        results if any(result is not None for result in results) else None,
        _of(submission.failures, tasks),
        _of(submission.kept, tasks),
        _of(submission.streams, tasks),
        roots,
        finished,
        _of(submission.attempts, [*tasks, *again]),
    )


def _of(known: dict[int, Any], tasks: list[int]) -> dict[int, Any]:
    return {index: known[index] for index in tasks if index in known} if known else {}
