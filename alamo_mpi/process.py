"""`Batch.process`: a program as a task, in the terms of `subprocess.Popen`.

A process task is a function task that calls `runtime.processes.run_program` on its worker.  What
cannot be honoured there is refused here, when the task is made.
"""

from __future__ import annotations

import codecs
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.handle import AsyncDict
from alamo_mpi.placed import ranks_for, refuse_what_is_for_jobs
from alamo_mpi.retrying import RetryOn
from alamo_mpi.runtime import packing
from alamo_mpi.runtime.confined import Limits
from alamo_mpi.runtime.processes import Invocation, Stream, run_program
from alamo_mpi.runtime.submission import Decoding
from alamo_mpi.task import Accesses, Task, _Function

if TYPE_CHECKING:
    from alamo_mpi.batch import Batch
    from alamo_mpi.core.policy import Policy
    from alamo_mpi.runtime.submission import Submission

__all__ = ["process"]

_Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class _Process(_Function):
    """A run of a program."""

    __slots__ = ("_decoding", "_invocation", "_ranks")

    def __init__(
        self,
        batch: Batch,
        invocation: Invocation,
        decoding: Decoding | None,
        callback_func: Callable[..., Any] | None,
        callback_args: tuple[Any, ...],
        reads: Accesses,
        writes: Accesses,
        ranks: frozenset[int] | None,
    ) -> None:
        _Function.__init__(
            self, batch, run_program, (invocation,), callback_func, callback_args, reads, writes
        )
        self._invocation = invocation
        self._decoding = decoding
        self._ranks = ranks

    def _name(self) -> str:
        args = self._invocation.args
        if not isinstance(args, list):
            args = [part for part in args.split()[:1]] or [args]
        return os.path.basename(os.fsdecode(args[0]))

    def _enter(self, submission: Submission, index: int) -> None:
        submission.names[index] = self._name()
        if self._decoding is not None:
            submission.decodings[index] = self._decoding


def process(
    self: Batch,
    args: _Text | Sequence[_Text],
    bufsize: int = -1,
    executable: _Text | None = None,
    stdin: _Text | int | None = None,
    stdout: _Text | int | None = None,
    stderr: _Text | int | None = None,
    preexec_fn: Callable[[], object] | None = None,
    close_fds: bool = True,
    shell: bool = False,
    cwd: _Text | None = None,
    env: Mapping[Any, Any] | None = None,
    universal_newlines: bool | None = None,
    startupinfo: None = None,
    creationflags: int = 0,
    restore_signals: bool = True,
    start_new_session: bool = False,
    pass_fds: Sequence[int] = (),
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    user: str | int | None = None,
    umask: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    text: bool | None = None,
    pipesize: int = -1,
    process_group: int | None = None,
    callback_func: Callable[..., Any] | None = None,
    callback_args: tuple[Any, ...] = (),
    reads: Accesses = None,
    writes: Accesses = None,
    *,
    check: bool = False,
    timeout: float | None = None,
    policy: Policy | None = None,
    retries: int = 0,
    retry_delay: float = 0.0,
    retry_on: RetryOn = None,
    idempotent: bool = False,
) -> _Process:
    """Create a task that runs a program, with the arguments of `subprocess.Popen`.

    Parameters
    ----------
    args : str, bytes, path, or sequence of these
        The program and its arguments; with `shell` a line for ``/bin/sh``.
    bufsize, pipesize : int
        Without effect: output goes to files, not through pipes.
    executable, shell, close_fds, restore_signals, group, extra_groups, user, umask
        As for `subprocess.Popen`, on the worker.
    stdin : path or subprocess.DEVNULL, optional
        What the program reads; by default nothing.
    stdout, stderr : path, subprocess.DEVNULL, PIPE, or STDOUT (stderr only), optional
        A file that is written anew, or nowhere.  None, the default, and PIPE: captured for
        `Task.stdout` and `Task.stderr`.
    preexec_fn : callable, optional
        Called in the child before the program; is pickled now.
    cwd : path, optional
        Where the program runs, and what relative paths in other arguments start from; by default
        the directory in which the worker is.
    env : mapping, optional
        The program's whole environment; by default the worker's.  Variables by which a launcher
        tells a process that it is an MPI rank are left out of either, as far as they are what
        ``os.environ`` says here.
    start_new_session, process_group
        Each program gets a session and process group of its own; a group of another is refused.
    encoding, errors : str, optional
        How `Task.stdout` and `Task.stderr` are decoded; UTF-8, and "replace", by default.
    text, universal_newlines : bool, optional
        Turn every way to end a line into a newline, as `encoding` and `errors` also do.  The
        output is text in any case.
    callback_func, callback_args, reads, writes
        As for `function`.
    check : bool
        Let an exit status other than 0 be an error of the task, which stops its RAW successors.
    timeout : float, optional
        Seconds after which the program and its process group are ended.
    policy : Policy, optional
        Where and how it runs; see ``docs/processes.md``.
    retries, retry_delay, retry_on, idempotent
        As for `function`; ``retry_on=subprocess.CalledProcessError`` with `check` tries again
        after a status other than 0.

    Returns
    -------
    Task
        Not started.  Its result is the exit status, negative for a signal.

    Raises
    ------
    TypeError, ValueError, LookupError
        For what is no argument of `subprocess.Popen`, or cannot cross to another process: open
        files, descriptors, ``pass_fds``, and the arguments for Windows; for a policy that no worker
        can honour; and for retries of a program that reads what it writes.
    SerializationError
        If `preexec_fn` cannot be pickled.

    Notes
    -----
    Local.  ``result.get()`` raises what starting the program raised on its worker
    (`FileNotFoundError`, `PermissionError`, `OSError`), `subprocess.CalledProcessError` with
    `check`, and `subprocess.TimeoutExpired` when `timeout` was over.  These two have the end of a
    captured stderr in their ``stderr``.

    The task ends when its program does.  What is left of its process group is killed then; a
    process that is to live on calls ``setsid``, and lives until this program ends.
    """
    ranks = ranks_for(self, policy, masks=True)
    refuse_what_is_for_jobs(policy)
    _refuse_what_cannot_cross(startupinfo, creationflags, pass_fds, process_group)
    for name, number in {"bufsize": bufsize, "pipesize": pipesize}.items():
        _index(name, number)
    options = {
        "executable": _path("executable", executable),
        "close_fds": bool(close_fds),
        "shell": bool(shell),
        "cwd": _path("cwd", cwd),
        "env": None if env is None else _environment(env),
        "restore_signals": bool(restore_signals),
        "group": group,
        "extra_groups": None if extra_groups is None else list(extra_groups),
        "user": user,
        "umask": _index("umask", umask),
    }
    invocation = Invocation(
        args=_arguments(args),
        options=options,
        preexec_fn=_pickled(preexec_fn),
        stdin=_stream("stdin", stdin),
        stdout=_stream("stdout", stdout),
        stderr=_stream("stderr", stderr),
        check=bool(check),
        timeout=_seconds(timeout),
        limits=Limits.of(policy),
    )
    decoding = _decoding(encoding, errors, bool(text or universal_newlines))
    callback = (callback_func, callback_args)
    task = _Process(self, invocation, decoding, *callback, reads, writes, ranks)
    task._try_again(retries, retry_delay, retry_on, idempotent)
    return task


def _refuse_what_cannot_cross(
    startupinfo: object, creationflags: int, pass_fds: Sequence[int], process_group: int | None
) -> None:
    if startupinfo is not None or creationflags:
        raise ValueError("startupinfo and creationflags are for Windows: leave them out")
    if pass_fds:
        raise ValueError(
            f"pass_fds={pass_fds!r}: file descriptors of this process mean nothing on the worker "
            "that runs the program; pass paths in args, or stdin=, stdout= and stderr="
        )
    if process_group:
        raise ValueError(
            f"process_group={process_group!r}: the process groups of this process are not those "
            "of the worker that runs the program, which gets a group of its own; leave it out"
        )


def _arguments(args: Any) -> str | bytes | list[str | bytes]:
    if isinstance(args, (str, bytes)):
        return args
    if isinstance(args, os.PathLike):
        path: str | bytes = os.fspath(args)
        return path
    try:
        given = list(args)
    except TypeError:
        raise TypeError(f"args must be a str or a sequence of str, not {args!r}") from None
    if not given:
        raise ValueError("args is empty: its first item is the program to run")
    for index, each in enumerate(given):
        if isinstance(each, (Task, AsyncDict)):
            raise TypeError(
                f"args[{index}] is {each!r}: the result of a task cannot be an argument of a "
                "program; write it to a file, or run the program from a function task"
            )
        if not isinstance(each, (str, bytes, os.PathLike)):
            raise TypeError(f"args[{index}] must be str, bytes or a path, not {each!r}")
    return [os.fspath(each) for each in given]


def _path(name: str, path: Any) -> str | bytes | None:
    if path is None:
        return None
    try:
        return os.fspath(path)  # type: ignore[no-any-return]
    except TypeError:
        raise TypeError(f"{name} must be a path, not {path!r}") from None


def _stream(name: str, stream: Any) -> Stream:
    if stream is None:
        return None
    if isinstance(stream, (str, bytes, os.PathLike)):
        return os.fspath(stream)
    import subprocess  # here, since most programs start none

    if isinstance(stream, int) and stream in (
        subprocess.PIPE,
        subprocess.STDOUT,
        subprocess.DEVNULL,
    ):
        if name == "stdin" and stream == subprocess.PIPE:
            raise ValueError(
                "stdin=subprocess.PIPE: nobody could write to it; give the path of a file with "
                "what the program is to read"
            )
        if stream == subprocess.STDOUT and name != "stderr":
            raise ValueError(f"{name}=subprocess.STDOUT: that is for stderr only")
        return None if stream == subprocess.PIPE else int(stream)
    raise TypeError(
        f"{name}={stream!r}: an open file or a descriptor cannot cross to the worker that runs the "
        "program; give a path, or subprocess.DEVNULL, PIPE or STDOUT"
    )


def _environment(env: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy without the marks of a rank that were copied from this process."""
    copied = {name for name, value in env.items() if os.environ.get(_text(name)) == _text(value)}
    kept = scrubbed(dict.fromkeys(map(_text, copied), ""))
    return {k: v for k, v in env.items() if k not in copied or _text(k) in kept}


def _text(value: Any) -> str:
    try:
        return os.fsdecode(value)
    except TypeError:
        raise TypeError(f"env must have str or bytes for keys and values, not {value!r}") from None


def _pickled(preexec_fn: Callable[[], object] | None) -> bytes | None:
    if preexec_fn is None:
        return None
    if not callable(preexec_fn):
        raise TypeError(f"preexec_fn must be callable, not {preexec_fn!r}")
    return packing.dumps(preexec_fn)


def _index(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None


def _seconds(timeout: Any) -> float | None:
    if timeout is None:
        return None
    seconds = float(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
    return seconds


def _decoding(encoding: str | None, errors: str | None, newlines: bool) -> Decoding | None:
    if encoding is None and errors is None and not newlines:
        return None
    if encoding is not None:
        codecs.lookup(encoding)
    if errors is not None:
        codecs.lookup_error(errors)
    return Decoding(encoding or "utf-8", errors or "replace", True)
