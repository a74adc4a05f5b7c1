"""What workers tell each other about a job; the table of all messages is in `core.messages`."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Dismiss", "Enlist", "Join", "Part", "SpawnTurn"]


class Enlist(NamedTuple):
    """Start the wrapper of a rank of a job, as a process of yours, or write what one reads."""

    job: int
    #: The rank; -1 if another launcher starts it.
    rank: int
    #: Variables to set.
    env: dict[str, str]
    #: A file to be written for it, readable by this user alone, and what is in it; or neither.
    path: str
    content: str
    #: As in `Dismiss`, should the worker that leads the job be lost and send none.
    shared: tuple[str, ...]


class Dismiss(NamedTuple):
    """The job is over: see that nothing is left of what was started for it."""

    job: int
    #: How names of files in shared memory begin that its MPI may have left.
    shared: tuple[str, ...]
    #: Process groups that nobody watches over.
    orphans: tuple[int, ...]


class Join(NamedTuple):
    """Run your rank of a job on the worker itself, with those of its gang."""

    job: int
    gang: tuple[int, ...]
    #: Pickle of the callable, and whether one that was unpickled before will do.
    function: bytes
    lasting: bool
    #: Pickle of a tuple.
    arguments: bytes


class Part(NamedTuple):
    """The answer to `Join`: what became of one rank."""

    job: int
    rank: int
    #: Payload of the result, in a 1-tuple; or why there is none, as fields of a `Failure`.
    result: tuple[Any] | None
    failure: tuple[Any, ...] | None
    stdout: bytes
    stderr: bytes


class SpawnTurn(NamedTuple):
    """A worker wants, or gives back, the program's one turn to spawn; the manager gives it."""

    job: int
    wanted: bool
