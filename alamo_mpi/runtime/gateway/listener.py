"""The gateway of a rank as long as nobody has connected: a name, and a thread that sleeps.

Every rank of every program pays for what is here, so it is little: `server`, and what that needs,
is imported when the first process connects.

A forked child of the rank is no rank: it drops its copies of the sockets, or the end of the rank
would not be seen, and reaches the rank's services through its gateway like any other process.
"""

from __future__ import annotations

import _socket  # the class below `socket.socket`: that module takes milliseconds to import
import contextlib
import logging
import os
import select
import threading
from typing import TYPE_CHECKING, Final

from alamo_mpi.runtime import pool
from alamo_mpi.runtime.gateway.address import VARIABLE, new_address

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World
    from alamo_mpi.runtime.gateway.server import Server
    from alamo_mpi.runtime.pool import Pool

__all__ = ["Gateway", "open_gateway"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 128
#: Seconds that the requests under way at the end may take.
_CLOSE_S: Final = 5.0

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
    own : Pool
        Of this rank; must outlive the gateway.
    """

    def __init__(self, own: Pool) -> None:
        global _open
        self.pool = own
        self.address = new_address()
        self._closing = False
        self._server: Server | None = None
        self._listener = _socket.socket(_socket.AF_UNIX)
        self._listener.bind(self.address.socket_name)
        self._listener.listen(_BACKLOG)
        self._previous = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.address)
        self._thread = threading.Thread(target=self._run, name="alamo-gateway", daemon=True)
        self._thread.start()
        _open = self

    def _run(self) -> None:
        waiting = select.poll()
        waiting.register(self._listener.fileno(), select.POLLIN)
        waiting.poll()
        if self._closing:
            return
        try:
            from alamo_mpi.runtime.gateway.server import Server

            self._server = Server(self.pool, self.address, self._listener.fileno())
            self._server.run(lambda: self._closing)
        except Exception:
            logger.exception("The gateway of rank %d is closed.", self.pool.rank)
            self._listener.close()  # else those who connect would wait for ever

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
        self._closing = True
        with contextlib.suppress(OSError):  # the thread has failed and closed it
            self._listener.shutdown(_socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(_CLOSE_S)
        if self._server is not None:
            self._server.close(_CLOSE_S)
        self._listener.close()

    def abandon(self) -> None:
        """Drop a forked child's copies of the sockets; locks may be held for ever there."""
        self._listener.close()
        if self._server is not None:
            self._server.abandon()


def _after_fork_in_child() -> None:
    """Make the child of a rank an attached process; connects when it is first used."""
    global _open
    gateway, _open = _open, None
    if gateway is None:
        return
    from alamo_mpi.runtime.gateway.remote import RemoteHome, settle
    from alamo_mpi.runtime.gateway.requests import Welcome

    gateway.abandon()
    pool.abandon()
    own = gateway.pool
    settle(own, RemoteHome(gateway.address, Welcome(own.rank, own.hosts)))


os.register_at_fork(after_in_child=_after_fork_in_child)
