"""A thread that ends the examination when a stage of it does not come back."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from alamo_mpi.doctor.judge import judge_hang
from alamo_mpi.doctor.report import Finding

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World

__all__ = ["Watchdog"]

#: Seconds by which the ranks that do not tell are more patient than the one that does.
_SILENT_S = 10.0
#: Seconds for MPI_Abort, which may hang as well.
_ABORT_S = 5.0


class Watchdog:
    """Watch over stages; used as a context manager around all of them.

    Parameters
    ----------
    findings : list of Finding
        Those so far, at any time.
    tell : callable or None
        Called with the findings, the hang included; None on ranks that stay silent.

    Attributes
    ----------
    world : World or None
        What is aborted; None as long as MPI has not started.
    """

    def __init__(
        self, findings: list[Finding], tell: Callable[[list[Finding]], None] | None
    ) -> None:
        self.world: World | None = None
        self._findings = findings
        self._tell = tell
        self._changed = threading.Condition()
        self._stage: tuple[str, float, float] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="alamo_mpi-doctor", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def stage(self, name: str, limit_s: float) -> None:
        """Begin a stage that must have ended, or be followed by another, within `limit_s`."""
        patience = limit_s + (0.0 if self._tell else _SILENT_S)
        with self._changed:
            self._stage = (name, limit_s, time.monotonic() + patience)
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                left = None if self._stage is None else self._stage[2] - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            if self._ended or self._stage is None:
                return
        self._give_up(*self._stage[:2])

    def _give_up(self, name: str, limit_s: float) -> None:
        """Tell, and end the job: the main thread cannot be reached."""
        if self._tell is not None:
            self._tell([*self._findings, judge_hang(name, limit_s)])
            sys.stdout.flush()
        hard = threading.Timer(_ABORT_S, os._exit, args=(1,))
        hard.daemon = True
        hard.start()
        if self.world is not None:
            self.world.abort(1)
        os._exit(1)
