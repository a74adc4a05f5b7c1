"""The gateway of a rank once a process has connected.

The thread that has waited for it ("alamo-gateway") goes on in `accept`; each connection has one
("alamo-gateway-N"), since a request may wait, and others must not wait for it.  They make MPI calls
only inside a request.  `close` ends and joins all of them, before the pool goes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from alamo_mpi.errors import AlamoError, GatewayError, InternalError
from alamo_mpi.runtime.gateway.address import Address
from alamo_mpi.runtime.gateway.credentials import is_ours
from alamo_mpi.runtime.gateway.requests import BATCHES, DONE, FAILED, HELLO, MORE, Welcome
from alamo_mpi.runtime.gateway.served import ServedDictionaries
from alamo_mpi.runtime.gateway.served_batches import serve_client
from alamo_mpi.runtime.gateway.served_queues import ServedQueues
from alamo_mpi.runtime.gateway.wire import Wire

if TYPE_CHECKING:
    from alamo_mpi.runtime.pool import Pool

__all__ = ["Server"]

logger = logging.getLogger(__name__)

#: Pause when this process has no descriptors or threads left for another connection.
_SHORTAGE_S: Final = 0.1


class Server:
    """Accept connections and do what comes on them.

    Parameters
    ----------
    pool : Pool
        Of this rank; must outlive the server.
    address : Address
    listener : int
        Descriptor of the socket that listens; stays the caller's.
    """

    def __init__(self, pool: Pool, address: Address, listener: int) -> None:
        self._pool = pool
        self._address = address
        self._operations = {
            **ServedDictionaries(pool).operations,
            **ServedQueues(pool).operations,
        }
        self._lock = threading.Lock()
        self._closing = False
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._numbers = itertools.count(1)
        self._listener = socket.socket(fileno=listener)

    def run(self, closing: Callable[[], bool]) -> None:
        """Accept until `closing`; the listener is shut then."""
        while not closing():
            try:
                self._start(self._listener.accept()[0])
            except OSError as error:
                if closing():
                    break
                logger.warning("The gateway of rank %d: %s.", self._pool.rank, error)
                time.sleep(_SHORTAGE_S)
        self._listener.detach()

    def close(self, limit_s: float) -> None:
        """End all connections, and wait so long for their threads; `run` has returned."""
        with self._lock:
            self._closing = True
            connections = dict(self._connections)
        for connection in connections.values():
            Wire(connection).shut()
        deadline = time.monotonic() + limit_s
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [thread.name for thread in connections if thread.is_alive()]
        if late:
            logger.warning(
                "Rank %d ends while requests of attached processes still run (%s).",
                self._pool.rank,
                ", ".join(late),
            )

    def abandon(self) -> None:
        """Drop a forked child's copies of the connections; the lock may be held for ever there."""
        self._listener.detach()
        for connection in list(self._connections.values()):
            connection.close()

    # -- connections ----------------------------------------------------------

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
                while (request := wire.receive())[0] != BATCHES:
                    self._answer(wire, request)
                self._serve_client(connection, wire)
        except (EOFError, OSError):
            pass  # the process has ended, or this rank is ending
        except Exception:
            logger.exception("The gateway of rank %d drops a connection.", self._pool.rank)
        finally:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)
            wire.close()

    @staticmethod
    def _serve_client(connection: socket.socket, wire: Wire) -> None:
        try:
            serve_client(connection, wire, f"{threading.current_thread().name}-out")
        except GatewayError as error:  # the program is ending
            with contextlib.suppress(OSError):
                wire.send((FAILED, error))

    def _greet(self, connection: socket.socket, wire: Wire) -> bool:
        """Exchange greetings; no byte is unpickled before the token is right."""
        wanted = HELLO + self._address.token
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
