"""The ends of tasks on rank 0: results stored, callbacks queued, and what nobody needs freed."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from alamo_mpi.core.events import Retried, Settled, Unrun
from alamo_mpi.core.messages import Forget, Progress
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.callbacks import CallbackQueue
from alamo_mpi.runtime.relay import Relay
from alamo_mpi.runtime.roster import LiveBatch
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.witnessed import mark
from alamo_mpi.runtime.witnesspage import Page

__all__ = ["Ledger"]


class Ledger:
    """Every unfinished submission, and what becomes of it.

    All methods but `free_unreachable`'s queue are called under the manager's lock.

    Parameters
    ----------
    send
        ``send(rank, message)``.
    blobs
        Shared argument buffers.
    lock
        The manager's lock.
    value_of
        Gives the value of a task that is done, for its callback.
    on_over
        Called when a submission of a batch is over.
    relay
        Tells clients on other ranks of the ends of their tasks.

    Attributes
    ----------
    submissions : dict
        Unfinished submissions by program number.
    callbacks : CallbackQueue
        What is due to be called.
    """

    def __init__(
        self,
        send: Callable[[int, Any], None],
        blobs: BlobTable,
        lock: contextlib.AbstractContextManager[object],
        value_of: Callable[[Submission, int], Any],
        on_over: Callable[[LiveBatch], None],
        relay: Relay,
    ) -> None:
        self._send = send
        self._blobs = blobs
        self._on_over = on_over
        self._relay = relay
        self.submissions: dict[int, Submission] = {}
        self.callbacks = CallbackQueue(lock, value_of, self._over)
        self._live_of: dict[int, LiveBatch] = {}
        #: Where this host's witness reads how far the program is.
        self._page = mark().page
        #: Values on workers that nobody can ask for any more: (rank, key).  Filled by finalizers,
        #: on any thread and at any moment, so only appended to there.
        self._unreachable: deque[tuple[int, tuple[int, str]]] = deque()

    def add(self, live: LiveBatch, submission: Submission) -> None:
        """Enter a submission, before the scheduler hears of it: here its tasks get their homes."""
        program = submission.program
        self.submissions[program.pid] = live.submissions[program.pid] = submission
        # Weak, so that a submission is freed as soon as no task of it is held.
        program.owner = weakref.ref(submission)
        self._live_of[program.pid] = live
        if self._page is not None:
            self._page.count_started(program.ntasks)
        for index, entries in submission.inputs.items():
            for _, producer, there in entries:
                producer.wanted[there] = producer.wanted.get(there, 0) + 1
                if there in producer.kept:
                    rank, nbytes = producer.kept[there]
                    program.prefer(index, nbytes, rank)

    def reported(self, command: Settled | Retried, message: Progress) -> None:
        """Take in what a worker says about tasks that have ended, or about an attempt at one."""
        if isinstance(command, Settled):
            self._settled(command, message)
        else:
            self._retried(command, message)

    def _settled(self, command: Settled, message: Progress) -> None:
        submission = self.submissions[command.program.pid]
        live = self._live_of[command.program.pid]
        indices, program = command.indices, command.program
        had_kept = bool(submission.kept or submission.streams)
        submission.store(message, indices, command.offset, command.rank)
        if program.retry:
            for at, index in enumerate(indices, command.offset):
                if index in program.retry and program.states[index] != State.SKIPPED:
                    submission.note_attempt(message, index, at, command.rank)
        if message.failures:
            for index in indices:
                if program.states[index] == State.SKIPPED:
                    self._note_root(submission, index)
        if self._page is not None:
            self._count(self._page, program, indices, bool(message.failures))
        if not had_kept and (submission.kept or submission.streams):
            self._free_with(submission)
        if live.recorder is not None:
            live.recorder.ended(submission, indices, command.offset, command.rank, message)
        if submission.blobs or submission.inputs:
            for index in indices:
                self._free_inputs(submission, index)
        submission.drop_arguments(indices)
        if submission.origin is not None:
            self._relay.ended(submission, indices)
        if submission.callbacks:
            for index in indices:
                if index in submission.callbacks:
                    self.callbacks.settled(submission, index)

    def _retried(self, command: Retried, message: Progress) -> None:
        program, index, at, rank = command
        submission, live = self.submissions[program.pid], self._live_of[program.pid]
        attempt = submission.note_attempt(message, index, at, rank)
        if live.recorder is not None:
            live.recorder.retried(submission, index, attempt)
        # What it has written is nobody's: that of the last attempt counts.
        written = zip(("stdout", "stderr"), message.streams.get(at, ()), strict=False)
        kept = [(submission.uids[index], what) for what, data in written if isinstance(data, int)]
        if kept:
            self._send(rank, Forget([], kept))
        if submission.origin is not None:
            self._relay.attempted(submission, index)

    def unrun(self, command: Unrun) -> None:
        """Note that a task will not be run."""
        submission, index = self.submissions[command.program.pid], command.task
        live = self._live_of[command.program.pid]
        if command.state == State.SKIPPED:
            self._note_root(submission, index)
        if self._page is not None:
            self._page.count_others(0, 1)
        if live.recorder is not None:
            live.recorder.not_run(submission, index)
        self._free_inputs(submission, index)
        if submission.origin is not None:
            self._relay.ended(submission, (index,))
        if index in submission.callbacks:
            self.callbacks.settled(submission, index)

    def finished(self, program: Program) -> None:
        """Note that every task of a program is final."""
        submission = self.submissions[program.pid]
        submission.complete = True
        if submission.origin is not None:
            self._relay.finished(submission)
        self.callbacks.finished(submission)
        if submission.over:
            self._over(submission)

    def free_unreachable(self) -> None:
        """Let workers free what nobody can ask for any more."""
        while self._unreachable:
            rank, key = self._unreachable.popleft()
            self._send(rank, Forget([], [key]))

    @staticmethod
    def _count(page: Page, program: Program, indices: Sequence[int], failures: bool) -> None:
        done = len(indices)
        if failures:
            states = [program.states[index] for index in indices]
            done, failed = states.count(State.DONE), states.count(State.FAILED)
            page.count_others(failed, len(states) - done - failed)
        page.count_done(done)

    def _over(self, submission: Submission) -> None:
        pid = submission.program.pid
        live = self._live_of.pop(pid)
        del live.submissions[pid], self.submissions[pid]
        self._on_over(live)

    def _note_root(self, submission: Submission, index: int) -> None:
        program, root = submission.program.doomed[index]
        owner = program.owner() if program.owner is not None else None
        # Whoever depends on a task holds it, so its submission cannot be gone.
        assert isinstance(owner, Submission)
        submission.roots[index] = owner, root

    def _free_inputs(self, submission: Submission, index: int) -> None:
        """Free what a task needed and no other task needs."""
        for number in submission.blobs.pop(index, ()):
            for blob in self._blobs.release(number):
                for rank in blob.holders:
                    self._send(rank, Forget([blob.number], []))
        for _, producer, there in submission.inputs.pop(index, ()):
            producer.wanted[there] -= 1
            if not producer.wanted[there]:
                del producer.wanted[there]
                rank = producer.homes.pop(there, -1)
                if rank >= 0 and there not in producer.kept:
                    self._send(rank, Forget([], [(producer.uids[there], "result")]))

    def _free_with(self, submission: Submission) -> None:
        """Free what workers keep of a submission once nobody holds it."""
        kept, streams, uids = submission.kept, submission.streams, submission.uids
        unreachable = self._unreachable

        def free() -> None:
            unreachable.extend((rank, (uids[i], "result")) for i, (rank, _) in kept.items())
            for index, (rank, out, err) in streams.items():
                for what, data in (("stdout", out), ("stderr", err)):
                    if isinstance(data, int):
                        unreachable.append((rank, (uids[index], what)))

        # At the end of the program the workers go, and what they keep with them.
        finalizer = weakref.finalize(submission, free)
        finalizer.atexit = False
