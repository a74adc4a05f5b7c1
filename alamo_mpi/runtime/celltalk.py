"""What a worker and its cells say to each other; each travels as a plain tuple in a parcel.

First the cell gets two things that are none of these: the module search path, in a packet of its
own, without which it could import nothing of this package; and its rank with the hosts of all
ranks, or None where there is no memory pool.  It says `UP` when it is ready for more.  Then each
`Assignment` is followed by one `DONE` or
`FAILED`, with pairs of `WAITS` and `GOES_ON` before it; the latter is answered by whether
stdout and stderr come along.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["DONE", "FAILED", "GOES_ON", "UP", "WAITS", "Assignment"]

#: (DONE, payload of the result).
DONE: Final = 0
#: (FAILED, fields of a `Failure`).
FAILED: Final = 1
#: (WAITS, None): for something that other tasks of the worker may bring about.
WAITS: Final = 2
#: (GOES_ON, None).
GOES_ON: Final = 3
#: (UP, None).
UP: Final = 4


class Assignment(NamedTuple):
    """A task to be run; payloads as they stand in a parcel."""

    #: Number of the function, and its pickle if the cell has not been sent it yet.
    kind: int
    definition: bytes | None
    #: Of the arguments, with the function in front if it travels with its task.
    payload: Any
    #: (argument index, payload of the result of another task that goes there).
    inputs: list[tuple[int, Any]]
    uid: int
    depth: int
    #: The module search path, if it has changed.
    path: list[str] | None
    #: Whether descriptors of stdout and stderr come along: these lead somewhere else from now on.
    streams: bool
