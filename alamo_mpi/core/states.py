"""The life of a task, as one small table; pictures and documents use the same words."""

from __future__ import annotations

import enum

__all__ = ["FIRST_FINAL", "State"]


class State(enum.IntEnum):
    """Where a task stands.  States from `DONE` on are final: no task leaves them."""

    #: Some predecessor is unfinished.
    WAITING = 0
    #: Every predecessor is finished; the task stands in a ready set.
    READY = 1
    #: Sent to a worker as part of a chunk, running or about to.
    RUNNING = 2
    #: Its function returned.
    DONE = 3
    #: Its function raised, or the task could not be run.
    FAILED = 4
    #: Not run, because a task whose data it reads failed.
    SKIPPED = 5
    #: Given up before it had a result.
    CANCELLED = 6


#: ``state >= FIRST_FINAL`` tells a final state; cheaper than a set in the inner loops.
FIRST_FINAL = int(State.DONE)
