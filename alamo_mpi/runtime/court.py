"""Of the witnesses of several hosts, which one speaks: one of them decides.

What they talk by is loaded where there are several hosts: all ranks start while this is imported.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from alamo_mpi.core.loss import Grant, Rank, Tally

if TYPE_CHECKING:
    import socket

__all__ = ["ANSWER_S", "Court", "Plea"]

#: The host of a rank that was lost asks within this time of those that were ended for it.
_DEFER_S = 0.1
_CONNECT_S = 5.0
ANSWER_S = 0.3
_END = "MPI does not go on without it: all ranks end now.\n"


class Court:
    """On rank 0's host: decides which of several hosts speaks, and that only one does.

    The end of a rank is the reason for the ends of all others, on other hosts too, so whoever
    comes first is right; but a host whose ranks are all ended by SIGKILL waits a moment for one
    that knows better.
    """

    def __init__(self, seen: Callable[[], Grant]) -> None:
        self._seen = seen
        self._changed = threading.Condition(threading.RLock())
        self._closed = False

    def ask(self, sure: bool, prompt: bool) -> Grant | None:
        """Return what is known here if the asking host is to speak, else None."""
        with self._changed:
            if prompt and not sure:
                self._changed.wait_for(lambda: self._closed, _DEFER_S)
            if self._closed:
                return None
            self.quiet()
            return self._seen()

    def quiet(self) -> None:
        """Let nobody speak any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def serve(self, server: socket.socket, token: str) -> None:
        """Answer the other hosts, in threads that end with the process."""
        threading.Thread(target=self._accept, args=(server, token), daemon=True).start()

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._answer, args=(connection, token), daemon=True).start()

    def _answer(self, connection: socket.socket, token: str) -> None:
        import hmac
        import json

        with (
            contextlib.suppress(OSError, ValueError),
            connection,
            connection.makefile("rw") as lines,
        ):
            if not hmac.compare_digest(lines.readline().strip(), token):
                return
            for line in lines:
                said = json.loads(line)
                if said == "quiet":
                    self.quiet()
                    continue
                _say(lines, self.ask(*said))


class Plea:
    """On the other hosts: asks the court, or trusts what is sure where that cannot be reached."""

    def __init__(self, host: str, port: int, token: str) -> None:
        import socket

        self._lines: TextIO | None = None
        self._connection: socket.socket | None = None
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), timeout=_CONNECT_S)
            self._connection = connection
            self._lines = connection.makefile("rw")
            self._lines.write(token + "\n")
            self._lines.flush()
            connection.settimeout(ANSWER_S)

    def ask(self, sure: bool, prompt: bool) -> Grant | None:
        """As `Court.ask`."""
        import json

        with contextlib.suppress(OSError, ValueError):
            if self._lines is not None:
                _say(self._lines, [sure, prompt])
                answer = json.loads(self._lines.readline())
                if answer is None:
                    return None
                tally, others = answer
                ranks = [Rank(n, pid, task and tuple(task), on) for n, pid, task, on in others]
                return Grant(Tally(*tally), ranks)
        return Grant(None, []) if sure else None

    def close(self) -> None:
        """Give the connection back."""
        for each in (self._lines, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.close()

    def quiet(self) -> None:
        """As `Court.quiet`."""
        with contextlib.suppress(OSError, ValueError):
            if self._lines is not None:
                _say(self._lines, "quiet")


def _say(lines: TextIO, what: object) -> None:
    import json

    lines.write(json.dumps(what) + "\n")
    lines.flush()
