"""Gets tasks out of user code: those that were given up, and those that run longer than they may.

An exception that comes up at any bytecode must hit the task's own code and nothing of this
package: a dictionary's lock word that stays taken, or a message whose buffer is freed under way,
would do harm to all ranks.  So whoever raises it looks at the stack of the task's thread first
(`in_user_code`), and where that is inside the package tries again a little later.  What waits
inside the package looks by itself whether its task was given up (`turn.Seat.check`).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any, Protocol

from alamo_mpi.runtime.runners import Guard

__all__ = ["INTERRUPT_SIGNAL", "MARK", "Interrupter", "in_user_code"]

#: Raised in the main thread to interrupt a task: ignored by default, so harmless if it comes late.
INTERRUPT_SIGNAL = signal.SIGURG
#: Time between two tries, at first and at most.
_RETRY_S = 1e-3
_LONGEST_RETRY_S = 0.1
#: Seconds that the end of the program waits for the thread.
_JOIN_S = 5.0

_PACKAGE = f"{__name__.partition('.')[0]}."
#: A module of the package that can be left at any bytecode, as one that runs a task's program and
#: waits for it, sets this name to True.
MARK = "__interruptible__"
#: Where user code is called.
_BORDER = frozenset(f"{_PACKAGE}runtime.{name}" for name in ("execute", "runners", "jobranks"))


def in_user_code(frame: FrameType | None) -> bool:
    """Tell whether a task's function, or what that calls outside of this package, is running."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module in _BORDER:
            return True
        if module.startswith(_PACKAGE) and not frame.f_globals.get(MARK):
            return False
        frame = frame.f_back
    return False


class Running(Protocol):
    """A chunk whose tasks run: `execute.Work`."""

    given_up: frozenset[int]
    overdue: dict[int, float]
    position: int
    raised: int
    in_task: bool
    thread: int
    guard: Guard | None


class Waits(Protocol):
    """What is asked about tasks that wait: the worker."""

    def wakes(self, work: Any) -> bool:
        """Have a task that waits look up; return False if it does not wait."""


class Interrupter:
    """Interrupts the running tasks of one worker.

    Its thread ("alamo-interrupter") is started by the first task that has a limit, or that cannot
    be interrupted at once.

    Parameters
    ----------
    host
        The worker.
    """

    def __init__(self, host: Waits) -> None:
        self._host = host
        self._changed = threading.Condition()
        #: Begun chunk -> when its running task is over its limit, its position and the limit.
        self._limited: dict[Running, tuple[float, int, float]] = {}
        #: Chunks whose running task is to be interrupted -> how long to wait for the next try.
        self._insisting: dict[Running, float] = {}
        self._looks_at = float("inf")
        self._stopping = False
        self._thread: threading.Thread | None = None

    def watch(self, work: Running, seconds: float) -> None:
        """Note that the task at the chunk's position starts now and may run for so long."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._limited[work] = deadline, work.position, seconds
            self._look_at(deadline)

    def give_up(self, work: Running, positions: Iterable[int]) -> None:
        """Give up tasks of a begun chunk; the running one gets an exception soon."""
        with self._changed:
            work.given_up = frozenset(positions) | work.given_up
            if not self._try(work):
                self._insisting[work] = _RETRY_S
                self._look_at(time.monotonic() + _RETRY_S)

    def forget(self, work: Running) -> None:
        """Note that nothing of a chunk runs any more."""
        if self._limited or self._insisting:
            with self._changed:
                self._limited.pop(work, None)
                self._insisting.pop(work, None)

    def stop(self) -> None:
        """End the thread, and wait for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _look_at(self, when: float) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alamo-interrupter", daemon=True)
            self._thread.start()
        if when < self._looks_at:
            self._looks_at = when
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if now >= self._looks_at:
                    self._look(now)
                rest = self._looks_at - now
                self._changed.wait(None if rest == float("inf") else max(rest, 0.0))

    def _look(self, now: float) -> None:
        """Interrupt what is due, and say when to look again."""
        for work, (deadline, position, seconds) in list(self._limited.items()):
            if now >= deadline:
                del self._limited[work]
                if work.position == position and work.raised != position:
                    work.overdue[position] = seconds
                    work.given_up |= {position}
                    self._insisting[work] = _RETRY_S
        for work, pause in list(self._insisting.items()):
            if self._try(work):
                del self._insisting[work]
            else:
                self._insisting[work] = min(2 * pause, _LONGEST_RETRY_S)
        self._looks_at = min(
            min((deadline for deadline, _, _ in self._limited.values()), default=float("inf")),
            now + min(self._insisting.values(), default=float("inf")),
        )

    def _try(self, work: Running) -> bool:
        """Interrupt the running task if it was given up; return whether that is settled."""
        position = work.position
        if position not in work.given_up or work.raised == position or self._host.wakes(work):
            return True
        if not work.in_task:
            return True  # it looks before it goes on, or has ended
        if work.guard is None:
            # The handler looks at the stack, and notes when it raises.
            signal.pthread_kill(work.thread, INTERRUPT_SIGNAL)
            return False
        if work.guard.interrupt(in_user_code):
            work.raised = position
            return True
        return False
