"""What is recorded of one task."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TaskRecord"]


class TaskRecord(NamedTuple):
    """The life of one task; times in seconds since the epoch."""

    uid: int
    name: str
    submitted: float
    ready: float
    started: float
    ended: float
    rank: int
    host: str
    bytes_in: int
    bytes_out: int
    status: str
