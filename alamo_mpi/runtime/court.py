"""Of the witnesses of several hosts, which one speaks: one of them decides.

What they talk by is loaded where there are several hosts: all ranks start while this is imported.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from alamo_mpi.core.loss import Grant, Rank, Tally
from alamo_mpi.runtime.lines import Line, Listener, say

if TYPE_CHECKING:
    import socket

__all__ = ["ANSWER_S", "Court", "Plea", "grant_of"]

#: The host of a rank that was lost asks within this time of those that were ended for it.
_DEFER_S = 0.1
ANSWER_S = 0.3


class Court:
    """On rank 0's host: decides which of several hosts speaks, and that only one does.

    The end of a rank is the reason for the ends of all others, on other hosts too, so whoever
    comes first is right; but a host whose ranks are all ended by SIGKILL waits a moment for one
    that knows better.

    Parameters
    ----------
    seen
        Returns what this host knows.
    cut_off
        Called with a host that cannot be reached any more, and its ranks, in a thread.
    """

    def __init__(
        self, seen: Callable[[], Grant], cut_off: Callable[[str, Sequence[int]], None]
    ) -> None:
        self._seen = seen
        self._cut_off = cut_off
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
        Listener(token, self._answer, self._over).start(server)

    def _answer(self, reading: TextIO, writing: TextIO) -> None:
        import json

        for line in reading:
            said = json.loads(line)
            if said == "quiet":
                self.quiet()
            else:
                say(writing, self.ask(*said))

    def _over(self, host: str, ranks: list[int], silent: bool) -> None:
        if silent and self.ask(True, True) is not None:
            self._cut_off(host, ranks)


class Plea:
    """On the other hosts: asks the court, or trusts what is sure where that cannot be reached.

    Parameters
    ----------
    place
        Host and port of the court.
    token
        What proves that we belong to this program.
    host, ranks
        Who asks.

    Attributes
    ----------
    connection : socket.socket or None
        In error (`select.EPOLLERR`) when rank 0's host cannot be reached any more.
    """

    def __init__(self, place: tuple[str, int], token: str, host: str, ranks: Sequence[int]) -> None:
        self._line: Line | None = None
        self.connection: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._line = Line(place, token, host, ranks)
            self.connection = self._line.connection
            self.connection.settimeout(ANSWER_S)

    def ask(self, sure: bool, prompt: bool) -> Grant | None:
        """As `Court.ask`."""
        import json

        with contextlib.suppress(OSError, ValueError):
            if self._line is not None:
                say(self._line.writing, [sure, prompt])
                answer = json.loads(self._line.reading.readline())
                return None if answer is None else grant_of(*answer)
        return Grant(None, []) if sure else None

    def quiet(self) -> None:
        """As `Court.quiet`."""
        with contextlib.suppress(OSError, ValueError):
            if self._line is not None:
                say(self._line.writing, "quiet")

    def close(self) -> None:
        """Give the connection back."""
        if self._line is not None:
            self._line.close()


def grant_of(tally: Sequence[int], others: Sequence[Sequence[Any]]) -> Grant:
    """Return what came as JSON."""
    ranks = [Rank(number, pid, task and tuple(task), on) for number, pid, task, on in others]
    return Grant(Tally(*tally), ranks)
