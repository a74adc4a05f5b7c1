"""What workers report, as events of the scheduler: without what only the client needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alamo_mpi.core.events import Event, Failed, Progressed, Resumed, Suspended, TailReturned
from alamo_mpi.core.messages import INTERRUPTED, Failure, Progress, Resume, Returned, Suspend
from alamo_mpi.core.states import State

__all__ = ["event_of"]


def event_of(source: int, message: Any) -> Event | None:
    """Return the event that a message of a worker is; None if it is no report of tasks."""
    if isinstance(message, Progress):
        return _progressed(message)
    if isinstance(message, Returned):
        return TailReturned(source, message.tails)
    if isinstance(message, Suspend):
        return Suspended(message.chunk, message.tail)
    if isinstance(message, Resume):
        return Resumed(message.chunk)
    return None


def _progressed(message: Progress) -> Progressed:
    failures: Mapping[int, Failed] = {}
    if message.failures:
        failures = {at: _how(failure) for at, failure in message.failures.items()}
    return Progressed(message.chunk, message.ended, failures, message.kept, message.seconds)


def _how(failure: Failure) -> Failed:
    if failure.root >= 0:
        return Failed(State.SKIPPED, failure.root)
    if failure.root == INTERRUPTED:
        return Failed(State.CANCELLED)
    return Failed(State.FAILED, kinds=failure.kinds)
