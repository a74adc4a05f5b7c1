"""What a task writes to stdout and stderr, from Python, C and child processes alike.

File descriptors 1 and 2 are pointed at two unlinked files on disk while tasks run, so that output
needs neither a reading thread nor memory, and an untouched file costs one ``lseek`` to recognise.
``sys.stdout`` becomes the process's own stream on descriptor 1 wherever there is one: modules that
kept a reference to it (``from sys import stdout``) are then captured in the right order as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from alamo_mpi.errors import InternalError
from alamo_mpi.runtime.spool import LOWEST_PRIVATE_FD, Spilled, Spool

__all__ = ["Capture"]

_NOTHING = (b"", b"")
_INACTIVE = object()
_lseek = os.lseek


def _c_flusher(name: str) -> tuple[Callable[[Any], Any], Any]:
    """``fflush`` and the C stream to call it with, by itself.

    ``fflush(NULL)`` would also take the lock of C's stdin, and so wait for a thread in ``input()``.
    """
    libc = ctypes.CDLL(None)
    fflush = libc.fflush
    fflush.argtypes = [ctypes.c_void_p]
    fflush.restype = None
    for symbol in (name, f"__{name}p"):
        with contextlib.suppress(ValueError):
            return fflush, ctypes.c_void_p.in_dll(libc, symbol)
    return fflush, None


def _private_duplicate_of_null() -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, LOWEST_PRIVATE_FD)
    finally:
        os.close(null)


def _do_nothing() -> None:
    """Stand for the flush of a stream that is not there."""


def _flush(stream: Any) -> bool:
    """Flush what may be anything that user code left in ``sys.stdout``; false if it fails."""
    try:
        stream.flush()
    except Exception:
        return False
    return True


class _Channel:
    """Descriptor 1 with ``sys.stdout``, or 2 with ``sys.stderr``: where it leads, now and before.

    Attributes
    ----------
    spool : Spool
        The file that the descriptor leads to between `begin` and `end`.
    old_fd : int
        Private descriptor of what `fd` was at the last `begin`; always the same number.
    stream : io.TextIOWrapper
        What tasks print to, from the first `begin` on; writes to `fd`, wherever that leads.
    """

    stream: io.TextIOWrapper

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.fflush, self.c_stream = _c_flusher(name)
        self._own_stream: io.TextIOWrapper | None = None
        self._old_object: Any = None
        self._borrowed: tuple[io.TextIOWrapper, str, str | None, bool] | None = None
        self.spool = Spool()
        try:
            # Leads nowhere if the descriptor is closed; writing to it is safe in any case.
            self.old_fd = _private_duplicate_of_null()
            self._was_open = self._remember()
        except BaseException:
            self.spool.close()
            raise

    def begin(self) -> None:
        """Point the descriptor and the ``sys`` name at the file."""
        current = getattr(sys, self.name, None)
        original = getattr(sys, f"__{self.name}__", None)
        _flush(current)
        if original is not current:
            _flush(original)
        self.fflush(self.c_stream)
        self.spool.skip()
        self._old_object = current
        self._was_open = self._remember()
        os.dup2(self.spool.fd, self.fd)
        try:
            self.stream = self._borrow(current) or self._borrow(original) or self._make_own()
        except BaseException:
            self._point_back()
            raise
        setattr(sys, self.name, self.stream)

    def end(self) -> None:
        """Point the descriptor and the ``sys`` name back, whatever tasks did to them."""
        self.flush()
        setattr(sys, self.name, self.stream)
        self._point_back()
        self._return_borrowed()
        setattr(sys, self.name, self._old_object)
        self._old_object = None

    def flush(self) -> None:
        """Bring what Python and C hold back to where the descriptor leads now."""
        current = getattr(sys, self.name, None)
        if current is not self.stream:
            _flush(current)
        _flush(self.stream)
        self.fflush(self.c_stream)

    def collect(self) -> bytes | Spilled:
        """Return what was written, and undo a close, dup2 or assignment by a task."""
        self.flush()
        # First of all: a wrapper around our buffer closes it when the last reference goes.
        setattr(sys, self.name, self.stream)
        flushed = _flush(self.stream)
        data = self.spool.take() if flushed else self.spool.read(cut=True)
        os.dup2(self.spool.fd, self.fd)  # costs less than to ask whether it leads there
        if not flushed:
            # There is room again if the disk was full; else it was closed or detached.
            if not _flush(self.stream):
                self._own_stream = None
                self.stream = self._make_own()
                setattr(sys, self.name, self.stream)
            assert isinstance(data, bytes)
            data += self.spool.read()
        if self.stream.encoding.lower() != "utf-8":
            self.stream.reconfigure(encoding="utf-8")
        return data

    def close(self) -> None:
        """Give the private descriptors back; may be called again."""
        self.spool.close()
        if self.old_fd >= 0:
            os.close(self.old_fd)
            self.old_fd = -1

    def _remember(self) -> bool:
        """Keep in `old_fd` what the descriptor is; false if it is closed."""
        try:
            os.dup2(self.fd, self.old_fd, inheritable=False)
        except OSError:
            return False
        return True

    def _point_back(self) -> None:
        if self._was_open:
            os.dup2(self.old_fd, self.fd)
        else:
            with contextlib.suppress(OSError):
                os.close(self.fd)

    def _borrow(self, stream: Any) -> io.TextIOWrapper | None:
        """Take the process's own stream if it writes to this descriptor."""
        # An exact type: subclasses (as pytest's) may write somewhere else.
        if type(stream) is not io.TextIOWrapper:
            return None
        try:
            if stream.fileno() != self.fd:
                return None
            settings = stream, stream.encoding, stream.errors, stream.line_buffering
            if stream.encoding != "utf-8":
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
            if stream.line_buffering != (self.fd == 2):
                stream.reconfigure(line_buffering=self.fd == 2)
        except (OSError, ValueError):  # closed or detached
            return None
        self._borrowed = settings
        return stream

    def _return_borrowed(self) -> None:
        """Give the process its own stream back as it was."""
        if self._borrowed is None:
            return
        (stream, encoding, errors, line_buffering), self._borrowed = self._borrowed, None
        try:
            if stream.encoding != encoding or stream.errors != errors:
                stream.reconfigure(encoding=encoding, errors=errors)
            stream.reconfigure(line_buffering=line_buffering)
        except (OSError, ValueError):
            # A task closed it; the descriptor is still the process's.
            self._own_stream = None
            replacement = self._make_own()
            replacement.reconfigure(encoding=encoding, errors=errors, line_buffering=line_buffering)
            if getattr(sys, f"__{self.name}__", None) is stream:
                setattr(sys, f"__{self.name}__", replacement)
            if self._old_object is stream:
                self._old_object = replacement
            self._own_stream = None

    def _make_own(self) -> io.TextIOWrapper:
        """Return our stream on the descriptor; it stays, because tasks may keep references."""
        if self._own_stream is None or not _flush(self._own_stream):
            raw = io.FileIO(self.fd, "w", closefd=False)
            self._own_stream = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=self.fd == 2,
            )
        return self._own_stream


class Capture:
    """Capture of stdout and stderr at the level of file descriptors; one per process.

    `begin` and `end` enclose a chunk of tasks, `take` follows each task.  Captured is whatever
    reaches descriptors 1 and 2, ``sys.stdout`` and ``sys.stderr``, be it from Python, from C code
    or from child processes.

    Attributes
    ----------
    real_stderr : int
        A descriptor of the true stderr, for `faulthandler` and the runtime's own log; the same
        number from construction to `close`, redirected or not.

    Raises
    ------
    OSError
        If the temporary directory (``TMPDIR``, else the platform's default) cannot be written.

    Notes
    -----
    Local; never blocks.  Not thread-safe: one thread calls `begin`, `take` and `end`, and what
    other threads of the process write while it is redirected counts as the current task's.

    Whatever a task does to its streams, the next task starts with ``sys.stdout`` and
    ``sys.stderr`` open and leading to the capture, in UTF-8, and descriptors 1 and 2 leading
    there too: after assigning to ``sys.stdout``, closing or detaching it, closing descriptor 1 or
    calling `os.dup2` over it.  Up to the end of that task its output goes where the task sent it.
    A descriptor *numbered* 1 or 2 that a task opened does not outlive the task.  A child that
    opens ``/dev/stdout`` with truncation drops what was written before, as with any regular file.
    What children or threads write after their task ended belongs to the task that runs then, or
    is dropped if their task had written more than a megabyte.
    Not undone: closing descriptors that the task did not open (`os.closerange`), ``ulimit``, and
    buffers other than Python's and C's stdout and stderr (Fortran's need ``flush``).
    """

    def __init__(self) -> None:
        self._out = _Channel(1, "stdout")
        try:
            self._err = _Channel(2, "stderr")
        except BaseException:
            self._out.close()
            raise
        self.real_stderr = self._err.old_fd
        self._active = False
        self._closed = False
        self._fflush, self._c_stdout = self._out.fflush, self._out.c_stream
        self._note_state()

    def begin(self) -> None:
        """Start to capture; what the process had buffered goes where it was meant to go.

        Raises
        ------
        InternalError
            If the capture has begun already, or is closed.

        Notes
        -----
        Local, about 10 us.  What is in the files from before is dropped.
        """
        if self._active or self._closed:
            raise InternalError(
                "capture of output: begin() after "
                + ("close()" if self._closed else "begin(), without end() between them")
            )
        self._out.begin()
        try:
            self._err.begin()
        except BaseException:
            self._out.end()
            raise
        self._active = True
        self._note_state()

    def end(self) -> None:
        """Stop to capture, and restore descriptors and ``sys`` names as `begin` found them.

        Raises
        ------
        InternalError
            If the capture has not begun.

        Notes
        -----
        Local, about 10 us.  What was written since the last `take` is dropped.
        """
        if not self._active:
            raise InternalError("capture of output: end() without begin()")
        self._active = False
        try:
            self._out.end()
        finally:
            self._err.end()
            self._note_state()

    def take(self) -> tuple[bytes | Spilled, bytes | Spilled]:
        """Return what was written since the last `take`, or since `begin`, and repair the streams.

        Returns
        -------
        tuple of bytes or Spilled
            Output to stdout and to stderr, to be decoded as UTF-8 with ``errors="replace"``; more
            than a megabyte stays in its file.

        Raises
        ------
        InternalError
            If the capture has not begun.

        Notes
        -----
        Local, 1 to 2 us if nothing was written: two flushes, one ``fflush`` and two ``lseek``,
        whose results also tell that both descriptors still lead to the files.
        """
        try:
            if sys.stdout is self._stdout and sys.stderr is self._stderr:
                self._flush_stdout()
                self._flush_stderr()
                self._fflush(self._c_stdout)
                if _lseek(1, 0, 2) == self._out_mark and _lseek(2, 0, 2) == self._err_mark:
                    return _NOTHING
        except (OSError, ValueError, AttributeError):
            pass  # closed, detached or deleted by the task, or the disk is full
        return self._take_and_repair()

    def close(self) -> None:
        """Give the files and private descriptors back, after `end` if need be; may be repeated."""
        if self._closed:
            return
        try:
            if self._active:
                self.end()
        finally:
            self._closed = True
            self.real_stderr = -1
            self._out.close()
            self._err.close()

    def _take_and_repair(self) -> tuple[bytes | Spilled, bytes | Spilled]:
        if not self._active:
            raise InternalError("capture of output: take() without begin()")
        taken = self._out.collect(), self._err.collect()
        self._note_state()
        return taken

    def _note_state(self) -> None:
        """Lay out what `take` compares, so that it looks up nothing but attributes of `self`."""
        self._stdout = self._out.stream if self._active else _INACTIVE
        self._stderr = self._err.stream if self._active else _INACTIVE
        self._flush_stdout: Callable[[], None] = getattr(self._stdout, "flush", _do_nothing)
        self._flush_stderr: Callable[[], None] = getattr(self._stderr, "flush", _do_nothing)
        self._out_mark = self._out.spool.mark
        self._err_mark = self._err.spool.mark
