"""Signals that ask the program to end: SIGTERM, and those that batch systems send before it.

ARCHITECTURE-signals.md has the protocol and its invariants.  Rank 0's handler raises `StopSignal`
in the main thread, so that the program ends by its own ``with`` blocks, within a grace; the
workers' handler does nothing, since rank 0 ends them.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING

from alamo_mpi.core.grace import SETTING
from alamo_mpi.errors import StopSignal
from alamo_mpi.mpi.announced import RELAYED
from alamo_mpi.mpi.library import family_of_library
from alamo_mpi.runtime.runners import Interruption
from alamo_mpi.runtime.stopping import request
from alamo_mpi.runtime.turn import seat

if TYPE_CHECKING:
    from alamo_mpi.ending import Session

__all__ = ["StopSignals", "leave_to_rank_0"]

Handler = Callable[[int, "FrameType | None"], None]

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

#: Seconds that the workers have to say goodbye, at most.
END_GRACE_S = 5.0
#: A signal within so many seconds of the first is the same one, sent again.
_SAME_S = 1.0
#: How often to try for a place where the main thread can be interrupted, and how long.
_RETRY_S = 2e-3
_PATIENCE_S = 0.5

_PACKAGE = __name__.partition(".")[0]
#: Modules of the package that wait, and may be left where they are.
_WAITS = frozenset(f"{_PACKAGE}.runtime.{name}" for name in ("backoff", "bell", "runners"))
#: Modules that call the user's code, which may be left.
_CALLERS = frozenset({f"{_PACKAGE}.application", f"{_PACKAGE}.runtime.callbacks"} | _WAITS)


class StopSignals:
    """What rank 0 does about signals that ask its program to end; one instance a program.

    Parameters
    ----------
    session : Session
        The program's.
    limit_s : float
        The grace.

    Attributes
    ----------
    error : StopSignal or None
        What the first signal has raised, or will.
    """

    def __init__(self, session: Session, limit_s: float) -> None:
        self._session = session
        self._limit_s = limit_s
        self._since = 0.0
        #: Told of a second signal; its `put` may be interrupted by itself.
        self._again: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ending = threading.Lock()
        self.error: StopSignal | None = None

    def install(self) -> None:
        """Handle each of the signals that nobody else handles; local, on the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        handlers: dict[int, Handler] = {}
        for number in filter(_is_free, STOP_SIGNALS):
            relayed = os.environ.get(RELAYED) == str(int(number))
            handlers[number] = _relay if relayed else self._on_signal
        _handle(handlers)

    def end(self) -> None:
        """End the session as after an error; waits for whoever does it already."""
        with self._ending:
            self._session.shown = self.error
            self._session.end(self.error, grace_s=min(self._rest_s, END_GRACE_S))

    @property
    def _rest_s(self) -> float:
        return max(self._since + self._limit_s - time.monotonic(), 0.0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.error is None:
            self.error = request.error = StopSignal(number)
            self._since = time.monotonic()
            self._session.status = self.error.status
            # Not by `threading`, whose locks this thread may hold.
            with contextlib.suppress(RuntimeError):  # the interpreter has all but ended
                _thread.start_new_thread(self._start_threads, ())
        elif time.monotonic() > self._since + _SAME_S:
            self._again.put(number)
            return
        if request.error is None or self._session.ended or not threading.main_thread().is_alive():
            return
        if time.monotonic() < self._since + _PATIENCE_S and not _leavable(frame):
            return
        if seat() is not None:
            raise Interruption  # the task gives way, and who waits for it takes the request
        error = request.take()
        if error is not None:
            raise error

    def _start_threads(self) -> None:
        for work in (self._stop, self._limit):
            name = f"alamo-{work.__name__.strip('_')}"
            threading.Thread(target=work, name=name, daemon=True).start()

    def _stop(self) -> None:
        """See to it that the main thread hears of it; when that has ended, end the session."""
        assert self.error is not None
        logger.warning(
            "%s: the program is to end, and has %g s for that (%s).",
            self.error.name,
            self._limit_s,
            SETTING,
        )
        main = threading.main_thread()
        # The tries after the patience do not look where they hit.
        while request.error is not None and time.monotonic() < self._since + 1.5 * _PATIENCE_S:
            main.join(_RETRY_S)
            if not main.is_alive():
                break
            # Unless somebody has put another handler in our place.
            if main.ident and signal.getsignal(self.error.signum) == self._on_signal:
                signal.pthread_kill(main.ident, self.error.signum)
        main.join(self._rest_s)
        if not main.is_alive():
            # Before Python waits for other threads, which may wait for tasks.
            self.end()

    def _limit(self) -> None:
        """End the job when the grace is over, or somebody does not want to wait for that."""
        assert self.error is not None
        try:
            self._again.get(timeout=self._limit_s)
            why = f"A second {self.error.name} came"
        except queue.Empty:
            why = f"The program has not ended {self._limit_s:g} s after {self.error.name}"
        logger.error("%s: it is aborted, with status %d.", why, self.error.status)
        self._session.world.abort(self.error.status)


def _leavable(frame: FrameType | None) -> bool:
    """Tell whether what runs is the user's code, or a wait of ours."""
    waits = _WAITS
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.partition(".")[0] == _PACKAGE:
            return module in waits
        frame, waits = frame.f_back, _CALLERS
    return True


def _relay(number: int, frame: FrameType | None) -> None:
    """Take SIGTERM for what a launcher was given that does not pass SIGTERM on."""
    os.kill(os.getpid(), signal.SIGTERM)


class _Worker:
    """What a worker does about the signals: nothing, but die by the second SIGTERM."""

    def __init__(self) -> None:
        self._since: float | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGTERM:
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now > self._since + _SAME_S:
            time.sleep(_SAME_S)  # rank 0 ends all, with its status, if it has got the same
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def leave_to_rank_0() -> None:
    """Have this worker ignore the signals that rank 0 answers; local, on the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return
    worker = _Worker()
    # What the program wants at SIGTERM, rank 0's handler does; others may be for debugging.
    own = callable(signal.getsignal(signal.SIGTERM))
    ours = [n for n in STOP_SIGNALS if _is_free(n) or (own and n == signal.SIGTERM)]
    _handle(dict.fromkeys(ours, worker.on_signal))


def _is_free(number: int) -> bool:
    """Tell whether nobody handles a signal: no Python code, and no C code, as of `faulthandler`."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    if number == signal.SIGUSR1 and family_of_library() == "MPICH":
        # MPICH has a C handler for it, from MPI_Init on: for ranks that go on when others are lost.
        return True
    try:
        with open("/proc/self/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):  # not Linux
        return True
    return not int(caught.split()[1], 16) >> (number - 1) & 1


def _handle(handlers: Mapping[int, Handler]) -> None:
    """Set handlers for this process, which its forked children do not have.

    A signal for a child that has just been forked must not be lost: Python forgets there what has
    come for a handler.  So they are held back until the child has none.
    """
    masks = threading.local()

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def reset() -> None:
        for number, handler in handlers.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)
        release()

    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=reset)
