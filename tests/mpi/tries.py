"""Functions that fail at first, for tests of tasks that are tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alamo_mpi import Batch, Task
from alamo_mpi.core.record import Attempt
from tests.mpi.gates import LIMIT_S

#: A back-off that no test waits for.
LONG_S = 4 * LIMIT_S


class OwnError(LookupError):
    """An exception of the program's own."""


def nth(folder: Path) -> int:
    """Return which attempt this is, from 1."""
    for number in range(1, 100):
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError("this is tried for ever")


def falters(folder: Path, times: int, kind: type[BaseException] = OwnError) -> int:
    """Fail so many times, then return the number of the attempt."""
    number = nth(folder)
    print(f"attempt {number}")
    if number <= times:
        raise kind(f"attempt {number}")
    return number


def attempts(task: Task) -> list[Attempt]:
    found = task.attempts
    assert isinstance(found, list)
    return found


def held(batch: Batch, folder: Path) -> Task:
    """Return a task that has failed and waits for longer than any test."""
    terms: dict[str, Any] = {"retries": 1, "retry_delay": LONG_S, "retry_on": OwnError}
    task = batch.function(falters, folder, 1, **terms)
    task.start()
    driven(batch, lambda: len(attempts(task)) == 1)
    return task


def driven(batch: Batch, done: Callable[[], bool]) -> None:
    assert batch._manager.drive(done, LIMIT_S)
