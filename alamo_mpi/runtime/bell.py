"""Waking a thread of another process on the same host.

A bell is a datagram socket with a name that the kernel has picked, in the abstract name space: no
file, gone with the process.  Whoever knows the name can ring, and a ring says no more than "look
again", so a false one does no harm.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterable

__all__ = ["Bell", "ring"]


class Bell:
    """One waiting thread's bell.

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
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(b"")  # the kernel gives a NUL and five hexadecimal digits
            self._socket.setblocking(False)
            self.name = int(self._socket.getsockname()[1:], 16) + 1
        except BaseException:
            self._socket.close()
            raise

    def wait(self, limit_s: float) -> None:
        """Sleep until it rings, or the time is over."""
        if select.select([self._socket], [], [], limit_s)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._socket.recv(1)

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()


def ring(names: Iterable[int]) -> None:
    """Ring bells; those that are gone are nobody's loss."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for name in names:
            with contextlib.suppress(OSError):
                sender.sendto(b"!", b"\0%05x" % (name - 1))
