"""Programs of `process` tasks on their worker: such a task is a call of `run_program`.

The program inherits descriptors 1 and 2 as the capture has pointed them, so its output is captured
like that of a function.  It is started and watched by this rank's *warden*, a process of its own
(`runtime.warden` says why), which is started with the first program.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.runtime.confined import Limits, environment_of
from alamo_mpi.runtime.ends import at_end
from alamo_mpi.runtime.spool import LOWEST_PRIVATE_FD

__all__ = ["Invocation", "Stream", "run_program"]

#: A path, ``subprocess.DEVNULL``, ``subprocess.STDOUT``, or None for captured.
Stream = str | bytes | int | None

#: From SIGTERM to SIGKILL, for a program that is out of time or given up; within the time that
#: `Batch.terminate` waits.
GRACE_S = 1.0
#: Past the grace, the warden waits this long at most for what it has killed.
_BURIAL_S = 4.0
#: Other threads can interrupt a wait only between two looks.
_LOOK_S = 0.1
_SMALL_NBYTES = 1 << 16
_TAIL_NBYTES = 2048
_WARDEN = os.path.join(os.path.dirname(__file__), "warden.py")


class Invocation(NamedTuple):
    """What a `process` task runs; the one argument of `run_program`."""

    #: As for `subprocess.Popen`, paths as text.
    args: str | bytes | list[str | bytes]
    #: Its other keyword arguments, as far as they can travel.
    options: dict[str, Any]
    #: Pickled.
    preexec_fn: bytes | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    check: bool
    timeout: float | None
    limits: Limits | None


def run_program(invocation: Invocation) -> int:
    """Run a program to its end; return its exit status, negative for a signal.

    Raises
    ------
    OSError
        If it cannot be started, or a stream cannot be opened.
    subprocess.CalledProcessError
        With ``check``, if the status is not 0.
    subprocess.TimeoutExpired
        If it was out of time; its process group was ended.
    """
    cwd = os.fsencode(invocation.options["cwd"] or os.getcwd())
    request = _request(invocation, cwd)
    captured = (
        2 if invocation.stderr is None else 1 if invocation.stderr == subprocess.STDOUT else None
    )
    if captured == 1 and invocation.stdout is not None:
        captured = None
    start = _length(captured)
    with contextlib.ExitStack() as opened:
        fds = _open_streams(invocation, cwd, opened)
        status = _warden().run(request, fds, invocation.timeout)
    if status is None:
        assert invocation.timeout is not None
        raise _told(
            subprocess.TimeoutExpired(
                invocation.args, invocation.timeout, None, _tail(captured, start)
            )
        )
    if invocation.check and status:
        raise _told(
            subprocess.CalledProcessError(status, invocation.args, None, _tail(captured, start))
        )
    return status


def _request(invocation: Invocation, cwd: bytes) -> dict[str, Any]:
    environment = invocation.options["env"]
    if environment is None:
        environment = _inherited.now()
    elif "ALAMO_GATEWAY" in os.environ:
        # How it finds the services of this rank; nobody could have known.
        environment = {"ALAMO_GATEWAY": os.environ["ALAMO_GATEWAY"], **environment}
    preexec = None if invocation.preexec_fn is None else (invocation.preexec_fn, sys.path)
    return {
        "args": invocation.args,
        **invocation.options,
        "env": environment_of(invocation.limits, environment),
        "cwd": cwd,
        "preexec": preexec,
        "cpus": None if invocation.limits is None else invocation.limits.cpus,
    }


class _Inherited:
    """The environment that a program gets by default, made anew only when this process's changed.

    Decoding it and looking at each name would cost a tenth of what starting a program does.
    """

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}
        self._made: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        """Return it; the same object as long as it is the same."""
        # Not public, but there since Python 3.2, and 200 times quicker to copy than the mapping.
        seen = dict(getattr(os.environ, "_data", os.environb))
        if seen != self._seen:
            self._seen, self._made = seen, scrubbed(os.environ)
        return self._made


_inherited = _Inherited()


def _open_streams(invocation: Invocation, cwd: bytes, opened: contextlib.ExitStack) -> list[int]:
    """Return descriptors for the program's stdin, stdout and stderr."""

    def path_of(stream: str | bytes) -> bytes:
        return os.path.join(cwd, os.fsencode(stream))

    def open_for(stream: Stream, flags: int, fd: int) -> int:
        if stream is None:
            return fd
        path = path_of(stream) if isinstance(stream, (str, bytes)) else os.devnull
        return _opened(path, flags, opened)

    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    stdin = os.devnull if invocation.stdin is None else invocation.stdin
    fds = [open_for(stdin, os.O_RDONLY, 0), open_for(invocation.stdout, write, 1)]
    same = invocation.stderr == subprocess.STDOUT or (
        # Opened twice, each would overwrite what the other wrote.
        isinstance(invocation.stdout, (str, bytes))
        and isinstance(invocation.stderr, (str, bytes))
        and path_of(invocation.stdout) == path_of(invocation.stderr)
    )
    fds.append(fds[1] if same else open_for(invocation.stderr, write, 2))
    return fds


def _opened(path: str | bytes, flags: int, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, flags, 0o666)
    opened.callback(os.close, fd)
    return fd


def _where_stderr_goes(invocation: Invocation) -> int | None:
    """Return the captured descriptor that gets the program's stderr, if one does."""
    if invocation.stderr is None:
        return 2
    return 1 if invocation.stderr == subprocess.STDOUT and invocation.stdout is None else None


def _length(fd: int | None) -> int:
    """Return how much was written to a captured descriptor so far."""
    with contextlib.suppress(OSError):  # a terminal, under a debugger
        return 0 if fd is None else os.lseek(fd, 0, os.SEEK_END)
    return 0


def _tail(fd: int | None, start: int) -> str | None:
    """Return the end of what was written to a captured descriptor since it was `start` long."""
    if fd is None:
        return None
    with contextlib.suppress(OSError):
        end = _length(fd)
        first = max(start, end - _TAIL_NBYTES)
        return os.pread(fd, max(end - first, 0), first).decode(errors="replace")
    return None


def _told(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> Exception:
    """Have an exception show the end of the program's stderr with its traceback."""
    if error.stderr:
        # What `add_note` does from Python 3.11 on; unlike the cause it travels with the exception.
        tail = str(error.stderr).rstrip()
        error.__dict__["__notes__"] = [f"The end of its stderr:\n{tail}"]
    return error


class _Warden:
    """The rank's side of a warden; see `runtime.warden` for what is said."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._numbers = itertools.count()
        # Tasks that run at the same time in several threads take turns.
        self._lock = threading.Lock()
        #: The environment of the last request, which the warden remembers.
        self._sent: object = None
        self._connect()

    def _connect(self) -> None:
        self._sent = None
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            import fcntl

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
        status: int = value
        return status

    def _ask_to_run(self, number: int, request: dict[str, Any], fds: list[int]) -> None:
        environment = request["env"]
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
            socket.send_fds(self._socket, [pickle.dumps(("run", number, None))], [*fds, memory])

    def _answer(self, number: int, timeout: float | None) -> tuple[str, Any]:
        """Wait for what became of a program; ("late", None) if that takes too long."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            wait = _LOOK_S
            if deadline is not None:
                wait = min(wait, deadline - time.monotonic())
                if wait <= 0:
                    return "late", None
            if not select.select([self._socket], [], [], wait)[0]:
                continue
            packet = b""
            with contextlib.suppress(ConnectionResetError):  # it died before it read a packet
                packet = self._socket.recv(1 << 17)
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
            self._socket.send(pickle.dumps(("end", number, GRACE_S)))
            self._answer(number, GRACE_S + _BURIAL_S)

    def _reap(self) -> None:
        self._socket.close()
        try:
            self._process.wait(_BURIAL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the warden and all that is below it, and wait for that; local."""
        if self.owner == os.getpid():
            self._reap()


_current: _Warden | None = None


def _warden() -> _Warden:
    """Return this process's warden; a forked child has none of its own yet."""
    global _current
    if _current is None or _current.owner != os.getpid():
        _current = _Warden()
        at_end(_close)
    return _current


def _close() -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None
