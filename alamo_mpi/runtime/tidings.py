"""In a program that goes on without lost ranks: every host's witness hears of every loss.

Rank 0's host has the *hub*; each other host's witness, a *spoke*, is connected to it.  A loss is
noted on the page of its own host, told to the hub, noted there, and told to all other spokes; the
ranks look at their own host's page alone.  A spoke that ends, or of which the system hears nothing
any more, takes all ranks of its host along; and a spoke without a hub ends those of its own, as
they would be without rank 0.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from alamo_mpi.core.loss import Grant
from alamo_mpi.runtime.court import grant_of
from alamo_mpi.runtime.lines import Line, Listener, say

if TYPE_CHECKING:
    import socket

__all__ = ["Hub", "Spoke"]

_ANSWER_S = 0.3


class Hub:
    """On rank 0's host; where there is one host, there is a hub without spokes.

    Parameters
    ----------
    note
        Note on the page that a rank was lost, and the uid of its last task, None if unknown;
        returns whether that was news.
    seen
        Returns what this host knows.
    bury
        Say that a host was lost with these ranks; and whether nothing is heard of it, or it has
        said that there is nobody any more.
    """

    def __init__(
        self,
        note: Callable[[int, int | None], bool],
        seen: Callable[[], Grant],
        bury: Callable[[str, Sequence[int], bool], None],
    ) -> None:
        self._note = note
        self._seen = seen
        self._bury = bury
        self._lock = threading.Lock()
        self._spokes: list[TextIO] = []

    def lose(self, rank: int, last: int | None) -> bool:
        """Note and pass on that a rank was lost; return whether that was news."""
        with self._lock:
            news = self._note(rank, last)
            for spoke in self._spokes if news else ():
                with contextlib.suppress(OSError, ValueError):
                    say(spoke, ["lost", rank, last])
        return news

    def ask(self, sure: bool, prompt: bool) -> Grant | None:
        """Return what is known here: each loss is told by its own host."""
        return self._seen()

    def quiet(self) -> None:
        """Do nothing: nobody asks who speaks."""

    def serve(self, server: socket.socket, token: str) -> None:
        """Hear the spokes, in threads that end with the process."""
        Listener(token, self._hear, self._over).start(server)

    def _hear(self, lines: TextIO, spoke: TextIO) -> None:
        import json

        with self._lock:
            self._spokes.append(spoke)
        for line in lines:
            kind, *rest = json.loads(line)
            if kind == "lost":
                self.lose(*rest)
            else:
                with self._lock:
                    say(spoke, ["seen", *self._seen()])

    def _over(self, host: str, ranks: list[int], silent: bool) -> None:
        gone = [rank for rank in ranks if self.lose(rank, None)]
        if gone:
            self._bury(host, gone, silent)


class Spoke:
    """On the other hosts.

    Parameters
    ----------
    note
        As of `Hub`.
    cut_off
        Called when there is no hub any more.
    """

    def __init__(
        self, note: Callable[[int, int | None], bool], cut_off: Callable[[], None]
    ) -> None:
        self._note = note
        self._cut_off = cut_off
        self._changed = threading.Condition()
        self._grants: list[Grant] = []
        self._hub: Line | None = None

    def join(self, place: tuple[str, int], token: str, host: str, ranks: Sequence[int]) -> None:
        """Join the hub; a spoke that cannot reach it counts as cut off."""
        try:
            self._hub = Line(place, token, host, ranks)
        except OSError:
            self._cut_off()
            return
        threading.Thread(target=self._hear, args=(self._hub.reading,), daemon=True).start()

    def _hear(self, lines: TextIO) -> None:
        import json

        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                kind, *rest = json.loads(line)
                if kind == "lost":
                    self._lose(*rest)
                    continue
                with self._changed:
                    self._grants.append(grant_of(*rest))
                    self._changed.notify()
        if self._hub is not None:
            self._hub.close()
        self._cut_off()

    def lose(self, rank: int, last: int | None) -> bool:
        """As `Hub.lose`."""
        news = self._lose(rank, last)
        self._tell(["lost", rank, last])
        return news

    def _lose(self, rank: int, last: int | None) -> bool:
        with self._changed:  # two threads come here
            return self._note(rank, last)

    def ask(self, sure: bool, prompt: bool) -> Grant | None:
        """Return what rank 0's host knows."""
        with self._changed:
            self._grants.clear()
            self._tell(["ask"])
            self._changed.wait_for(lambda: self._grants, _ANSWER_S)
            return self._grants[0] if self._grants else Grant(None, [])

    def quiet(self) -> None:
        """Do nothing, as `Hub.quiet`."""

    def leave(self) -> None:
        """End the connection, as the end of this process does."""
        if self._hub is not None:
            self._hub.end()

    def _tell(self, what: Sequence[Any]) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._hub is not None:
                say(self._hub.writing, what)
