"""What a worker has to say about tasks that have ended, gathered until it is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from alamo_mpi.core.messages import Failure, Progress

__all__ = ["Pause", "Report"]

#: An ended task is reported after this long at the latest.
LATEST_S = 1e-3


class Pause(NamedTuple):
    """What is known of a task that waits: when it started, and what it has used of its turn."""

    kind: int
    started: float
    spent: float


class Report:
    """Gather the ends of tasks of one chunk after the other; send them as few `Progress` messages.

    The thread that runs tasks adds; that or the service thread flushes, whichever is first after
    `LATEST_S`.  ``lock`` guards the gathered lists, and is held while sending too, so that the
    messages leave in the order of the tasks.

    Parameters
    ----------
    send
        Sends one message to the manager.
    """

    def __init__(self, send: Callable[[Progress], None]) -> None:
        self.lock = threading.Lock()
        self._send = send
        self._chunk = -1
        self._record = False
        #: Seconds of `time.perf_counter` at the end of the last task.
        self.last = time.perf_counter()
        self._flushed = self.last
        self._segment = self.last
        self._kind = -1
        self._in_segment = 0
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._results: list[Any] = []
        self._plain = True
        self._failures: dict[int, Failure] = {}
        self._kept: dict[int, int] = {}
        self._streams: dict[int, tuple[bytes | int, bytes | int]] = {}
        self._seconds: dict[int, tuple[int, float]] = {}
        self._spans: list[tuple[float, float]] = []

    def begin(self, chunk: int, record: bool) -> None:
        """Turn to another chunk; what is gathered of the last one is sent."""
        with self.lock:
            self._flush()
            self._chunk = chunk
            self._record = record
            self.last = self._segment = time.perf_counter()

    def pause(self) -> Pause:
        """Note that the running task waits; what has ended before it is sent."""
        with self.lock:
            self._flush()
            return Pause(self._kind, self.last, time.perf_counter() - self._segment)

    def resume(self, chunk: int, record: bool, pause: Pause) -> None:
        """Turn back to a chunk whose task goes on; what is gathered of another one is sent."""
        with self.lock:
            self._flush()
            self._chunk = chunk
            self._record = record
            self._kind = pause.kind
            self.last = pause.started
            # The wait is no part of how long such a task takes.
            self._segment = time.perf_counter() - pause.spent

    def turn_to(self, kind: int) -> None:
        """Note that the next task calls another function than the last."""
        with self.lock:
            self._end_segment()
            self._kind = kind

    def add(self, result: Any) -> float:
        """Add a task that is done, with its result's payload; return the time."""
        with self.lock:
            self._results.append(result)
            if result is not None:
                self._plain = False
            return self._ended()

    def add_more(
        self,
        result: Any,
        failure: Failure | None,
        kept: int,
        streams: tuple[bytes | int, bytes | int] | None,
    ) -> float:
        """Add a task of which there is more to say; return the time."""
        with self.lock:
            at = self._count
            self._results.append(result)
            if result is not None:
                self._plain = False
            if failure is not None:
                self._failures[at] = failure
            if kept:
                self._kept[at] = kept
            if streams is not None:
                self._streams[at] = streams
            return self._ended()

    def _ended(self) -> float:
        now = time.perf_counter()
        if self._record:
            # Both ends by the wall clock, so that ranks on several hosts share a time line.
            wall = time.time()
            self._spans.append((wall - (now - self.last), wall))
        self.last = now
        self._count += 1
        self._in_segment += 1
        if now - self._flushed > LATEST_S:
            self._flush()
        return now

    def _end_segment(self) -> None:
        if self._in_segment:
            count, seconds = self._seconds.get(self._kind, (0, 0.0))
            spent = self.last - self._segment
            self._seconds[self._kind] = count + self._in_segment, seconds + spent
            self._in_segment = 0
        self._segment = self.last

    def flush(self) -> None:
        """Send what is gathered."""
        with self.lock:
            self._flush()

    @property
    def pending(self) -> bool:
        """Whether an end is waiting to be sent."""
        return self._count > 0

    def flush_if_late(self) -> None:
        """Send what is gathered, if the oldest of it has waited long enough."""
        if self._count and time.perf_counter() - self.last > LATEST_S:
            self.flush()

    def _flush(self) -> None:
        self._flushed = time.perf_counter()
        if not self._count:
            return
        self._end_segment()
        message = Progress(
            self._chunk,
            self._count,
            None if self._plain else self._results,
            self._failures,
            self._kept,
            self._streams,
            self._seconds,
            self._spans if self._record else None,
        )
        self._clear()
        self._send(message)
