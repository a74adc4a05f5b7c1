"""The rank's half of a connection on which a process is a client of batches.

Both ends speak whenever they like: ``(tag, rank, fields)``, a message of `core.messages` by its
tag; the rank is where a `Fetch` goes.
"""

from __future__ import annotations

import pickle
import select
import socket
from typing import Any, Final

from alamo_mpi.core.messages import (
    KINDS,
    Ask,
    Cancel,
    Drop,
    Ended,
    Fetch,
    Leave,
    Register,
    Submit,
    Value,
    Waits,
    tag_of,
)
from alamo_mpi.errors import GatewayError, InternalError
from alamo_mpi.runtime import door as doors
from alamo_mpi.runtime.gateway.outbox import Outbox
from alamo_mpi.runtime.gateway.requests import DONE
from alamo_mpi.runtime.gateway.wire import Wire

__all__ = ["serve_client"]

_BUFFERS: Final = (memoryview, bytearray)
_FROM_CLIENTS: Final = (Ask, Register, Leave, Submit, Drop, Cancel, Waits)


def serve_client(connection: socket.socket, wire: Wire, name: str) -> None:
    """Pass on what a process sends, until it ends or the program does; blocks.

    Parameters
    ----------
    connection, wire
        From here on nobody else uses them.
    name
        Of the thread that sends what the process does not read at once.

    Raises
    ------
    EOFError, OSError
        The process has ended, or this rank is ending.
    GatewayError
        The program is ending.
    InternalError
        The process has sent what it should not.
    """
    door = doors.current()
    if door is None:
        raise GatewayError("The program that this process is attached to is ending.")
    outbox = Outbox(connection, name)

    def put(message: Any) -> None:
        outbox.put((tag_of(message), 0, _outside(message)))

    readable = select.poll()
    readable.register(connection.fileno(), select.POLLIN)
    number = door.enter(put, wire.shut)
    try:
        wire.send((DONE, number))
        while True:
            tag, rank, fields = wire.receive()
            message = KINDS[tag](*fields)
            if isinstance(message, Fetch):
                door.fetch(number, rank, message)
            elif isinstance(message, _FROM_CLIENTS):
                door.send(number, message)
                if isinstance(message, (Submit, Ask)) and not wire.pending:
                    sent = outbox.count
                    door.look(lambda: outbox.count != sent or bool(readable.poll(0)))  # noqa: B023
            else:
                raise InternalError(f"no client may send {message}")
    finally:
        door.leave(number)
        wire.shut()
        outbox.close()


def _outside(message: Any) -> tuple[Any, ...]:
    """Return the fields of a message as they can be pickled, large buffers outside of it."""
    if isinstance(message, Value):
        return message.key, message.payload and (_portable(message.payload[0]),)
    if isinstance(message, Ended) and message.results is not None:
        message = message._replace(results=[_portable(each) for each in message.results])
    return tuple(message)


def _portable(payload: Any) -> Any:
    """Return a payload whose buffers may have come from another rank: views cannot be pickled."""
    if type(payload) is list:
        return [payload[0], *map(pickle.PickleBuffer, payload[1:])]
    return pickle.PickleBuffer(payload) if type(payload) in _BUFFERS else payload
