"""The watchdog of rank 0: when nothing has moved for long, what every rank does goes to one file.

Set by ``ALAMO_STALL_TIMEOUT``, in seconds.  A long task looks the same as one that hangs, so it
only reports, once for each time that things stand still, and ends nothing.  It has a thread of its
own ("alamo-stall"), since whoever drives the manager may be what hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from alamo_mpi.core.messages import Armed, Dump, StackText
from alamo_mpi.core.seconds import seconds_of
from alamo_mpi.runtime.roster import Roster
from alamo_mpi.runtime.stacks import Stacks, read_of
from alamo_mpi.runtime.standing import standing

__all__ = ["SETTING", "Sight", "Watchdog", "stall_timeout_s", "watchdog"]

logger = logging.getLogger(__name__)

SETTING = "ALAMO_STALL_TIMEOUT"
#: Seconds that ranks have to answer.
_ANSWER_S = 2.0
#: Seconds to wait for the manager's lock.
_LOCK_S = 1.0


def stall_timeout_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the setting; None if there is none.

    Raises
    ------
    LaunchError
        If it is no positive number.
    """
    return seconds_of(SETTING, environ.get(SETTING, ""))


class Moves(Protocol):
    """Counts whatever happens."""

    moves: int


class Sight(NamedTuple):
    """What the watchdog sees and uses of the manager."""

    lock: threading.RLock
    roster: Roster
    hosts: tuple[str, ...]
    send: Callable[[int, Any], None]
    #: Receives what has arrived, under the lock.
    receive: Callable[[], object]
    counter: Moves


class Watchdog:
    """Looks whether anything moves.

    Parameters
    ----------
    sight
        What it watches.
    seconds
        How long nothing may move.
    """

    def __init__(self, sight: Sight, seconds: float) -> None:
        self._sight = sight
        self._seconds = seconds
        self._stacks = Stacks()
        self._told: dict[int, str] = {}
        self._armed: dict[int, Armed] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alamo-stall", daemon=True)
        self._thread.start()

    def take(self, source: int, message: StackText | Armed) -> None:
        """Take in what a rank says."""
        if isinstance(message, Armed):
            self._armed[source] = message
        else:
            self._told[source] = message.text

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping.set()
        self._thread.join()
        self._stacks.close()

    def _run(self) -> None:
        counter = self._sight.counter
        seen, since = counter.moves, time.monotonic()
        reported = False
        while not self._stopping.wait(min(self._seconds / 4, 1.0)):
            now = time.monotonic()
            busy = any(live.unfinished for live in self._sight.roster.batches)
            if counter.moves != seen or not busy:
                seen, since, reported = counter.moves, now, False
            elif now - since >= self._seconds and not reported:
                reported = True
                try:
                    self._report(now - since)
                except Exception:
                    logger.exception("%s: the report of a standstill failed", SETTING)

    def _report(self, seconds: float) -> None:
        path = Path(f"alamo-stall-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt").absolute()
        own = self._stacks.now()
        self._gather()
        parts = [f"Nothing has moved for {seconds:.1f} s.\n", self._dag()]
        for rank, host in enumerate(self._sight.hosts):
            parts.append(f"=== rank {rank} (host {host})\n{self._of(rank, own)}")
        path.write_text("\n".join(parts))
        logger.warning(
            "Nothing has moved for %.1f s though tasks are unfinished: who waits for what, and the "
            "stacks of all ranks, are in %s",
            seconds,
            path,
        )

    def _gather(self) -> None:
        ranks = range(1, len(self._sight.hosts))
        self._told.clear()
        for rank in ranks:
            self._sight.send(rank, Dump())
        end = time.monotonic() + _ANSWER_S
        while len(self._told) < len(ranks) and time.monotonic() < end:
            with self._locked() as mine:
                if not mine:
                    break
                self._sight.receive()
            time.sleep(5e-3)

    def _of(self, rank: int, own: str) -> str:
        if rank == 0:
            return own
        if rank in self._told:
            return self._told[rank]
        armed = self._armed.get(rank)
        here = armed is not None and self._sight.hosts[rank] == self._sight.hosts[0]
        text = read_of(armed.pid, armed.fd) if armed is not None and here else ""
        told = "It does not answer: C code holds its interpreter, or it was stopped."
        return f"{told}\n{text}" if text else f"{told}\n"

    def _dag(self) -> str:
        with self._locked() as mine:
            if mine:
                return standing(self._sight.roster.batches, self._sight.hosts)
        return "The state of the tasks is not known: somebody holds the manager's lock.\n"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Take the manager's lock, if nobody keeps it; tell whether it was taken."""
        mine = self._sight.lock.acquire(timeout=_LOCK_S)
        try:
            yield mine
        finally:
            if mine:
                self._sight.lock.release()


def watchdog(sight: Sight) -> Watchdog | None:
    """Start the watchdog, if the environment asks for it."""
    seconds = stall_timeout_s()
    return None if seconds is None else Watchdog(sight, seconds)
