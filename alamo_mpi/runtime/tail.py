"""The end of what was written to a captured stream, for errors that show it."""

from __future__ import annotations

import contextlib
import os

__all__ = ["length", "tail_of"]

#: See `runtime.interrupter`: it may be left at any bytecode.
__interruptible__ = True

_TAIL_NBYTES = 2048


def length(fd: int | None) -> int:
    """Return how much was written to a captured descriptor so far."""
    with contextlib.suppress(OSError):  # a terminal, under a debugger
        return 0 if fd is None else os.lseek(fd, 0, os.SEEK_END)
    return 0


def tail_of(fd: int | None, start: int) -> str | None:
    """Return the end of what was written to a captured descriptor since it was `start` long."""
    if fd is None:
        return None
    with contextlib.suppress(OSError):
        end = length(fd)
        first = max(start, end - _TAIL_NBYTES)
        return os.pread(fd, max(end - first, 0), first).decode(errors="replace")
    return None
