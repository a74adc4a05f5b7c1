"""From the fault of a job to the error that its user gets."""

from __future__ import annotations

import signal
from typing import NamedTuple

from alamo_mpi.core.jobstate import Fault
from alamo_mpi.core.messages import Failure
from alamo_mpi.errors import JobError, JobTimeoutError, SerializationError
from alamo_mpi.runtime.failures import rebuild
from alamo_mpi.runtime.packing import dumps

__all__ = ["Blame", "raised_by"]


class Blame(NamedTuple):
    """Which job failed, and what is known of how."""

    uid: int
    name: str
    size: int
    #: Host of the rank that is to blame, or of the first.
    host: str
    fault: Fault
    exception: BaseException | None
    #: The end of what that rank wrote to stderr.
    tail: str
    #: What the launcher has to say.
    said: str = ""

    def error(self) -> JobError:
        """Return the error, as whole sentences and as attributes."""
        rank, did, status, limit_s = self.fault
        number = -status if status is not None and status < 0 and rank >= 0 else 0
        if number:
            did = f"was ended by {_signal_name(number)}"
        who = f"rank {rank} of {self.size} (host {self.host})" if rank >= 0 else "it"
        text = f"Job {self.uid} {self.name!r} failed: {who} {did}"
        if self.exception is not None:
            text += f": {type(self.exception).__name__}: {self.exception}"
        text += "." if self.size == 1 else "; all its ranks were ended."
        if rank < 0 and self.said:
            text += f" Its launcher says:\n{self.said}"
        if self.tail:
            text += f" Its stderr ends with:\n{self.tail}"
        error = JobError(text)
        if limit_s is not None:
            error = JobTimeoutError(text, limit_s=limit_s)
        error.uid, error.task_name, error.host = self.uid, self.name, self.host
        error.rank = rank if rank >= 0 else None
        error.status, error.stderr, error.exception = status, self.tail, self.exception
        error.signal = _signal_name(number) if number else None
        return error


def raised_by(failure: Failure, name: str, uid: int, rank: int, host: str) -> BaseException:
    """Return what a callable raised on a rank of a job, such that it can travel on."""
    error = rebuild(failure, name, uid, rank, host)
    try:
        dumps(error)
    except SerializationError:
        return rebuild(failure._replace(pickled=None), name, uid, rank, host)
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
