"""An attached process's half of batches: it is a client as a task is, by way of its rank.

`AttachedService` is a `RemoteService`; what is special is its channel, `Line`, a connection on
which both ends speak whenever they like.  ``ARCHITECTURE-gateway.md``, section 6, has the protocol.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any, Final

from alamo_mpi.core.lifecycle import PRIMARY
from alamo_mpi.core.messages import KINDS, Fetch, Key, Value, tag_of
from alamo_mpi.core.uids import connection_of, first_uid
from alamo_mpi.errors import GatewayError, TaskStateError
from alamo_mpi.runtime.gateway.link import Link
from alamo_mpi.runtime.gateway.requests import BATCHES
from alamo_mpi.runtime.outcome import Wanted
from alamo_mpi.runtime.remote import RemoteBatch, RemoteService
from alamo_mpi.runtime.submission import Submission

__all__ = ["AttachedService"]

logger = logging.getLogger(__name__)

#: Who waits this long looks whether any task of this process has begun.
_SAY_S: Final = 5.0
#: Seconds that threads have to end.
_JOIN_S: Final = 5.0


class Line:
    """The connection of this process's batches; sends for all threads, and reads on its own.

    Parameters
    ----------
    link : Link
        To the rank.

    Attributes
    ----------
    connection : int
        Its number there.

    Raises
    ------
    GatewayError
        The program has ended.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._wire, self.connection = link.dedicated(BATCHES)
        self._sending = threading.Lock()
        self._lost = False
        self._thread: threading.Thread | None = None

    def start(self, take: Callable[[Any], None], lost: Callable[[], None]) -> None:
        """Read from now on; `take` gets each message, on a thread of the line."""
        self._thread = threading.Thread(
            target=self._read, args=(take, lost), name="alamo-client", daemon=True
        )
        self._thread.start()

    def _read(self, take: Callable[[Any], None], lost: Callable[[], None]) -> None:
        try:
            while True:
                tag, _, fields = self._wire.receive()
                take(KINDS[tag](*fields))
        except (EOFError, OSError):
            self._fail()
        except BaseException:
            logger.exception("What rank %d says to this process's batches is unclear.", self.rank)
            self._fail()
        lost()

    @property
    def rank(self) -> int:
        """The rank at the other end."""
        return self._link.welcome.rank

    def _fail(self) -> None:
        self._lost = True
        self._wire.shut()

    # -- as a channel ----------------------------------------------------------

    def send(self, message: Any) -> None:
        """Send to the manager, by way of the rank; never waits for long."""
        self._send(0, message)

    def fetch(self, rank: int, message: Fetch) -> None:
        """Ask a worker for a kept value."""
        self._send(rank, message)

    def _send(self, rank: int, message: Any) -> None:
        self.check()
        with self._sending:
            try:
                self._wire.send((tag_of(message), rank, tuple(message)))
            except (EOFError, OSError):
                self._fail()
            except BaseException:  # half a message may have left
                self._fail()
                raise
        self.check()

    def kept(self, rank: int, key: Key) -> tuple[Any] | None:
        """Return None: no value is kept in this process."""
        return None

    def is_lost(self, rank: int) -> bool:
        """Return False: the rank at the other end answers for those that are lost."""
        return False

    def poll(self) -> bool:
        """Return False: the line's thread receives."""
        self.check()
        return False

    def check(self) -> None:
        """Raise `GatewayError` if the connection was lost."""
        if self._lost:
            raise self._link.lost("The connection of its batches was lost")

    def close(self) -> None:
        """End the connection, and wait for the thread."""
        self._fail()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)


class AttachedService(RemoteService):
    """The batches of an attached process.

    Parameters
    ----------
    link : Link
        To the rank.
    """

    #: The line's thread, which receives, wants the interpreter: who waits must not look by itself.
    patience_s = 0.0

    def __init__(self, link: Link) -> None:
        self._line = Line(link)
        rank, hosts = link.welcome
        connection = self._line.connection
        first = first_uid(rank, connection, len(hosts))
        super().__init__((rank, connection), self._line, hosts, first)
        #: Threads that wait, and run callbacks.
        self._drivers = 0
        #: Wakes the thread below: callbacks are due, or notes; finalizers may put here.
        self._due: SimpleQueue[None] = SimpleQueue()
        self._caller: threading.Thread | None = None
        self._retired = False
        self._pid = os.getpid()
        self._line.start(self._take, self.wake)
        atexit.register(self.retire)
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children end without what `atexit` has
            multiprocessing.Finalize(None, self.retire, exitpriority=0)

    def _take(self, message: Any) -> None:
        if isinstance(message, Value):
            self.value(*message)
        else:
            self.dispatch(message)
            if self._callbacks.due and not self._drivers:
                self._call_soon()

    def submit(self, live: RemoteBatch, submission: Submission) -> None:
        """Send tasks to the manager; returns at once.

        Raises
        ------
        TaskStateError
            One takes the result of a task that the parent of this forked child has started: the
            manager knows that as the parent's.
        """
        for entries in submission.inputs.values():
            for _, source, index in entries:
                if source is not submission and self._mirrors.get(source.program.pid) is not source:
                    raise _not_ours(source.uids[index])
        super().submit(live, submission)

    # -- waiting ----------------------------------------------------------

    def drive(
        self, done: Callable[[], bool], timeout: float | None = None, on: Wanted | None = None
    ) -> bool:
        """Wait until `done`; callbacks that are due run meanwhile, on this thread."""
        if done():
            return True
        with self._lock:
            self._drivers += 1
        try:
            if timeout is not None and timeout <= _SAY_S:
                return super().drive(done, timeout, on)
            if super().drive(done, _SAY_S, on):
                return True
            self._say_who_holds_up()
            return super().drive(done, None if timeout is None else timeout - _SAY_S, on)
        finally:
            with self._lock:
                self._drivers -= 1
            if self._callbacks.due and not self._drivers:
                self._call_soon()

    def _say_who_holds_up(self) -> None:
        """Warn if none of this process's tasks has begun: they may wait for who waits for it."""
        with self._lock:
            waiting = {live.number: live for _, live in self._open.values()}
        for live in waiting.values():
            holders = self._ask("held", live.number, (), _SAY_S)
            if holders:
                logger.warning(
                    "This process has waited %g s, and none of its %d tasks in %s has begun: the "
                    "workers are held by %s. A task that waits for this process keeps its worker "
                    "unless it waits inside `with alamo_mpi.waiting():`.",
                    _SAY_S,
                    live.unfinished,
                    live,
                    holders,
                )

    def _client(self, live: RemoteBatch) -> tuple[RemoteBatch, int]:
        with self._lock:
            if self._caller is None and not self._retired:
                self._caller = threading.Thread(
                    target=self._call, name="alamo-callbacks", daemon=True
                )
                self._caller.start()
        return super()._client(live)

    def leave(self, live: RemoteBatch, client: int) -> None:
        """Note that nobody holds a client any more, and have it said."""
        super().leave(live, client)
        self._due.put(None)

    def _call_soon(self) -> None:
        """Have callbacks run that nobody who waits runs."""
        self._due.put(None)

    def _call(self) -> None:
        """Run what is due while nobody of this process waits; on a thread of its own."""
        while not self._retired:
            self._due.get()
            with contextlib.suppress(GatewayError):  # a callback has logged its own
                self.say_notes()
                while not self._drivers and self.run_callbacks():
                    pass

    def _fetch(self, rank: int, key: Key, timeout: float | None) -> tuple[Any] | None:
        if connection_of(key[0], len(self.hosts)) != self.address[1]:
            raise _not_ours(key[0])
        return super()._fetch(rank, key, timeout)

    # -- the end ----------------------------------------------------------

    def retire(self) -> None:
        """Close what this process has left open, as at the end of a task, and disconnect."""
        if self._retired or os.getpid() != self._pid:
            return
        self._retired = True
        atexit.unregister(self.retire)
        with contextlib.suppress(GatewayError):
            self.say_notes()
            for live in list(self._batches):
                if live.lifecycle.is_open(PRIMARY):
                    self._line.send(self._leaving(live, dropped=False))
        self._line.close()
        self._due.put(None)
        if self._caller is not None and self._caller is not threading.current_thread():
            self._caller.join(_JOIN_S)


def _not_ours(uid: int) -> TaskStateError:
    return TaskStateError(
        f"Task {uid} was started by the process that this one was forked from: get its result "
        "there, or before the fork.",
        uid=uid,
    )
