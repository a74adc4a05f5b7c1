"""stdout and stderr of a cell: they lead to the files in which its worker captures output.

Both are written line by line at least, so that what a task has written before it crashed is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import sys
from typing import Any

from alamo_mpi.runtime.spool import LOWEST_PRIVATE_FD

__all__ = ["CellStreams"]


class _Stream:
    """Descriptor 1 with ``sys.stdout``, or 2 with ``sys.stderr``."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self._name = name
        #: Where it leads, under a number that no task knows.
        self._kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_PRIVATE_FD)
        self._stream = _line_by_line(fd)
        setattr(sys, name, self._stream)

    def lead_to(self, fd: int) -> None:
        os.dup2(fd, self._kept, inheritable=False)
        os.dup2(fd, self.fd)

    def flush(self) -> bool:
        """Write out what Python holds back; false if the stream cannot be used any more."""
        current = getattr(sys, self._name, None)
        if current is not self._stream:
            _flush(current)
        return _flush(self._stream)

    def mend(self, *, usable: bool) -> None:
        """Undo what a task did to the stream."""
        os.dup2(self._kept, self.fd)  # costs less than to ask whether it leads there
        if not usable and not _flush(self._stream):
            self._stream = _line_by_line(self.fd)
        setattr(sys, self._name, self._stream)


class CellStreams:
    """Both of them, for one process."""

    def __init__(self) -> None:
        self._streams = _Stream(1, "stdout"), _Stream(2, "stderr")
        self._flush_c = ctypes.CDLL(None).fflush

    def lead_to(self, fds: list[int]) -> None:
        """Have them lead to these files from now on, whose descriptors are closed."""
        for stream, fd in zip(self._streams, fds, strict=True):
            stream.lead_to(fd)
            os.close(fd)

    def settle(self) -> None:
        """Write out what Python and C hold back, and undo what a task did to its streams."""
        usable = [stream.flush() for stream in self._streams]
        self._flush_c(None)
        for stream, each in zip(self._streams, usable, strict=True):
            stream.mend(usable=each)


def _line_by_line(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _flush(stream: Any) -> bool:
    """Flush what may be anything that a task left there; false if it fails."""
    with contextlib.suppress(Exception):
        stream.flush()
        return True
    return False
