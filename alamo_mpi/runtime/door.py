"""The processes behind a rank's gateway that are clients of batches, as the rank sees them.

What one of them sends goes through here to the manager, and what comes for it through here to its
connection.  `ARCHITECTURE-gateway.md`, section 6, has the protocol.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from alamo_mpi.core.messages import Address, Fetch, Gone, Key, Over, Submit, Value
from alamo_mpi.core.uids import connection_of
from alamo_mpi.errors import GatewayError, InternalError
from alamo_mpi.runtime.backoff import Backoff

__all__ = ["Door", "Ways", "current"]


class Ways(NamedTuple):
    """How a rank reaches the others.

    Attributes
    ----------
    send
        ``send(message)``, to the manager; returns at once.
    fetch
        ``fetch(rank, message)``, to a worker; `Door.value` gets the answer.
    kept
        ``kept(rank, key)``: a kept value in a 1-tuple, if it is on this very rank.
    poll
        Receives what has arrived for the rank; tells whether anything had.
    depth
        How deep what a process behind this rank starts is nested.
    """

    send: Callable[[Any], None]
    fetch: Callable[[int, Fetch], None]
    kept: Callable[[int, Key], tuple[Any] | None]
    poll: Callable[[], bool]
    depth: Callable[[], int]


class _Connection(NamedTuple):
    #: Sends a message to the process; never waits.
    put: Callable[[Any], None]
    #: Ends the connection; never waits.
    shut: Callable[[], None]


class Door:
    """Pass messages between a rank's connections and the manager; for all threads.

    Parameters
    ----------
    rank, size
        Of this rank, and of the program.
    ways : Ways
    """

    def __init__(self, rank: int, size: int, ways: Ways) -> None:
        self.rank = rank
        self._size = size
        self._ways = ways
        self._connections: dict[int, _Connection] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        #: Held while something is sent: nothing is once the door is closed.
        self._lock = threading.Lock()

    def open(self) -> None:
        """Let the gateway of this process find it."""
        global _current
        _current = self

    def close(self) -> None:
        """End all connections, and send nothing any more; waits for no other process."""
        global _current
        if _current is self:
            _current = None
        with self._lock:
            self._closed = True
            connections = list(self._connections.values())
            self._connections.clear()
        for connection in connections:
            connection.shut()

    # -- a connection's thread ----------------------------------------------------------

    def enter(self, put: Callable[[Any], None], shut: Callable[[], None]) -> int:
        """Note a new connection; return its number.

        Raises
        ------
        GatewayError
            The program is ending.
        """
        with self._lock:
            self._check()
            number = next(self._numbers)
            self._connections[number] = _Connection(put, shut)
        return number

    def send(self, connection: int, message: Any) -> None:
        """Pass a message on to the manager; returns at once.

        Raises
        ------
        GatewayError
            The program is ending.
        InternalError
            The message says that it is somebody else's.
        """
        if message.address != (self.rank, connection):
            raise InternalError(f"connection {connection} has sent {message}")
        if isinstance(message, Submit):
            message = message._replace(depth=self._ways.depth())
        with self._lock:
            self._check()
            self._ways.send(message)

    def fetch(self, connection: int, rank: int, message: Fetch) -> None:
        """Ask a worker for a value that a process wants; returns at once."""
        if connection_of(message.key[0], self._size) != connection:
            raise InternalError(f"connection {connection} has sent {message}")
        here = self._ways.kept(rank, message.key)
        if here is not None:
            self.value(message.key, here)
            return
        with self._lock:
            self._check()
            self._ways.fetch(rank, message)

    def look(self, done: Callable[[], bool]) -> None:
        """Receive for a moment what comes for the rank, until `done`; waits for nobody.

        A quick answer is so here as soon as it would be for a task that waits.
        """
        backoff = Backoff()
        while backoff.spinning and not self._closed and not done():
            if not self._ways.poll():
                backoff.pause()

    def leave(self, connection: int) -> None:
        """Note that a connection has ended, and tell the manager."""
        with self._lock:
            self._connections.pop(connection, None)
            if not self._closed:
                self._ways.send(Gone((self.rank, connection)))

    def _check(self) -> None:
        if self._closed:
            raise GatewayError("The program that this process is attached to is ending.")

    # -- who dispatches the rank's messages ------------------------------------------------

    def take(self, message: Any) -> None:
        """Hand a message to the process that it is for, if it is still there; never waits."""
        address: Address = message.address
        connection = self._connections.get(address[1])
        if connection is None:
            return
        if isinstance(message, Over) and not message.batch:
            connection.shut()
        else:
            connection.put(message)

    def value(self, key: Key, payload: tuple[Any] | None) -> bool:
        """Hand on a value that may have been fetched for a process; tell whether it was."""
        number = connection_of(key[0], self._size)
        if not number:
            return False
        connection = self._connections.get(number)
        if connection is not None:
            connection.put(Value(key, payload))
        return True


_current: Door | None = None


def current() -> Door | None:
    """Return the door of this process, if it is a rank that works."""
    return _current
