"""Waking a thread of another process on the same host.

A bell is a datagram socket with a name that the kernel has picked, in the abstract name space: no
file, gone with the process.  Whoever knows the name can ring, and a ring says no more than "look
again", so a false one does no harm.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterable

__all__ = ["Bell", "own_bell", "ring"]


class Bell:
    """A bell; of one thread at a time.

    Attributes
    ----------
    name : int
        Not 0, and below 2**21.

    Raises
    ------
    OSError
        There are no more sockets to be had.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(b"")  # the kernel gives a NUL and five hexadecimal digits
        self.name = int(self._socket.getsockname()[1:], 16) + 1
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def wait(self, limit_s: float) -> None:
        """Sleep until it rings, or the time is over."""
        if self._poll.poll(limit_s * 1e3):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._socket.recv(1)

    def ring(self, names: Iterable[int]) -> None:
        """Ring other bells; those that are gone are nobody's loss."""
        for name in names:
            with contextlib.suppress(OSError):
                self._socket.sendto(b"!", b"\0%05x" % (name - 1))

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()

    def __del__(self) -> None:
        # With the thread that it belonged to.
        self._socket.close()


_mine = threading.local()


def own_bell() -> Bell:
    """Return this thread's bell, made when it is first needed: that takes 20 µs."""
    bell: Bell | None = getattr(_mine, "bell", None)
    if bell is None or bell.process != os.getpid():  # a forked child must not take the rings
        bell = _mine.bell = Bell()
    return bell


def ring(names: Iterable[int]) -> None:
    """Ring bells."""
    own_bell().ring(names)
