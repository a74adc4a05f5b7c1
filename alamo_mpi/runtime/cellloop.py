"""What a cell does: it runs what its worker sends, one task at a time (`runtime.isolated`).

It is no rank and starts no MPI; its tasks find the program's services by the gateway of their
worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime import home, service
from alamo_mpi.runtime.cellseat import CellSeat
from alamo_mpi.runtime.cellstreams import CellStreams
from alamo_mpi.runtime.celltalk import DONE, FAILED, UP, Assignment
from alamo_mpi.runtime.failures import describe
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK
from alamo_mpi.runtime.gateway.address import VARIABLE, parse
from alamo_mpi.runtime.gateway.remote import RemoteHome
from alamo_mpi.runtime.gateway.requests import Welcome
from alamo_mpi.runtime.packing import loads, pack, unpack
from alamo_mpi.runtime.parcels import Parcel, receive
from alamo_mpi.runtime.turn import sit

__all__ = ["serve"]


def serve(connection: socket.socket) -> None:
    """Run what the worker at the other end sends, until it lets go."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        about, _, _ = receive(connection)
        if about is not None:
            _enter_home(*about)
        _run_all(connection)


def _enter_home(rank: int, hosts: tuple[str, ...]) -> None:
    """Be at home at the worker's gateway; it is connected to when a task needs it."""
    told = os.environ.get(VARIABLE)
    if told:
        mine = RemoteHome(parse(told), Welcome(rank, hosts))
        home.enter(mine)
        service.offer(mine.service)


class _Functions:
    """The functions that the worker has sent, each unpickled when a task first needs it."""

    def __init__(self) -> None:
        self._loaded: dict[int, Callable[..., Any]] = {}
        self._definitions: dict[int, bytes] = {}

    def define(self, kind: int, definition: bytes) -> None:
        self._definitions[kind] = definition

    def get(self, kind: int) -> Callable[..., Any]:
        function = self._loaded.get(kind)
        if function is None:
            function = self._loaded[kind] = loads(self._definitions[kind])
            del self._definitions[kind]
        return function


def _run_all(connection: socket.socket) -> None:
    """Run what the worker sends, one task at a time."""
    pid, streams, functions = os.getpid(), CellStreams(), _Functions()
    Parcel().send(connection, (UP, None))
    while True:
        message, fds, payload = receive(connection)
        assignment, parcel = Assignment(*message), Parcel()
        answer: tuple[int, Any]
        try:
            if assignment.streams:
                streams.lead_to(fds[:2])
                # Those of blobs keep their numbers.
                fds[:2] = [-1, -1]
            if assignment.path is not None:
                sys.path[:] = assignment.path
            seat = CellSeat(connection, streams, assignment.uid, assignment.depth)
            with sit(seat):
                # Who is ended says where it was; not while it is idle, at the program's end.
                faulthandler.register(signal.SIGTERM, 2, chain=True)
                answer = DONE, _run(assignment, functions, fds, payload, parcel)
                seat.end()
        except BaseException as error:
            answer = FAILED, tuple(describe(error, 2))
        if os.getpid() != pid:
            # A child that the task has forked, and that came back instead of ending.
            streams.settle()
            os._exit(answer[0] == FAILED)
        faulthandler.unregister(signal.SIGTERM)
        del message, assignment, payload
        streams.settle()
        try:
            parcel.send(connection, answer)
        except OSError as error:
            # No memory or descriptors for it, or the worker is gone, and then this fails too.
            Parcel().send(connection, (FAILED, tuple(describe(error, 2))))
        del answer, parcel


def _run(
    assignment: Assignment,
    functions: _Functions,
    fds: list[int],
    payload: Callable[[Any], Any],
    parcel: Parcel,
) -> Any:
    """Call the function; return its result as it stands in the parcel."""
    try:
        if assignment.definition is not None:
            functions.define(assignment.kind, assignment.definition)
        values = _values(assignment, payload)
    finally:
        for fd in fds:
            if fd >= 0:
                os.close(fd)
    if assignment.kind == TRAVELS_WITH_TASK:
        function, *values = values
    else:
        function = functions.get(assignment.kind)
    return _packed(function(*values), parcel)


def _values(assignment: Assignment, payload: Callable[[Any], Any]) -> Any:
    """Return the arguments, with results of other tasks in their places."""

    def find(number: int) -> Any:
        raise AssertionError(f"blob {number} was not put into the parcel")

    values = unpack(payload(assignment.payload), find)
    if assignment.inputs:
        values = list(values)
        for at, each in assignment.inputs:
            values[at] = unpack(payload(each), find)
    return values


def _packed(result: Any, parcel: Parcel) -> Any:
    try:
        return parcel.payload(pack(result, pickle.PickleBuffer))
    except SerializationError as error:
        problem = SerializationError(f"The result of the task was lost: {error}")
        raise problem from error.__cause__
