"""The rank's side of its warden; `runtime.warden` says what that is for, and what is said."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.runtime.ends import at_end
from alamo_mpi.runtime.spool import LOWEST_PRIVATE_FD

__all__ = ["BURIAL_S", "GRACE_S", "Wardship", "warden"]

#: See `runtime.interrupter`: it may be left at any bytecode, and ends the program then.
__interruptible__ = True

#: From SIGTERM to SIGKILL, for a program that is out of time or given up; within the time that
#: `Batch.terminate` waits.
GRACE_S = 1.0
#: Past the grace, the warden waits this long at most for what it has killed.
BURIAL_S = 4.0
#: Other threads can interrupt a wait only between two looks.
_LOOK_S = 0.1
_SMALL_NBYTES = 1 << 16
_WARDEN = os.path.join(os.path.dirname(__file__), "warden.py")


class Wardship:
    """The rank's end of the connection; starts the process at the other."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._numbers = itertools.count()
        # Tasks that run at the same time in several threads take turns, but for `start`.
        self._lock = threading.Lock()
        #: Held while a request is sent: requests refer to the one before.
        self._sending = threading.Lock()
        #: The environment of the last request, which the warden remembers.
        self._sent: object = None
        self._connect()

    def _connect(self) -> None:
        self._sent = None
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            private = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD_CLOEXEC, LOWEST_PRIVATE_FD)
            self._socket = socket.socket(fileno=private)
            # In a session of its own, it is no target of Ctrl-C nor of a kill of this one's group.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _WARDEN, str(far.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # It may have to import what a preexec_fn needs, and that may start MPI.
                env=scrubbed(os.environ),
                pass_fds=(far.fileno(),),
                start_new_session=True,
            )

    def run(self, request: dict[str, Any], fds: list[int], timeout: float | None) -> int | None:
        """Run a program; return its status, or None if it was ended for being out of time."""
        with self._lock:
            number = next(self._numbers)
            try:
                self._ask_to_run(number, request, fds)
                what, value = self._answer(number, timeout)
            except BaseException:
                self._end(number)
                raise
            if what == "late":
                self._end(number)
                return None
        if what == "failed":
            raise value
        status: int = value[0]
        return status

    def start(self, request: dict[str, Any], fds: list[int]) -> tuple[int, socket.socket]:
        """Start a program, and leave it alone; return its number and its report.

        On the report the warden says ("started", number, pid) and ("ended", number, ending), or
        ("failed", number, exception); its end, before one of the last two, is that of the warden.
        """
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                number = next(self._numbers)
                fds = [*fds, theirs.fileno()]
                self._ask_to_run(number, {**request, "report": True}, fds)
            except BaseException:
                report.close()
                raise
        return number, report

    def end(self, number: int, grace_s: float) -> None:
        """Have a program that `start` has started ended; returns at once, its report tells."""
        with contextlib.suppress(OSError):  # no warden, no program
            self._socket.send(pickle.dumps(("end", number, grace_s)))

    def _ask_to_run(self, number: int, request: dict[str, Any], fds: list[int]) -> None:
        environment = request["env"]
        with self._sending:
            try:
                same = {**request, "env": None} if environment is self._sent else request
                self._send_request(number, same, fds)
            except (BrokenPipeError, ConnectionResetError):  # somebody has killed it since
                self._reap()
                self._connect()
                self._send_request(number, request, fds)
            self._sent = environment

    def _send_request(self, number: int, request: dict[str, Any], fds: list[int]) -> None:
        body = pickle.dumps(("run", number, request))
        if len(body) <= _SMALL_NBYTES:
            socket.send_fds(self._socket, [body], fds)
            return
        memory = os.memfd_create("alamo-mpi-request")
        with open(memory, "wb") as file:
            pickle.dump(request, file)
            file.flush()
            fds = [*fds[:3], memory, *fds[3:]]
            socket.send_fds(self._socket, [pickle.dumps(("run", number, None))], fds)

    def _answer(self, number: int, timeout: float | None) -> tuple[str, Any]:
        """Wait for what became of a program; ("late", None) if that takes too long."""
        deadline = None if timeout is None else time.monotonic() + timeout
        connection = self._socket
        arrivals = select.poll()  # select() knows no descriptors above 1023
        arrivals.register(connection, select.POLLIN)
        while True:
            wait = _LOOK_S
            if deadline is not None:
                wait = min(wait, deadline - time.monotonic())
                if wait <= 0:
                    return "late", None
            if not arrivals.poll(math.ceil(wait * 1e3)):
                continue
            packet = b""
            with contextlib.suppress(OSError):  # it died before it read a packet
                packet = connection.recv(1 << 17)
            if not packet:
                raise ChildProcessError(
                    "The process that watches over the programs of this rank has been killed, and "
                    "the program with it: see whether the host ran out of memory (dmesg)."
                )
            what, whose, value = pickle.loads(packet)
            if whose == number:  # else the end of one that was given up
                return what, value

    def _end(self, number: int) -> None:
        """End a program and its process group."""
        with contextlib.suppress(OSError):  # no warden, no program
            self.end(number, GRACE_S)
            self._answer(number, GRACE_S + BURIAL_S)

    def _reap(self) -> None:
        self._socket.close()
        try:
            self._process.wait(BURIAL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the warden and all that is below it, and wait for that; local."""
        if self.owner == os.getpid():
            self._reap()


_current: Wardship | None = None


def warden() -> Wardship:
    """Return this process's warden, started when it is first needed.

    A forked child has none of its own yet.
    """
    global _current
    if _current is None or _current.owner != os.getpid():
        _current = Wardship()
        at_end(_close)
    return _current


def _close() -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None
