"""One after the other: what only one rank of the program may do at a time, on rank 0."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.jobmessages import SpawnTurn

__all__ = ["SpawnTurns"]


class SpawnTurns:
    """Give one turn at a time, in the order in which it was asked for.

    Parameters
    ----------
    send
        ``send(rank, message)``.
    """

    def __init__(self, send: Callable[[int, Any], None]) -> None:
        self._send = send
        self._queue: deque[tuple[int, int]] = deque()

    def take(self, rank: int, message: SpawnTurn) -> None:
        """Take in that a rank asks for a turn, or that it is through with it."""
        entry = rank, message.job
        if message.wanted:
            self._queue.append(entry)
            if len(self._queue) > 1:
                return
        else:
            first = self._queue[0] == entry
            self._queue.remove(entry)  # it may have stopped waiting for it
            if not first or not self._queue:
                return
        rank, job = self._queue[0]
        self._send(rank, SpawnTurn(job, True))
