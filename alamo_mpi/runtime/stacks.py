"""The Python stacks of this process as text, also while its interpreter is held by C code."""

from __future__ import annotations

import faulthandler
import os
import time

__all__ = ["Stacks", "read_of"]


class Stacks:
    """Writes stacks to a file in memory that other processes of this user and host can read.

    `arm` and `now` share the one timer that `faulthandler` has in a process.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("alamo-stacks")
        self._armed = float("-inf")

    def now(self) -> str:
        """Return the stacks of all threads."""
        self._clear()
        faulthandler.dump_traceback(self.fd)
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0).decode(errors="replace")

    def arm(self, seconds: float) -> None:
        """Have the stacks written unless this is called again within some `seconds`.

        By a thread in C that needs no lock of the interpreter.
        """
        now = time.monotonic()
        if now - self._armed > seconds / 4:
            self._armed = now
            self._clear()
            faulthandler.dump_traceback_later(seconds, file=self.fd)

    def close(self) -> None:
        """Stop the timer, and free the file."""
        if self._armed != float("-inf"):  # else the timer may be somebody else's
            faulthandler.cancel_dump_traceback_later()
        os.close(self.fd)

    def _clear(self) -> None:
        if os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)


def read_of(pid: int, fd: int) -> str:
    """Return what another process of this host has written; "" if there is nothing to read."""
    try:
        with open(f"/proc/{pid}/fd/{fd}", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
