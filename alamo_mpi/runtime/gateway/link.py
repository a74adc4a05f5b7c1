"""The connection of a process to a rank's gateway.

A request takes a connection that is idle, or makes one: as many requests run at a time as threads
make, and one that waits holds up no other.  A request that is broken off half-way closes its
connection, for an answer may still come on it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from alamo_mpi.errors import GatewayError, InternalError
from alamo_mpi.runtime.gateway.address import VARIABLE, Address
from alamo_mpi.runtime.gateway.credentials import is_ours
from alamo_mpi.runtime.gateway.requests import DONE, FAILED, HELLO, Welcome
from alamo_mpi.runtime.gateway.wire import Wire

__all__ = ["Link"]

_MOST_IDLE: Final = 8


class Link:
    """Speak to one gateway; for all threads of this process.

    Parameters
    ----------
    address : Address
    welcome : Welcome, optional
        What the gateway would say; without it the first connection is made now.

    Raises
    ------
    GatewayError
        Nobody is there, or not this user's program, or it speaks another version.
    """

    def __init__(self, address: Address, welcome: Welcome | None = None) -> None:
        self.address = address
        self._closed = False
        self._idle: deque[Wire] = deque()
        self._wires: set[Wire] = set()
        self.welcome = Welcome(-1, ()) if welcome is None else welcome
        if welcome is None:
            self._idle.append(self._connect())

    # -- requests ----------------------------------------------------------

    def request(self, *request: Any) -> Any:
        """Ask for one operation and return its value; blocks as long as the operation takes.

        Raises
        ------
        GatewayError
            The program has ended, or this process was detached.
        Exception
            What the operation raised on the rank.
        """
        wire = self._take()
        try:
            wire.send(request)
            kind, value = wire.receive()
        except BaseException as error:
            self._broken(wire, error)
        self._put_back(wire)
        if kind == DONE:
            return value
        if kind == FAILED:
            raise value
        raise InternalError(f"The answer to {request[0]!r} at the gateway has no end.")

    def stream(self, *request: Any) -> Iterator[Any]:
        """Ask for an operation whose value comes in parts; nothing happens before the first step.

        The connection is this iteration's own until it ends or is closed.
        """
        wire = self._take()
        message: Any = request
        try:
            while True:
                wire.send(message)
                message = True
                kind, value = wire.receive()
                if kind in (DONE, FAILED):
                    break
                try:
                    yield from value
                except GeneratorExit:
                    wire.send(False)
                    wire.receive()
                    self._put_back(wire)
                    raise
        except GeneratorExit:
            raise
        except BaseException as error:
            self._broken(wire, error)
        self._put_back(wire)
        if kind == FAILED:
            raise value

    def dedicated(self, *request: Any) -> tuple[Wire, Any]:
        """Make a connection for the caller alone, and ask for an operation that takes it over.

        Returns
        -------
        tuple
            The connection and the operation's answer.

        Raises
        ------
        GatewayError
            The program has ended, or this process was detached.
        """
        wire = self._connect()
        try:
            wire.send(request)
            kind, value = wire.receive()
        except BaseException as error:
            self._broken(wire, error)
        if kind == FAILED:
            self._drop(wire)
            raise value
        return wire, value

    # -- connections ----------------------------------------------------------

    def _take(self) -> Wire:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _put_back(self, wire: Wire) -> None:
        if self._closed or len(self._idle) >= _MOST_IDLE:
            self._drop(wire)
        else:
            self._idle.append(wire)

    def _drop(self, wire: Wire) -> None:
        self._wires.discard(wire)
        wire.close()

    def _broken(self, wire: Wire, error: BaseException) -> NoReturn:
        """Close a connection in an unknown state, and raise what the caller should see."""
        self._drop(wire)
        if isinstance(error, (EOFError, OSError)):
            raise self.lost("The connection to it was lost") from error
        raise error

    def lost(self, what: str) -> GatewayError:
        """Return the error that says so."""
        rank, hosts = self.welcome
        if self._closed:
            return GatewayError(
                "This process was detached from its program: attach() again, and unpickle or make "
                "the services anew."
            )
        whose = f"rank {rank} on {hosts[rank]}" if hosts else "a rank of a program"
        return GatewayError(
            f"This process is attached to {whose}, and the program has ended or that rank is "
            f"ending. {what}. Processes that outlive the program cannot use its services: have "
            "the task wait for them.",
            rank=rank if hosts else None,
            host=hosts[rank] if hosts else None,
        )

    def _connect(self) -> Wire:
        if self._closed:
            raise self.lost("")
        connection = socket.socket(socket.AF_UNIX)
        wire = Wire(connection)
        try:
            connection.connect(self.address.socket_name)
            if not is_ours(connection):
                raise GatewayError(
                    f"The program of {VARIABLE} belongs to another user than this process (user id "
                    f"{os.geteuid()}): only processes of one user can be attached."
                )
            connection.sendall(HELLO + self.address.token)
            self.welcome = Welcome(*wire.receive())
        except ConnectionRefusedError as error:
            wire.close()
            if self.welcome.hosts:
                raise self.lost("It does not listen any more") from error
            raise GatewayError(
                f"There is no program at {VARIABLE}={self.address.name!r}: it has ended, or runs "
                "on another host or in another network namespace (a container) than this process."
            ) from error
        except (EOFError, OSError) as error:
            wire.close()
            if isinstance(error, GatewayError):
                raise
            raise self.lost(
                "It did not answer the greeting; a different version of alamo_mpi does not either"
            ) from error
        except BaseException:
            wire.close()
            raise
        self._wires.add(wire)
        return wire

    # -- ends ----------------------------------------------------------

    def close(self) -> None:
        """End all connections; requests under way in other threads raise `GatewayError`."""
        self._closed = True
        self._idle.clear()
        for wire in list(self._wires):
            wire.shut()
            self._drop(wire)

    def abandon(self) -> None:
        """Drop a forked child's copies of the connections, which are the parent's to use."""
        self._idle.clear()
        for wire in list(self._wires):
            self._drop(wire)
