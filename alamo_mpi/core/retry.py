"""Trying a task again: on what, how often, after how long, and who waits for that.

1. An attempt that failed by an exception that the caller named is followed by another, as long as
   there are retries left and nobody has given the task up.  Until the last attempt the task is not
   final: its successors wait, and none of them travels in the chunk of a task that may be tried
   again, as a worker would skip, or run, what stands behind a failure.
2. Between two attempts the task is WAITING and *held*: on no worker, in no ready set.  Whoever
   drives the manager ticks; nothing else waits for the time to come.
3. It is then kept for a worker on which it has not failed, an idle one if there is one.  Another
   takes it only when it has nothing else to do.

Exceptions are named by the qualified names of their classes and of those that they derive from:
what is compared here is text, so that no class of the user's is imported, or run, by the manager.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from alamo_mpi.core.states import State

if TYPE_CHECKING:
    from alamo_mpi.core.events import Progressed
    from alamo_mpi.core.program import Program

__all__ = ["LONGEST_DELAY_S", "Holds", "Retry", "kinds_of", "sift"]

#: The delay between two attempts doubles up to this, or stays what it was if that is more.
LONGEST_DELAY_S = 60.0


class Retry(NamedTuple):
    """On what terms a task is tried again."""

    #: Attempts after the first.
    retries: int
    #: Seconds before the second attempt.
    delay_s: float
    #: Names of the exceptions after which it is tried again, see `kinds_of`.
    kinds: frozenset[str]
    #: Whether it may read what it writes: the caller says that another attempt does no harm.
    idempotent: bool = False

    def after(self, attempts: int, kinds: Container[str]) -> float | None:
        """Return the seconds before another attempt; None if there is none.

        Parameters
        ----------
        attempts
            How many there were, the one that has failed included.
        kinds
            What the last one has raised.
        """
        if attempts > self.retries or not any(kind in kinds for kind in self.kinds):
            return None
        doubled = self.delay_s * 2.0 ** min(attempts - 1, 60)
        return min(doubled, max(LONGEST_DELAY_S, self.delay_s))


def kinds_of(exception: type[BaseException]) -> tuple[str, ...]:
    """Name an exception's class and those that it derives from, as ``except`` compares them."""
    return tuple(_name(kind) for kind in exception.__mro__ if issubclass(kind, BaseException))


def _name(kind: type[BaseException]) -> str:
    module, name = kind.__module__, kind.__qualname__
    if module == "__main__" or "<" in name:  # it travels by value, and cloudpickle drops the rest
        name = kind.__name__
    return f"{module}.{name}"


class Holds:
    """The tasks of one scheduler that are between two attempts."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Program, int]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, program: Program, index: int, until: float) -> None:
        """Hold a task up to a time.  O(log n)."""
        self._pushed += 1
        heapq.heappush(self._heap, (until, self._pushed, program, index))

    def pop_due(self, now: float) -> Iterator[tuple[Program, int]]:
        """Remove and yield the tasks whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            _, _, program, index = heapq.heappop(self._heap)
            yield program, index

    def drop(self, program: Program, tasks: frozenset[int] | None = None) -> None:
        """Forget the tasks of a program, or these of it.  O(n)."""
        self._heap = [
            entry
            for entry in self._heap
            if entry[2] is not program or (tasks is not None and entry[3] not in tasks)
        ]
        heapq.heapify(self._heap)

    def untils(self) -> dict[tuple[int, int], float]:
        """Return program number and task -> the time up to which it is held."""
        return {(program.pid, index): until for until, _, program, index in self._heap}


def sift(
    program: Program, indices: Sequence[int], offset: int, event: Progressed, *, all_over: bool
) -> tuple[list[tuple[int, int, float]], list[tuple[Sequence[int], int]], Progressed]:
    """Part tasks that have ended into those that are tried again and those that are final.

    Parameters
    ----------
    program, indices, offset
        The tasks, and the offset of the first of them in the event.
    event
        How they ended.
    all_over
        Whether everything was given up.

    Returns
    -------
    again : list of (task, offset, seconds)
        Those that are tried again, and after how long.
    parts : list of (tasks, offset)
        The others, in runs.
    event : Progressed
        The same, in which a task that was given up before its last attempt is cancelled.
    """
    again: list[tuple[int, int, float]] = []
    parts: list[tuple[Sequence[int], int]] = []
    first = 0
    for at, index in enumerate(indices):
        failed, retry = event.failures.get(offset + at), program.retry.get(index)
        if failed is None or retry is None or failed.state != State.FAILED:
            continue
        delay_s = retry.after(len(program.tried.get(index, ())) + 1, failed.kinds)
        if delay_s is None:
            continue
        if all_over or program.gives_up(index):
            cancelled = failed._replace(state=State.CANCELLED)
            event = event._replace(failures={**event.failures, offset + at: cancelled})
            continue
        again.append((index, offset + at, delay_s))
        parts.append((indices[first:at], offset + first))
        first = at + 1
    parts.append((indices[first:], offset + first))
    return again, [part for part in parts if part[0]], event
