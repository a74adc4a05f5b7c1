"""Who runs the manager's loop: the user's threads while they wait, a thread of ours otherwise."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from alamo_mpi.runtime.stopping import check as check_stopping
from alamo_mpi.runtime.stopping import request

__all__ = ["Driver"]

logger = logging.getLogger(__name__)

#: How often the thread looks while tasks are under way and nobody else does, and while one does.
_NAP_S = 1e-3
_NAP_REPLACED_S = 20e-3
#: It sleeps on its event after this long without anything under way.
_PARK_S = 0.1
#: And still looks this often: a process attached to another rank may want something of its own.
_LOOK_UP_S = 0.1


class Driver:
    """The thread "alamo-driver", and the count of those that drive in its place.

    Parameters
    ----------
    turn
        Does one round of the loop.
    busy
        Tells whether anything is under way.

    Attributes
    ----------
    last_turn : float
        When the loop was run last, by `time.perf_counter`.
    """

    def __init__(self, turn: Callable[[], bool], busy: Callable[[], bool]) -> None:
        self._turn = turn
        self._busy = busy
        self._needed = threading.Event()
        self._stopping = False
        self._drivers = 0
        self._count_lock = threading.Lock()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.last_turn = 0.0

    @contextlib.contextmanager
    def replaced(self) -> Iterator[None]:
        """Let the calling thread drive."""
        with self._count_lock:
            self._drivers += 1
        try:
            yield
        finally:
            with self._count_lock:
                self._drivers -= 1
        # What was waited for may have ended by the very request to end the program.
        self.check()

    def check(self) -> None:
        """Raise what has ended the thread, or is to end the program, if anything has."""
        if self._error is not None:
            raise self._error
        if request.error is not None:
            check_stopping()

    def wake(self) -> None:
        """See to it that somebody drives from now on."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="alamo-driver", daemon=True)
            self._thread.start()
        if not self._needed.is_set():
            self._needed.set()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping = True
        self._needed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        idle_since = time.perf_counter()
        try:
            while True:
                if not self._needed.wait(_LOOK_UP_S):
                    if not self._drivers and self._turn():
                        self._needed.set()
                    continue
                if self._stopping:
                    return
                time.sleep(_NAP_REPLACED_S if self._drivers else _NAP_S)
                if self._drivers:
                    continue
                self._turn()
                now = time.perf_counter()
                if self._busy():
                    idle_since = now
                elif now - idle_since > _PARK_S:
                    # Cleared before the last look: a `wake` in between is not lost.
                    self._needed.clear()
                    if self._busy() or self._stopping:
                        self._needed.set()
        except BaseException as error:
            logger.critical("the driver of alamo_mpi has failed", exc_info=True)
            self._error = error
