"""What is recorded of one task, and of one attempt at it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Attempt", "TaskRecord"]


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
        Its final state: ``"done"``, ``"failed"``, ``"skipped"`` or ``"cancelled"``; ``"retried"``
        for an attempt that failed and was followed by another, which has a record of its own.
    attempt : int
        Which attempt this is, from 1.
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
    attempt: int = 1


class Attempt(NamedTuple):
    """One attempt at a task that was made with ``retries=``; times in seconds since the epoch.

    Attributes
    ----------
    number : int
        Which attempt it was, from 1.
    rank : int
        Where it ran.
    host : str
        The name of that rank's host.
    started, ended : float
        By the clock of that host.
    error : BaseException or None
        What it raised, as ``result.get()`` raises it; None if it succeeded.
    """

    number: int
    rank: int
    host: str
    started: float
    ended: float
    error: BaseException | None
