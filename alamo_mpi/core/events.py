"""What the scheduler hears (events) and answers (commands): its whole contact with the world.

Times are seconds of any monotonic clock; the caller reads it.
"""

# Annotations are objects here, not text: NamedTuple would compile each one, on every rank.

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

__all__ = [
    "Cancelled",
    "Command",
    "Event",
    "Failed",
    "Finished",
    "Interrupted",
    "Lost",
    "Progressed",
    "RecallTail",
    "Resumed",
    "Retried",
    "SendChunk",
    "Settled",
    "Submitted",
    "Suspended",
    "TailReturned",
    "Terminated",
    "Ticked",
    "Unrun",
]


class Submitted(NamedTuple):
    """A client started a program."""

    program: Program


class Failed(NamedTuple):
    """How one task of a chunk failed."""

    state: State
    #: Position in the chunk of the failed task that made this one skipped; -1: it failed itself.
    root: int = -1
    #: What it raised, if it failed itself: see `core.retry.kinds_of`.
    kinds: tuple[str, ...] = ()


class Progressed(NamedTuple):
    """The next `ended` tasks of a chunk have ended."""

    chunk: int
    ended: int
    #: Offset from the first of these tasks -> how it failed.  All others are done.
    failures: Mapping[int, Failed]
    #: Offset -> bytes of a result that stays on the worker.
    kept: Mapping[int, int]
    #: Function id -> (tasks, seconds).
    seconds: Mapping[int, tuple[int, float]]


class TailReturned(NamedTuple):
    """A worker gave back the tasks at the end of its chunks that it had not started."""

    rank: int
    tails: Mapping[int, int]


class Suspended(NamedTuple):
    """The running task of a chunk waits, and its worker runs others; the rest was given back."""

    chunk: int
    #: Tasks given back: all but the one that waits.
    tail: int


class Resumed(NamedTuple):
    """The task of a suspended chunk runs again."""

    chunk: int


class Lost(NamedTuple):
    """A worker is gone: it gets nothing any more.

    What it had is still to be settled, by `Progressed` for what it may have begun, and by
    `TailReturned` for the rest; see `Dispatch.left_by`.
    """

    rank: int


class Ticked(NamedTuple):
    """Time has passed; sent now and then while something runs."""


class Terminated(NamedTuple):
    """End everything: cancel what waits, interrupt what runs."""


class Cancelled(NamedTuple):
    """End these programs, or some tasks of one; those that take their results are skipped."""

    programs: Sequence[Program]
    #: Which tasks; None for all.
    tasks: frozenset[int] | None = None


Event = (
    Submitted
    | Progressed
    | TailReturned
    | Suspended
    | Resumed
    | Lost
    | Ticked
    | Cancelled
    | Terminated
)


class SendChunk(NamedTuple):
    """Send this chunk to its worker."""

    chunk: Chunk


class RecallTail(NamedTuple):
    """Ask a worker for the tasks that it has not started."""

    rank: int


class Interrupted(NamedTuple):
    """Tell a worker to give up tasks: chunk -> positions, None for all that is left of it."""

    rank: int
    chunks: dict[int, list[int] | None]


class Settled(NamedTuple):
    """These tasks of a `Progressed` event have their final state; offset as in the event."""

    program: Program
    indices: Sequence[int]
    offset: int
    rank: int


class Retried(NamedTuple):
    """A task of a `Progressed` event has failed and is tried again; offset as in the event."""

    program: Program
    task: int
    offset: int
    rank: int


class Unrun(NamedTuple):
    """A task will not be run: SKIPPED, with the failed task at the root, or CANCELLED."""

    program: Program
    task: int
    state: State
    root: tuple[Program, int] | None


class Finished(NamedTuple):
    """Every task of the program is in a final state."""

    program: Program


Command = SendChunk | RecallTail | Interrupted | Settled | Retried | Unrun | Finished
