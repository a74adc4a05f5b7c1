"""How batches begin and end on rank 0: their clients close, are dropped, or end them for all."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol

from alamo_mpi.core.events import Cancelled, Event, Terminated
from alamo_mpi.core.messages import Address, Configure
from alamo_mpi.runtime.recorder import Recorder
from alamo_mpi.runtime.roster import LiveBatch, Roster
from alamo_mpi.runtime.submission import Submission

__all__ = ["Lives"]

logger = logging.getLogger(__name__)


class FrontDesk(Protocol):
    """What has to be told of ends: the desk for remote clients."""

    def over(self, live: LiveBatch) -> None: ...

    def answer_joins(self) -> None: ...

    def named(self, live: LiveBatch) -> str: ...


class Lives:
    """Begin and end batches.  All but additions to `abandoned` happens under the manager's lock.

    Parameters
    ----------
    roster
        The live batches.
    send
        ``send(rank, message)``.
    handle
        Gives an event to a batch's scheduler and performs what that says.
    hosts
        Host name by rank.

    Attributes
    ----------
    desk : FrontDesk
        Set once, before anything is opened.
    abandoned : deque
        Batches with a client that nobody holds any more.  Filled by finalizers, on any thread and
        at any moment, so only appended to there.
    """

    desk: FrontDesk

    def __init__(
        self,
        roster: Roster,
        send: Callable[[int, Any], None],
        handle: Callable[[LiveBatch, Event], None],
        hosts: tuple[str, ...],
    ) -> None:
        self._roster = roster
        self._send = send
        self._handle = handle
        self._hosts = hosts
        self._search_path: list[str] = []
        self.abandoned: deque[tuple[LiveBatch, Hashable]] = deque()

    def open(
        self,
        root: LiveBatch | None,
        num_workers: int | None,
        log_level: int,
        record: bool,
        client: Hashable,
    ) -> LiveBatch:
        """Give workers to a new batch, those of `root` if there is one, and its log level to them.

        Raises
        ------
        WorkersBusyError
            If other batches hold every worker.
        """
        self.end_abandoned()
        recorder = Recorder(self._hosts) if record else None
        if root is None:
            live = self._roster.open(num_workers, recorder, client)
        else:
            live = self._roster.open_child(root, num_workers, recorder, client)
        name = f"alamo_mpi.batch.{live.number}"
        logging.getLogger(name).setLevel(log_level)
        for rank in live.ranks:
            self._send(rank, Configure(None, name, log_level))
        return live

    def share_search_path(self) -> None:
        """Let workers import what this rank can: ``sys.path`` changes as programs run."""
        if sys.path != self._search_path:
            self._search_path = list(sys.path)
            for rank in range(1, len(self._hosts)):
                self._send(rank, Configure(self._search_path, None, 0))

    def close(self, live: LiveBatch, client: Hashable) -> None:
        """Note that a client submits nothing more."""
        live.lifecycle.close(client)
        self.release(live)

    def release(self, live: LiveBatch) -> None:
        """Let the workers of a batch go if it is over."""
        # A child costs nothing: somebody may come to it yet, or ask for its record.
        kept = live.is_child and (live.shared or live.recorder is not None)
        if live.over and not kept:
            self._roster.release(live)
        if live.is_child and live.root.over:
            self._roster.release(live.root)
        self.desk.answer_joins()

    def end(self, live: LiveBatch) -> None:
        """Cancel what waits and interrupt what runs, for all clients."""
        ended = [each for each in (live, *live.children) if not each.lifecycle.terminated]
        for each in ended:
            each.lifecycle.terminated = True
            self.desk.over(each)
        if live in ended:
            programs = [submission.program for submission in live.submissions.values()]
            self._handle(live, Cancelled(programs) if live.is_child else Terminated())
        self.release(live)

    def cancel(
        self, live: LiveBatch, submission: Submission, tasks: Collection[int] | None
    ) -> None:
        """Give up tasks of a start, or all of it."""
        some = None if tasks is None else frozenset(tasks)
        self._handle(live, Cancelled([submission.program], some))

    def cancel_all(self, live: LiveBatch) -> None:
        """Give up all that clients of a batch have started so far."""
        self._handle(live, Cancelled([each.program for each in live.submissions.values()]))

    def drop(self, live: LiveBatch, client: Hashable) -> None:
        """Note that nobody holds a client that was not closed.

        The batch ends with the client that made it; if others may still come to its child, or for
        any other client, it is as if that had closed.
        """
        if live.released or not live.lifecycle.is_open(client):
            return
        if not live.lifecycle.is_primary(client) or (live.is_child and live.shared):
            self.close(live, client)
            return
        if not live.is_child or live.unfinished:
            self._warn_unclosed(live, "was dropped")
        self.end(live)

    def lose(self, live: LiveBatch, client: Hashable, address: Address) -> None:
        """Note that the process of a client that was not closed has ended.

        What the process has left unfinished is cancelled; then it is as if the client was dropped.
        """
        if live.released or not live.lifecycle.is_open(client):
            return
        theirs = [
            submission
            for submission in live.submissions.values()
            if submission.origin is not None and submission.origin[0] == address
        ]
        if theirs:
            logger.warning(
                "A process attached to rank %d (host %s) has ended without closing %s: %d tasks "
                "that it had started are cancelled.",
                address[0],
                self._hosts[address[0]],
                live,
                sum(submission.program.remaining for submission in theirs),
            )
            self._handle(live, Cancelled([submission.program for submission in theirs]))
        if live.lifecycle.is_primary(client) and not (live.is_child and live.shared):
            self.end(live)
        else:
            self.close(live, client)

    def end_abandoned(self) -> None:
        """See to the clients that finalizers have noted."""
        while self.abandoned:
            self.drop(*self.abandoned.popleft())

    def end_unclosed(self, live: LiveBatch) -> None:
        """End a batch at the end of the program, and say what the user left open."""
        for each in (live, *live.children):
            if not each.lifecycle.all_closed:
                names = self.desk.named(each)
                self._warn_unclosed(each, f"was left at the end of the program by {names}")
            elif each.busy:
                self._warn_unclosed(each, "was closed but not joined; it ended")
        self.end(live)

    def _warn_unclosed(self, live: LiveBatch, how: str) -> None:
        logger.warning(
            "%s %s without close() and join(): it is ended now, and %d unfinished tasks are "
            "cancelled. Use `with Batch() as batch:`, or call close() and join().",
            live,
            how,
            live.unfinished,
        )
