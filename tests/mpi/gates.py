"""Meeting points for tests and tasks, made of files: they work between threads and ranks alike."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alamo_mpi import Batch

#: No wait of a test that is right comes near this; one that is wrong ends here.
LIMIT_S = 60.0


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {LIMIT_S:g} s in vain {what}")
        time.sleep(5e-4)


class Gate:
    """A place where tasks wait until the test lets them go on; travels as an argument.

    In a world of one rank a task runs on the thread that waits for it, if that comes before the
    driver thread; so a test awaits `arrived` before it waits for anything else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"gate-{uuid.uuid4().hex}"
        self._folder.mkdir()

    def pass_through(self) -> None:
        """Say that a task is here, and wait until the gate is open; called by tasks."""
        (self._folder / uuid.uuid4().hex).touch()
        wait_until(self._opened().exists, f"for the gate {self._folder}")

    def arrived(self, count: int = 1) -> None:
        """Wait until so many tasks are at the gate."""
        wait_until(lambda: self.count >= count, f"for {count} tasks at {self._folder}")

    @property
    def count(self) -> int:
        """Number of tasks that have come here."""
        return len(os.listdir(self._folder)) - self._opened().exists()

    def open(self) -> None:
        """Let all go on."""
        self._opened().touch()

    def _opened(self) -> Path:
        return self._folder / "open"


def pass_and_call(gate: Gate, function: Callable[..., Any], *args: Any) -> Any:
    """Wait at a gate, then call a function; for tasks."""
    gate.pass_through()
    return function(*args)


def on_each_worker(
    batch: Batch, folder: Path, function: Callable[..., Any], *args: Any
) -> Sequence[Any]:
    """Return the results of one call on each worker of the batch, which must be idle."""
    gate = Gate(folder)
    tasks = [batch.function(pass_and_call, gate, function, *args) for _ in range(batch.num_workers)]
    for task in tasks:
        task.start()
    gate.arrived(len(tasks))
    gate.open()
    return [task.result.get() for task in tasks]
