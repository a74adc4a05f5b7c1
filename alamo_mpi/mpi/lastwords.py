"""What a process says before the job ends: in one piece, and once.

Two things would lose a message.  A traceback is written line by line, and another rank's abort, or
a launcher that ends all ranks when the first has left, kills the process in the middle of it.  And
an error that every rank meets is told by every rank at once, the lines of all in one another.  So
a text goes out in one write before anything that can end the job, and of an error that all ranks
have, only the first rank's is told: the others wait a moment, so that their end does not cut it.
Hydra, told of an abort, does not read the pipes of its ranks any more: so the pipes must be empty
before.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
import struct
import sys
import termios
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.announced import speaks_for_all

__all__ = ["drain", "refuse", "tell_error", "told_once"]

#: Seconds that the first rank has for its words; some launchers end all ranks after one has left.
GRACE_S = 2.0
#: Seconds that the launcher has to read what was written.
DRAIN_S = 2.0
#: Seconds for the words of ranks that fail at the same moment.
TOGETHER_S = 0.05
_NAP_S = 1e-3


def tell_error(error: BaseException) -> None:
    """Have ``sys.excepthook`` show an error, but in one write to ``sys.stderr``; local.

    Notes
    -----
    A hook of the user's is called like the interpreter's; what it writes elsewhere is not changed.
    """
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:  # a hook of the user's may fail; the error is told all the same
        text.write("".join(traceback.format_exception(error)))
    # A closed, missing or broken stream must not keep the job from ending.
    with contextlib.suppress(Exception):
        sys.stderr.write(text.getvalue())
        sys.stderr.flush()


def drain() -> None:
    """Wait until the launcher has read what this process wrote, a bounded time; local."""
    deadline = time.monotonic() + DRAIN_S
    for descriptor in (1, 2):
        # A descriptor may be closed, or be something that nobody has to read.
        with contextlib.suppress(OSError):
            while stat.S_ISFIFO(os.fstat(descriptor).st_mode) and time.monotonic() < deadline:
                unread = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
                if struct.unpack("i", unread) == (0,):
                    break
                time.sleep(_NAP_S)
    # Only this rank's words are safe; others may fail together with it.
    time.sleep(TOGETHER_S)


@contextlib.contextmanager
def told_once(first: bool) -> Iterator[None]:
    """Let a `LaunchError` that all ranks have met pass on the first; local.

    Parameters
    ----------
    first : bool
        Whether this rank is the one that tells it.

    Raises
    ------
    SystemExit
        With status 1, instead of the error, on the other ranks, a moment later.
    """
    try:
        yield
    except LaunchError as error:
        if first:
            raise
        _leave_to_first()
        raise SystemExit(1) from error


def refuse(error: LaunchError) -> NoReturn:
    """Leave the process by status 1 with the error's sentence, told by the first rank alone.

    Raises
    ------
    SystemExit
        Always.
    """
    if not speaks_for_all():
        _leave_to_first()
        raise SystemExit(1)
    with contextlib.suppress(Exception):
        sys.stderr.write(f"alamo_mpi: {error}\n")
        sys.stderr.flush()
    raise SystemExit(1)


def _leave_to_first() -> None:
    """Wait until the first rank has told what it has to tell, a bounded time; local."""
    time.sleep(GRACE_S)
