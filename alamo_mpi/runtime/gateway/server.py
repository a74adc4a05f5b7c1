"""The gateway of a rank: a local socket at which processes that are no ranks use its services.

One thread ("alamo-gateway") sits in `accept`, where it costs nothing; each connection has one
("alamo-gateway-N"), since a request may wait, and others must not wait for it.  They make MPI calls
only inside a request.  `close` ends and joins all of them, before the pool goes.

A forked child of the rank is no rank: it drops its copies of the sockets, or the end of the rank
would not be seen, and reaches the rank's services through its gateway like any other process.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from alamo_mpi.errors import AlamoError, InternalError
from alamo_mpi.runtime import home, pool
from alamo_mpi.runtime.gateway.address import VARIABLE, is_ours, new_address
from alamo_mpi.runtime.gateway.remote import RemoteHome
from alamo_mpi.runtime.gateway.requests import DONE, FAILED, HELLO, MORE, Welcome
from alamo_mpi.runtime.gateway.served import ServedDictionaries
from alamo_mpi.runtime.gateway.served_queues import ServedQueues
from alamo_mpi.runtime.gateway.wire import Wire

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World
    from alamo_mpi.runtime.pool import Pool

__all__ = ["Gateway", "open_gateway"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 128
#: Seconds that the requests under way at the end may take.
_CLOSE_S: Final = 5.0
#: Pause when this process has no descriptors or threads left for another connection.
_SHORTAGE_S: Final = 0.1

_open: Gateway | None = None


def open_gateway(world: World, own: Pool) -> None:
    """Open the gateway of this rank, until its world ends; local."""
    try:
        gateway = Gateway(own)
    except OSError as error:
        logger.warning(
            "Rank %d has no gateway (%s): programs that tasks start cannot be attached to it.",
            own.rank,
            error,
        )
    else:
        world.before_free(gateway.close)


class Gateway:
    """Listen, and say where in the environment of the programs that this process starts.

    Parameters
    ----------
    pool : Pool
        Of this rank; must outlive the gateway.
    """

    def __init__(self, pool: Pool) -> None:
        global _open
        self._pool = pool
        self._operations = {
            **ServedDictionaries(pool).operations,
            **ServedQueues(pool).operations,
        }
        self._lock = threading.Lock()
        self._closing = False
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._numbers = itertools.count(1)
        self.address = new_address()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address.socket_name)
        self._listener.listen(_BACKLOG)
        self._previous = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.address)
        self._thread = threading.Thread(target=self._accept, name="alamo-gateway", daemon=True)
        self._thread.start()
        _open = self

    def close(self) -> None:
        """End all connections and threads, and put the environment back; local."""
        global _open
        if _open is self:
            _open = None
        if os.environ.get(VARIABLE) == str(self.address):
            if self._previous is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = self._previous
        with self._lock:
            self._closing = True
            connections = dict(self._connections)
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in `accept`
        for connection in connections.values():
            Wire(connection).shut()
        deadline = time.monotonic() + _CLOSE_S
        for thread in (self._thread, *connections):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        late = [thread.name for thread in connections if thread.is_alive()]
        if late:
            logger.warning(
                "Rank %d ends while requests of attached processes still run (%s).",
                self._pool.rank,
                ", ".join(late),
            )

    # -- connections ----------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                self._start(self._listener.accept()[0])
            except OSError as error:
                if self._closing:
                    return
                logger.warning("The gateway of rank %d: %s.", self._pool.rank, error)
                time.sleep(_SHORTAGE_S)

    def _start(self, connection: socket.socket) -> None:
        """Give a connection its thread, if it is one of this user's."""
        if not is_ours(connection):
            logger.warning(
                "The gateway of rank %d has refused a process of another user.", self._pool.rank
            )
            connection.close()
            return
        thread = threading.Thread(
            target=self._serve,
            args=(connection,),
            name=f"alamo-gateway-{next(self._numbers)}",
            daemon=True,
        )
        with self._lock:
            if self._closing:
                connection.close()
                return
            self._connections[thread] = connection
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the other end sees the end
                del self._connections[thread]
                connection.close()
                logger.warning("The gateway of rank %d: %s.", self._pool.rank, error)

    def _serve(self, connection: socket.socket) -> None:
        wire = Wire(connection)
        try:
            if self._greet(connection, wire):
                while True:
                    self._answer(wire, wire.receive())
        except (EOFError, OSError):
            pass  # the process has ended, or this rank is ending
        except Exception:
            logger.exception("The gateway of rank %d drops a connection.", self._pool.rank)
        finally:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)
            wire.close()

    def _greet(self, connection: socket.socket, wire: Wire) -> bool:
        """Exchange greetings; no byte is unpickled before the token is right."""
        wanted = HELLO + self.address.token
        got = b""
        while len(got) < len(wanted):
            more = connection.recv(len(wanted) - len(got))
            if not more:
                return False
            got += more
        if got != wanted:
            return False
        wire.send(tuple(Welcome(self._pool.rank, self._pool.hosts)))
        return True

    def _answer(self, wire: Wire, request: tuple[Any, ...]) -> None:
        try:
            result = self._operations[request[0]](*request[1:])
            if isinstance(result, Iterator):
                result = self._send_pages(wire, result)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            wire.send((FAILED, self._portable(error)))
        else:
            wire.send((DONE, result))

    @staticmethod
    def _send_pages(wire: Wire, pages: Iterator[list[Any]]) -> None:
        for page in pages:
            wire.send((MORE, page))
            if not wire.receive():
                return

    def _portable(self, error: Exception) -> Exception:
        if isinstance(error, AlamoError):
            return error
        logger.error("A request at the gateway of rank %d failed.", self._pool.rank, exc_info=error)
        return InternalError(
            f"A request at the gateway failed: {type(error).__name__}: {error}. The log of the "
            "rank has the traceback.",
            rank=self._pool.rank,
            host=self._pool.hosts[self._pool.rank],
        )

    # -- forks ----------------------------------------------------------

    def abandon(self) -> None:
        """Drop a forked child's copies of the sockets; the lock may be held for ever there."""
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.close()


def _after_fork_in_child() -> None:
    """Make the child of a rank an attached process; connects when it is first used."""
    global _open
    gateway, _open = _open, None
    if gateway is None:
        return
    gateway.abandon()
    own = gateway._pool
    pool.abandon()
    home.move(own, RemoteHome(gateway.address, Welcome(own.rank, own.hosts)))


os.register_at_fork(after_in_child=_after_fork_in_child)
