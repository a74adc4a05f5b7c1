"""What is recorded of one task."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TaskRecord"]


class TaskRecord(NamedTuple):
    """The life of one task; times in seconds since the epoch.

    Attributes
    ----------
    uid : int
        The task's number.
    name : str
        Its function's name.
    submitted, ready, started, ended : float
        When it was started by the user, had no unfinished predecessor, began and ended to run.
        The first two are by the clock of rank 0, the others by that of the task's host.
    rank : int
        Where it ran; -1 if it did not run.
    host : str
        The name of that rank's host; empty if it did not run.
    bytes_in, bytes_out : int
        Size of its arguments and of its result.
    status : str
        Its final state: ``"done"``, ``"failed"``, ``"skipped"`` or ``"cancelled"``.
    """

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
