"""Batches in a process that has no manager: the other side of `runtime.desk`.

A client's submissions are mirrors of the manager's: of the same classes, fed by messages.  What
is said to the manager is sent and forgotten, but for `Ask`; who has to wait gives its worker's
turn away (`runtime.turn`).
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from alamo_mpi import errors
from alamo_mpi.core.gpus import Means
from alamo_mpi.core.lifecycle import PRIMARY, Lifecycle
from alamo_mpi.core.messages import (
    Address,
    Answer,
    Ask,
    Cancel,
    Drop,
    Ended,
    Fetch,
    Key,
    Leave,
    Over,
    Register,
    Submit,
)
from alamo_mpi.core.record import TaskRecord
from alamo_mpi.runtime.backoff import Backoff
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.callbacks import CallbackQueue
from alamo_mpi.runtime.functions import FunctionTable
from alamo_mpi.runtime.mirror import graph_arrays, store
from alamo_mpi.runtime.outcome import Outcomes, Wanted
from alamo_mpi.runtime.packing import private
from alamo_mpi.runtime.prepare import Preparer
from alamo_mpi.runtime.service import BatchState
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.turn import PATIENCE_S, released, seat
from alamo_mpi.runtime.vigil import Vigil, endless, rebuilt, vigil_of

__all__ = ["Channel", "RemoteBatch", "RemoteService"]

_T = TypeVar("_T")

#: Seconds that `terminate` waits for running tasks to give up.
_TERMINATE_S = 2.0
#: Those who wait look up this often, for what no message tells.
_LOOK_UP_S = 0.1


class Channel(Protocol):
    """How a service reaches the manager and the workers.

    Whoever polls hands messages for this process's address to `RemoteService.dispatch`.
    """

    def send(self, message: Any) -> None:
        """Send to the manager; returns at once."""

    def fetch(self, rank: int, message: Fetch) -> None:
        """Ask a worker for a kept value; `RemoteService.value` gets the answer."""

    def kept(self, rank: int, key: Key) -> tuple[Any] | None:
        """Return a kept value in a 1-tuple if it is in this very process."""

    def is_lost(self, rank: int) -> bool:
        """Tell whether a worker was lost, so that nothing will come of it."""

    def poll(self) -> bool:
        """Receive what has arrived, if it falls to this thread; tell whether anything has."""

    def check(self) -> None:
        """Raise if there is no way to the manager any more."""


class RemoteBatch:
    """One client of a batch, as `service.BatchHandle`."""

    def __init__(self, number: int, num_workers: int, record: bool, key: int) -> None:
        self.number = number
        self.num_workers = num_workers
        self.record = record
        self.key = key
        self.ranks: tuple[int, ...] = ()
        #: What each of its workers has, once that was asked for.
        self.means: dict[int, Means] | None = None
        self.lifecycle = Lifecycle()
        self.shared = False
        #: Starts that are not over.
        self.submissions: dict[int, Submission] = {}

    @property
    def unfinished(self) -> int:
        """Number of this client's tasks in no final state."""
        return sum(each.program.remaining for each in list(self.submissions.values()))

    def __str__(self) -> str:
        return f"Batch {self.number}"


class RemoteService:
    """Serve the batches of one process, as `service.BatchService`.

    Parameters
    ----------
    address
        Of this process.
    channel
        The way to the manager.
    hosts
        Host name by rank.
    first
        First task id of this process.
    """

    #: How long who waits looks by itself, before it sleeps until a message has come.
    patience_s = PATIENCE_S

    def __init__(
        self, address: Address, channel: Channel, hosts: tuple[str, ...], first: int
    ) -> None:
        self.address = address
        self.hosts = hosts
        self.uids: Iterator[int] = itertools.count(first)
        self._channel = channel
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._functions = FunctionTable()
        self._blobs = BlobTable(idle_nbytes=0)
        self.preparer = Preparer(self._functions, self._blobs)
        self.outcomes = Outcomes(self._lock, self.drive, self._fetch, self._no_blob, hosts)
        self._callbacks = CallbackQueue(self._lock, self.outcomes.value, self._over)
        self._keys = itertools.count()
        self._asked = itertools.count()
        self._answers: dict[int, list[Answer]] = {}
        self._fetches: dict[Key, list[Any]] = {}
        #: Numbers of functions that the manager has.
        self._known: set[int] = set()
        self._batches: weakref.WeakSet[RemoteBatch] = weakref.WeakSet()
        #: Starts that are not over, with their batches; and all that somebody holds.
        self._open: dict[int, tuple[Submission, RemoteBatch]] = {}
        self._mirrors: weakref.WeakValueDictionary[int, Submission] = weakref.WeakValueDictionary()
        #: What finalizers have noted: numbers of starts, and clients.
        self._dropped: deque[int] = deque()
        self._left: deque[Leave] = deque()

    @property
    def one_node(self) -> bool:
        """True: what is known of where data lies is not sent to the manager."""
        return True

    # Batches ----------------------------------------------------------------------------------

    def open_batch(
        self, num_workers: int | None, log_level: int, *, record: bool
    ) -> tuple[RemoteBatch, int]:
        """Open a batch; one round trip.

        Raises
        ------
        WorkersBusyError
            If other batches hold every worker, and this is no task of one.
        """
        key = next(self._keys)
        number, given = self._ask("open", 0, (num_workers, log_level, record, key))
        return self._client(RemoteBatch(number, given, record, key))

    def join_in(self, state: BatchState) -> tuple[RemoteBatch, int]:
        """Become a further client of a batch; sent and forgotten."""
        number, num_workers, record = state
        live = RemoteBatch(number, num_workers, record, next(self._keys))
        self._channel.send(Register(self.address, number, live.key))
        return self._client(live)

    def _client(self, live: RemoteBatch) -> tuple[RemoteBatch, int]:
        with self._lock:
            self._batches.add(live)
        place = seat()
        if place is not None:
            reference = weakref.ref(live)

            def close() -> None:
                still = reference()
                if still is not None:
                    self.close(still, PRIMARY)

            def give_up() -> None:
                still = reference()
                if still is not None:
                    for submission in list(still.submissions.values()):
                        self.cancel(still, submission, None)

            place.at_end.append(close)
            place.at_loss.append(give_up)
        return live, PRIMARY

    def means_of(self, live: RemoteBatch) -> dict[int, Means]:
        """Return what each worker of a batch has; one round trip for the first that asks."""
        if live.means is None:
            found = self._ask("means", live.number, ())
            live.means = {rank: Means(*fields) for rank, fields in found.items()}
        return live.means

    def share(self, live: RemoteBatch) -> BatchState:
        """Return what to pickle of a batch."""
        live.shared = True
        return live.number, live.num_workers, live.record

    def close(self, live: RemoteBatch, client: int) -> None:
        """Note that a client submits nothing more."""
        if live.lifecycle.is_open(client):
            live.lifecycle.close(client)
            self._channel.send(self._leaving(live, dropped=False))

    def leave(self, live: RemoteBatch, client: int) -> None:
        """Note that nobody holds a client any more; only notes."""
        live.lifecycle.close(client)
        self._left.append(self._leaving(live, dropped=True))

    def _leaving(self, live: RemoteBatch, *, dropped: bool) -> Leave:
        return Leave(self.address, live.number, live.key, dropped, live.shared)

    def await_end(self, live: RemoteBatch, timeout: float) -> bool:
        """Wait until the batch is over."""
        place = seat()
        deadline = time.perf_counter() + timeout
        on = (live, None) if endless(timeout) else None
        try:
            self._ask("join", live.number, () if place is None else (place.uid,), timeout, on)
        except TimeoutError:
            return False
        # Callbacks of this process may be due yet.
        return self.drive(lambda: not live.submissions, max(deadline - time.perf_counter(), 0.0))

    def terminate(self, live: RemoteBatch) -> bool:
        """End the batch for all clients; return whether all tasks have ended."""
        try:
            self._ask("terminate", live.number, (), _TERMINATE_S)
        except TimeoutError:
            return False
        return True

    def records(self, live: RemoteBatch) -> list[TaskRecord] | None:
        """Fetch the record of a batch's tasks."""
        rows = self._ask("records", live.number, ())
        return None if rows is None else [TaskRecord(*row) for row in rows]

    # Tasks ------------------------------------------------------------------------------------

    def submit(self, live: RemoteBatch, submission: Submission) -> None:
        """Send tasks to the manager; returns at once."""
        self.say_notes()
        program = submission.program
        with self._lock:
            number = program.pid
            self._open[number] = submission, live
            live.submissions[number] = self._mirrors[number] = submission
            weakref.finalize(submission, self._dropped.append, number).atexit = False
            message = self._submit_message(live, submission)
            self._channel.send(message)
        submission.arguments = []
        for numbers in message.uses.values():
            for blob in numbers:
                self._blobs.release(blob)
        submission.blobs.clear()

    def _submit_message(self, live: RemoteBatch, submission: Submission) -> Submit:
        program = submission.program
        kinds = program.kinds
        fresh = ({kinds} if isinstance(kinds, int) else set(kinds)) - self._known - {0}
        self._known |= fresh
        names, uids = submission.names, submission.uids
        return Submit(
            self.address,
            live.number,
            live.key,
            program.pid,
            program.depth,
            kinds if isinstance(kinds, int) else list(kinds),
            uids.start if isinstance(uids, range) else list(uids),
            names[0] if names and len(set(names)) == 1 else list(names),
            submission.arguments,
            {kind: self._functions.definitions[kind] for kind in fresh},
            {
                number: self._blobs[number].data
                for numbers in submission.blobs.values()
                for number in numbers
            },
            dict(submission.blobs),
            {
                index: [
                    (at, -1 if source is submission else source.program.pid, there)
                    for at, source, there in entries
                ]
                for index, entries in submission.inputs.items()
            },
            graph_arrays(program.graph),
            dict(program.widths),
            dict(program.pins),
            dict(program.spreads),
            submission.limits,
            {index: tuple(terms) for index, terms in program.retry.items()},
            submission.isolated,
        )

    def cancel(self, live: RemoteBatch, submission: Submission, tasks: list[int] | None) -> None:
        """Give up tasks of a start, or all of it; sent and forgotten."""
        number = submission.program.pid
        self._channel.send(Cancel(self.address, live.number, number, tasks))

    def cancel_all(self, live: RemoteBatch) -> None:
        """Give up all that was started in a batch so far; sent and forgotten."""
        self._channel.send(Cancel(self.address, live.number, None, None))

    def in_callback(self, submission: Submission | None = None) -> bool:
        """Tell whether this thread runs a callback, of this submission if given."""
        return self._callbacks.inside(submission)

    def drive(
        self, done: Callable[[], bool], timeout: float | None = None, on: Wanted | None = None
    ) -> bool:
        """Wait until `done`; callbacks that are due run meanwhile, on this thread.

        The first millisecond keeps the worker's turn.
        """
        if done():
            return True
        place = seat()
        number, send = next(self._asked), self._channel.send
        with vigil_of(place, on, self.address, number, self._answers, send) as vigil:
            return self._drive(done, timeout, vigil)

    def _drive(self, done: Callable[[], bool], timeout: float | None, vigil: Vigil) -> bool:
        deadline = None if timeout is None else time.perf_counter() + timeout
        place = seat()
        backoff = Backoff()
        while not done():
            if place is not None:
                place.check()
            if self._callbacks.run():
                continue
            if deadline is not None and time.perf_counter() >= deadline:
                return False
            self.say_notes()
            if self._channel.poll():
                continue
            if backoff.waited_s < self.patience_s:
                backoff.pause()
                continue
            with released():
                self._sleep(done, deadline, vigil)
        return True

    def _sleep(self, done: Callable[[], bool], deadline: float | None, vigil: Vigil) -> None:
        """Sleep until there is something to do for whoever waits."""
        place = seat()
        with self._changed:
            while not done() and not self._callbacks.due:
                self._channel.check()
                if place is not None:
                    place.check()
                vigil.look()
                rest = _LOOK_UP_S
                if deadline is not None:
                    rest = min(rest, deadline - time.perf_counter())
                    if rest <= 0:
                        return
                self._changed.wait(rest)

    def run_callbacks(self) -> bool:
        """Run a callback that nobody who waits has run; return whether there was one."""
        return self._callbacks.run()

    def wake(self) -> None:
        """Have everybody who waits look up."""
        with self._changed:
            self._changed.notify_all()

    # Messages ---------------------------------------------------------------------------------

    def dispatch(self, message: Any) -> None:
        """Take in a message of the manager; on any thread, runs no user code."""
        with self._changed:
            if isinstance(message, Ended):
                self._ended(message)
            elif isinstance(message, Answer):
                waiting = self._answers.get(message.number)
                if waiting is not None:
                    waiting.append(message)
            elif isinstance(message, Over):
                for live in list(self._batches):
                    if live.number == message.batch:
                        live.lifecycle.terminated = True
            else:
                raise errors.InternalError(f"no client can handle {message}")
            self._changed.notify_all()

    def value(self, key: Key, payload: tuple[Any] | None) -> None:
        """Take in a value that may have been fetched for this process."""
        answer = self._fetches.get(key)
        if answer is not None:
            with self._changed:
                answer.append(payload)
                self._changed.notify_all()

    def say_notes(self) -> None:
        """Tell the manager what finalizers have noted."""
        if self._left or self._dropped:
            for leave in _emptied(self._left):
                self._channel.send(leave)
            numbers = _emptied(self._dropped)
            if numbers:
                self._channel.send(Drop(self.address, numbers))

    def _ended(self, message: Ended) -> None:
        found = self._open.get(message.number)
        if found is None:
            return  # nobody holds it
        submission, _ = found
        store(submission, message, self._mirrors)
        for index in message.tasks:
            if index in submission.callbacks:
                self._callbacks.settled(submission, index)
        if message.finished:
            submission.complete = True
            self._callbacks.finished(submission)
            if submission.over:
                self._over(submission)

    def _over(self, submission: Submission) -> None:
        with self._changed:
            _, live = self._open.pop(submission.program.pid)
            del live.submissions[submission.program.pid]
            self._changed.notify_all()

    def _ask(
        self,
        what: str,
        batch: int,
        details: tuple[Any, ...],
        timeout: float | None = None,
        on: Wanted | None = None,
    ) -> Any:
        self.say_notes()
        number = next(self._asked)
        waiting: list[Answer] = []
        self._answers[number] = waiting
        try:
            self._channel.send(Ask(self.address, number, what, batch, details))
            if not self.drive(lambda: bool(waiting), timeout, on):
                raise TimeoutError(f"rank 0 has not answered after {timeout:g} s")
        finally:
            del self._answers[number]
        if waiting[0].error is not None:
            raise rebuilt(waiting[0])
        return waiting[0].value

    def _fetch(self, rank: int, key: Key, timeout: float | None) -> tuple[Any] | None:
        here = self._channel.kept(rank, key)
        if here is not None:
            return (private(here[0]),)
        with self._lock:
            answer = self._fetches.get(key)
            if answer is None:
                answer = self._fetches[key] = []
                self._channel.fetch(rank, Fetch(key))
        if not self.drive(lambda: bool(answer) or self._channel.is_lost(rank), timeout):
            raise TimeoutError(f"the value of task {key[0]} did not arrive within {timeout} s")
        self._fetches.pop(key, None)
        if not answer:
            raise errors.WorkerDiedError(
                f"The {key[1]} of task {key[0]} was kept on rank {rank}, which was lost. Run the "
                "task again.",
                uid=key[0],
                rank=rank,
            )
        found: tuple[Any] | None = answer[0]
        return found

    @staticmethod
    def _no_blob(number: int) -> Any:
        raise errors.InternalError(f"a result names the shared buffer {number}")


def _emptied(notes: deque[_T]) -> list[_T]:
    """Take all out of a deque that other threads empty too."""
    taken = []
    while True:
        try:
            taken.append(notes.popleft())
        except IndexError:
            return taken
