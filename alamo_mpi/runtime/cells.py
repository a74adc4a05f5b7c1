"""The processes in which a worker runs isolated tasks: started, kept while idle, ended.

``ARCHITECTURE-isolation.md`` has the protocol.  Nothing here can be interrupted half-way, nor waits
for a task; `runtime.isolated` does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.runtime import home
from alamo_mpi.runtime.celltalk import DONE
from alamo_mpi.runtime.ends import at_end
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK
from alamo_mpi.runtime.parcels import Parcel, receive
from alamo_mpi.runtime.spool import LOWEST_PRIVATE_FD

__all__ = ["Cell", "Cells", "Death", "Order"]

_PROGRAM = os.path.join(os.path.dirname(__file__), "cellmain.py")
#: Idle cells that are kept.
_MOST_IDLE = 2
_REPORT_NBYTES = 1 << 16


class Order(NamedTuple):
    """A task for a cell, as its worker has it: nothing of it is unpickled."""

    #: Number of its function, and what gives the pickle of that.
    kind: int
    definition: Callable[[], bytes]
    #: Of its arguments.
    payload: Any
    #: (argument index, payload of the result of another task that goes there).
    inputs: list[tuple[int, Any]]
    uid: int
    depth: int
    #: See `Parcel.payload`.
    file_of: Callable[[int], Any]
    #: Called when it is handed over.
    begin: Callable[[], None] | None


class Death(NamedTuple):
    """What is known of the end of a cell."""

    #: As of `subprocess.Popen.returncode`; None if nobody was there to see it.
    status: int | None
    peak_nbytes: int


class Cell:
    """One process: how to speak to it, and what it has been sent.

    Attributes
    ----------
    connection : socket.socket
        To the cell.
    report : socket.socket
        From the warden, on this cell.
    events : select.poll
        Of both.
    pid : int or None
        Its process, once that was told.
    up : bool
        Whether it has said that it is ready.
    """

    def __init__(self) -> None:
        from alamo_mpi.runtime.wardship import warden

        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            self.connection = _private(near)
            request = {
                "args": [sys.executable, _PROGRAM],
                "env": scrubbed(os.environ),
                "cwd": os.fsencode(os.getcwd()),
                "cpus": None,
                "preexec": None,
            }
            try:
                self._number, report = warden().start(request, [far.fileno(), 1, 2])
            except BaseException:
                self.connection.close()
                raise
        with report:
            self.report = _private(report)
        self.events = select.poll()
        self.events.register(self.connection, select.POLLIN)
        self.events.register(self.report, select.POLLIN)
        self.pid: int | None = None
        self.up = False
        #: Functions that it was sent; one that travels with its task needs no sending.
        self._known = {TRAVELS_WITH_TASK}
        self._death: Death | None = None
        self._path = list(sys.path)
        self._streams = _streams()
        with contextlib.suppress(OSError):  # whoever waits for it finds out
            self.connection.send(pickle.dumps(self._path))
            where = home.current() if home.exists() else None
            about = None if where is None else (where.rank, where.hosts)
            Parcel().send(self.connection, about)

    def assign(self, order: Order) -> None:
        """Give it a task; waits for nothing.

        Raises
        ------
        OSError
            It has ended, or there is no memory for the arguments.
        """
        moved, parcel = self._parcel()
        fresh = order.kind not in self._known
        path = None if sys.path == self._path else list(sys.path)
        assignment = (
            order.kind,
            order.definition() if fresh else None,
            parcel.payload(order.payload, order.file_of),
            [(at, parcel.payload(each, order.file_of)) for at, each in order.inputs],
            order.uid,
            order.depth,
            path,
            moved,
        )
        parcel.send(self.connection, assignment)
        self._known.add(order.kind)
        self._path = path or self._path

    def agree(self) -> None:
        """Let its task go on, which has waited."""
        moved, parcel = self._parcel()
        with contextlib.suppress(OSError):  # its report tells
            parcel.send(self.connection, moved)

    def _parcel(self) -> tuple[bool, Parcel]:
        """Return a parcel, and whether it has stdout and stderr, which lead somewhere else now."""
        before, self._streams = self._streams, _streams()
        moved = before != self._streams
        return moved, Parcel((1, 2)) if moved else Parcel()

    def answer(self) -> tuple[int, Any]:
        """Return what it has to say; there is something.

        Raises
        ------
        EOFError, OSError
            It has closed its end.
        """
        (what, value), fds, payload = receive(self.connection)
        for fd in fds:
            os.close(fd)
        if what == DONE and type(value) is list:
            data, *buffers = payload(value)
            value = [data, *map(pickle.PickleBuffer, buffers)]
        return what, value

    def death(self) -> Death | None:
        """Return how the cell has ended, with all that it started; None while it lives.

        Raises
        ------
        Exception
            Why it could not be started.
        """
        while self._death is None and _readable(self.report):
            packet = b""
            with contextlib.suppress(OSError):
                packet = self.report.recv(_REPORT_NBYTES)
            if not packet:  # the warden was killed; the cell has asked the kernel to die with it
                self._death = Death(None, 0)
                break
            what, _, value = pickle.loads(packet)
            if what == "started":
                self.pid = value
            elif what == "ended":
                self._death = Death(*value)
            else:
                self._death = Death(None, 0)
                raise value
        return self._death

    def end(self, grace_s: float, limit_s: float) -> None:
        """End it: ask, and after the grace do not ask; waits until it is gone."""
        from alamo_mpi.runtime.wardship import warden

        deadline = time.monotonic() + grace_s + limit_s
        # A failure to start is no news to whoever gives it up.
        with contextlib.suppress(Exception):
            if self.death() is None:
                warden().end(self._number, grace_s)
            while self.death() is None and time.monotonic() < deadline:
                left_ms = (deadline - time.monotonic()) * 1e3
                _readable(self.report, max(left_ms, 0.0))
        self.close()

    def close(self) -> None:
        """Let it go: it ends by itself if it is idle."""
        self.connection.close()
        self.report.close()


class Cells:
    """The cells of one worker; for all threads that run its tasks."""

    def __init__(self) -> None:
        self._idle: list[Cell] = []
        self._lock = threading.Lock()
        self._entered = False

    def take(self) -> Cell:
        """Return an idle cell, or start one; waits for neither."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                cell = self._idle.pop()
            if cell.death() is None:
                return cell
            cell.close()  # it has died while it was idle
        cell = Cell()
        with self._lock:
            if not self._entered:  # after the warden, so before it at the end
                self._entered = True
                at_end(self.close)
        return cell

    def put_back(self, cell: Cell) -> None:
        """Keep a cell whose task has ended."""
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(cell)
                return
        cell.close()

    def close(self) -> None:
        """Let all idle cells go."""
        with self._lock:
            self._entered = False
            idle, self._idle = self._idle, []
        for cell in idle:
            cell.close()


def _readable(connection: socket.socket, timeout_ms: float = 0.0) -> bool:
    """Tell whether there is something to read, now or within a time."""
    events = select.poll()  # select() knows no descriptors above 1023
    events.register(connection, select.POLLIN)
    return bool(events.poll(timeout_ms))


def _private(connection: socket.socket) -> socket.socket:
    """Return a copy with a number that no task closes by accident."""
    fd = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, LOWEST_PRIVATE_FD)
    return socket.socket(fileno=fd)


def _streams() -> Any:
    """Return what tells where stdout and stderr lead."""
    try:
        out, err = os.fstat(1), os.fstat(2)
    except OSError:
        return None
    return out.st_dev, out.st_ino, err.st_dev, err.st_ino
