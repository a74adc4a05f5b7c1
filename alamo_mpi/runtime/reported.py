"""From what a worker reports to the event that the scheduler hears."""

from __future__ import annotations

from collections.abc import Mapping

from alamo_mpi.core.events import Failed, Progressed
from alamo_mpi.core.messages import INTERRUPTED, Progress
from alamo_mpi.core.states import State

__all__ = ["progressed"]


def progressed(message: Progress) -> Progressed:
    """Return the event that a report of a worker is, without what only the client needs."""
    failures: Mapping[int, Failed] = {}
    if message.failures:
        failures = {at: _how(failure.root) for at, failure in message.failures.items()}
    return Progressed(message.chunk, message.ended, failures, message.kept, message.seconds)


def _how(root: int) -> Failed:
    if root >= 0:
        return Failed(State.SKIPPED, root)
    return Failed(State.CANCELLED if root == INTERRUPTED else State.FAILED)
