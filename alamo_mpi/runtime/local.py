"""The one worker of a world of one rank: inside the user's process, so that it can be debugged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import Fetch, Key
from alamo_mpi.mpi.world import World
from alamo_mpi.runtime.backoff import longest_nap_s
from alamo_mpi.runtime.capture import Capture
from alamo_mpi.runtime.door import Door, Ways
from alamo_mpi.runtime.jobplace import JobPlace
from alamo_mpi.runtime.spool import Spilled
from alamo_mpi.runtime.worker import Worker

__all__ = ["LocalOutput", "local_worker", "own_door"]

_NOTHING = (b"", b"")


class LocalOutput:
    """Capture that gives way to a debugger.

    While a trace function is set, as under ``python -m pdb``, nothing is captured; and
    ``breakpoint()`` in a task gives the terminal back before it starts the debugger.
    """

    def __init__(self) -> None:
        self._capture = Capture()
        self._active = False
        self._hook: Callable[..., Any] = sys.breakpointhook

    def begin(self) -> None:
        """Start to capture, unless a debugger is at work."""
        if sys.gettrace() is not None:
            return
        self._capture.begin()
        self._active = True
        self._hook, sys.breakpointhook = sys.breakpointhook, self._on_breakpoint

    def take(self) -> tuple[bytes | Spilled, bytes | Spilled]:
        """Return what was written since the last time."""
        return self._capture.take() if self._active else _NOTHING

    def end(self) -> None:
        """Stop to capture."""
        if self._active:
            self._active = False
            sys.breakpointhook = self._hook
            self._capture.end()

    def close(self) -> None:
        """Free the capture."""
        self.end()
        self._capture.close()

    def _on_breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        hook = self._hook
        out, err = self.take()
        self.end()
        # What the task wrote up to here is what one wants to see in front of the prompt.
        sys.stdout.write(out[:].decode(errors="replace"))
        sys.stderr.write(err[:].decode(errors="replace"))
        sys.stdout.flush()
        return hook(*args, **kwargs)


def local_worker(
    world: World, send: Callable[[int, Any], None], poll: Callable[[], bool]
) -> tuple[Worker, LocalOutput]:
    """Return a worker for this process, and what captures its tasks' output."""
    output = LocalOutput()
    jobs = JobPlace(world, send, poll, output.take)
    return Worker(0, send, poll, lambda: False, output, jobs, longest_nap_s(True)), output


def own_door(
    size: int,
    take: Callable[[Any], None],
    fetch: Callable[[int, Fetch], None],
    poll: Callable[[], bool],
    worker: Worker | None,
) -> Door:
    """Return the door of rank 0, opened; `take` takes in what comes through it."""

    def kept(rank: int, key: Key) -> tuple[Any] | None:
        return None if rank or worker is None else worker.executor.kept.find(key)

    door = Door(0, size, Ways(take, fetch, kept, poll, worker.depth if worker else lambda: 0))
    door.open()
    return door
