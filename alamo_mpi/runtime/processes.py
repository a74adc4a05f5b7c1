"""Programs of `process` tasks on their worker: such a task is a call of `run_program`.

The program inherits descriptors 1 and 2 as the capture has pointed them, so its output is captured
like that of a function.  It is started and watched by this rank's *warden*, a process of its own
(`runtime.warden` says why), which is started with the first program.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NamedTuple

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.runtime.confined import Limits, variables_of
from alamo_mpi.runtime.device import gpus
from alamo_mpi.runtime.tail import length, tail_of

__all__ = ["Invocation", "Stream", "run_program"]

#: See `runtime.interrupter`: it may be left at any bytecode, and ends the program then.
__interruptible__ = True

#: A path, ``subprocess.DEVNULL``, ``subprocess.STDOUT``, or None for captured.
Stream = str | bytes | int | None

#: ``subprocess.STDOUT``; that module is imported by those only who run a program.
STDOUT = -2


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
    import subprocess  # here, since most workers never run a program

    from alamo_mpi.runtime.wardship import warden

    cwd = os.fsencode(invocation.options["cwd"] or os.getcwd())
    request = _request(invocation, cwd)
    captured = _where_stderr_goes(invocation)
    start = length(captured)
    with contextlib.ExitStack() as opened:
        fds = _open_streams(invocation, cwd, opened)
        status = warden().run(request, fds, invocation.timeout)
    if status is None:
        assert invocation.timeout is not None
        tail = tail_of(captured, start)
        raise _told(
            subprocess.TimeoutExpired(invocation.args, invocation.timeout, None, tail), tail
        )
    if invocation.check and status:
        tail = tail_of(captured, start)
        raise _told(subprocess.CalledProcessError(status, invocation.args, None, tail), tail)
    return status


def _request(invocation: Invocation, cwd: bytes) -> dict[str, Any]:
    environment = invocation.options["env"]
    if environment is None:
        environment = _inherited.now()
    elif "ALAMO_GATEWAY" in os.environ:
        # How it finds the services of this rank; what was given is from elsewhere.
        environment = {**environment, "ALAMO_GATEWAY": os.environ["ALAMO_GATEWAY"]}
    variables = variables_of(invocation.limits, gpus)
    if variables:  # else it stays the same object, which the warden has got already
        environment = {**environment, **variables}
    preexec = None if invocation.preexec_fn is None else (invocation.preexec_fn, sys.path)
    return {
        "args": invocation.args,
        **invocation.options,
        "env": environment,
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
    same = invocation.stderr == STDOUT or (
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
    return 1 if invocation.stderr == STDOUT and invocation.stdout is None else None


def _told(error: Exception, tail: str | None) -> Exception:
    """Have an exception show the end of the program's stderr with its traceback."""
    if tail:
        # What `add_note` does from Python 3.11 on; unlike the cause it travels with the exception.
        error.__dict__["__notes__"] = [f"The end of its stderr:\n{tail.rstrip()}"]
    return error
