"""A wait of a task that lasts: the manager is told what for, and answers if it has no end.

Most waits are over before; so they cost nothing, and a circle is found a tenth of a second late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from alamo_mpi import errors
from alamo_mpi.core.messages import Address, Answer, Waits
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.turn import Seat

__all__ = ["NOBODY", "Vigil", "endless", "rebuilt", "vigil_of"]

#: A wait is told after this long.
_SOON_S = 0.1
#: A wait with a time limit above this counts as one without.
_ENDLESS_S = 1e8


def endless(timeout: float | None) -> bool:
    """Tell whether a wait with this time limit has none."""
    return timeout is None or timeout >= _ENDLESS_S


class Vigil:
    """One wait.

    Parameters
    ----------
    begin
        Tells the manager; returns where its answer will be, if it ever has one.
    end
        Tells it that the wait is over.
    """

    def __init__(self, begin: Callable[[], list[Answer]], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end
        self._since = time.perf_counter()
        self._answers: list[Answer] | None = None

    def look(self) -> None:
        """Tell of the wait when it is time; called now and then.

        Raises
        ------
        DeadlockError
            It would have no end.
        """
        if self._answers is None:
            if time.perf_counter() - self._since < _SOON_S:
                return
            self._answers = self._begin()
        if self._answers:
            raise rebuilt(self._answers[0])

    def __enter__(self) -> Vigil:
        return self

    def __exit__(self, *error: object) -> None:
        if self._answers is not None:
            self._end()


class _Nobody(Vigil):
    """Stands for a wait of which nobody is told."""

    def __init__(self) -> None:
        super().__init__(list, lambda: None)

    def look(self) -> None:
        """Do nothing."""


NOBODY = _Nobody()


def vigil_of(
    place: Seat | None,
    on: tuple[Any, int | None] | None,
    address: Address,
    number: int,
    answers: dict[int, list[Answer]],
    send: Callable[[Any], None],
) -> Vigil:
    """Return what tells the manager of a wait of the task that has this place, if it has one.

    Parameters
    ----------
    place
        Of the calling thread.
    on
        What the wait is for, as `outcome.Wanted`; None if it has a limit.
    address, number
        Where the answer goes, and how it is known there.
    answers
        Where answers come in.
    send
        The way to the manager.
    """
    if place is None or on is None:
        return NOBODY
    uid, (wanted, index) = place.uid, on
    if isinstance(wanted, Submission):
        what = "start", wanted.program.pid, -1 if index is None else index
    else:
        what = "batch", wanted.number, -1

    def begin() -> list[Answer]:
        mine = answers[number] = []
        send(Waits(address, number, uid, what))
        return mine

    def end() -> None:
        del answers[number]
        send(Waits(address, number, uid, None))

    return Vigil(begin, end)


def rebuilt(answer: Answer) -> errors.AlamoError:
    """Return the error that the manager has answered with."""
    assert answer.error is not None
    name, text = answer.error
    error: Any = getattr(errors, name)(text)
    assert isinstance(error, errors.AlamoError)
    return error
