"""How the witnesses of several hosts talk: JSON lines over TCP, which notices a host that is gone.

What it needs is loaded where there are several hosts: all ranks start while this is imported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from alamo_mpi.core.silence import SETTING, silence_s

if TYPE_CHECKING:
    import socket

__all__ = ["Line", "Listener", "is_silence", "say"]

_CONNECT_S = 5.0
_LATER_S = 2.0
_SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}


class Line:
    """A connection to the witness of rank 0's host.

    Parameters
    ----------
    place
        Its host and port.
    token
        What proves that we belong to this program.
    host, ranks
        Who we are.

    Attributes
    ----------
    connection : socket.socket
    reading, writing : file
        Two files: one for both forgets what it has read ahead when something is written.

    Raises
    ------
    OSError
    """

    def __init__(self, place: tuple[str, int], token: str, host: str, ranks: Sequence[int]) -> None:
        import socket

        self.connection = socket.create_connection(place, timeout=_CONNECT_S)
        self.connection.settimeout(None)
        # Of a cable that is pulled both ends hear nothing.  The one with rank 0 is to tell it, and
        # launchers may end all at once for what this end does then.
        _bound(self.connection, _LATER_S)
        self.reading: TextIO = self.connection.makefile("r")
        self.writing: TextIO = self.connection.makefile("w")
        self.writing.write(token + "\n")
        say(self.writing, [host, list(ranks)])

    def end(self) -> None:
        """End it; who reads from it sees that, on both sides."""
        import socket

        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give it back."""
        for each in (self.reading, self.writing, self.connection):
            with contextlib.suppress(OSError):
                each.close()


class Listener:
    """Hears the other hosts, in threads that end with the process.

    Parameters
    ----------
    token
        Who does not know it is not heard.
    hear
        Called with the files, to read from and to write to, of each connection; returns when that
        has ended.  Its `OSError` and `ValueError` end it.
    over
        Called then with host and ranks, and whether nothing is heard of that host any more, or the
        connection was closed.
    """

    def __init__(
        self,
        token: str,
        hear: Callable[[TextIO, TextIO], None],
        over: Callable[[str, list[int], bool], None],
    ) -> None:
        self._token = token
        self._to_hear = hear
        self._over = over

    def start(self, server: socket.socket) -> None:
        """Listen; returns at once."""
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        import hmac
        import json

        who: tuple[str, list[int]] | None = None
        silent = False
        try:
            with connection, contextlib.suppress(ValueError):
                _bound(connection)
                reading, writing = connection.makefile("r"), connection.makefile("w")
                if hmac.compare_digest(reading.readline().strip(), self._token):
                    host, ranks = json.loads(reading.readline())
                    who = host, ranks
                    self._to_hear(reading, writing)
        except OSError as error:
            silent = is_silence(error.errno)
        if who is not None:
            self._over(*who, silent)


def _bound(connection: socket.socket, later_s: float = 0.0) -> None:
    from alamo_mpi.runtime.jobwrapper import bound_silence

    bound_silence(connection, silence_s(os.environ.get(SETTING, "")) + later_s)


def say(lines: TextIO, what: object) -> None:
    """Send one line.

    Raises
    ------
    OSError, ValueError
    """
    import json

    lines.write(json.dumps(what) + "\n")
    lines.flush()


def is_silence(number: int | None) -> bool:
    """Tell whether an error number says that the other host cannot be reached any more."""
    return number in _SILENT
