"""A worker: receives chunks, runs them on its main thread, reports.

These threads share the work, and the transport's lock:

*main* runs tasks; between chunks it polls for messages itself, so that an idle worker needs no
second thread.  *service* ("alamo-service") polls while the main thread is inside a chunk: it
receives the next chunk, answers `Recall`, `Fetch` and `Interrupt` at once, makes MPI progress, and
sends reports that would be late because a long task followed a short one.  It never blocks in MPI,
and sleeps on an event while the main thread is idle.

*runners* run chunks while a task waits on the thread that it began on (``turn``, ``runners``).

Whoever polls calls `dispatch`, which only ever files things away or answers, and never runs user
code.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Container, Iterator
from types import FrameType
from typing import Any

from alamo_mpi.core.messages import (
    Answer,
    Configure,
    Dump,
    Ended,
    Fetch,
    Forget,
    Interrupt,
    Over,
    Recall,
    Resume,
    Returned,
    Run,
    StackText,
    Stop,
    Suspend,
    Value,
    Wake,
)
from alamo_mpi.errors import InternalError, WorkerDiedError
from alamo_mpi.runtime import ends
from alamo_mpi.runtime.backoff import Backoff
from alamo_mpi.runtime.door import Door
from alamo_mpi.runtime.execute import Executor, Output, Work, uid_of
from alamo_mpi.runtime.inputs import Inputs
from alamo_mpi.runtime.interrupter import Interrupter, in_user_code
from alamo_mpi.runtime.jobplace import JobPlace
from alamo_mpi.runtime.remote import RemoteService
from alamo_mpi.runtime.report import Report
from alamo_mpi.runtime.runners import Guard, Interruption, Runners
from alamo_mpi.runtime.stacks import Stacks
from alamo_mpi.runtime.turn import Turn, seat, sit

__all__ = ["MANAGER", "Worker"]

logger = logging.getLogger(__name__)

#: The rank that the manager runs on.
MANAGER = 0


class _Seat:
    """The place in a task of the thread that runs a chunk."""

    __slots__ = ("_worker", "work")

    def __init__(self, worker: Worker, work: Work) -> None:
        self._worker = worker
        self.work = work

    @property
    def uid(self) -> int:
        return uid_of(self.work.run, self.work.position)

    @property
    def depth(self) -> int:
        return self.work.run.depth + 1

    @property
    def at_end(self) -> list[Callable[[], None]]:
        return self.work.at_end

    @property
    def at_loss(self) -> list[Callable[[], None]]:
        return self.work.at_loss

    def released(self) -> contextlib.AbstractContextManager[None]:
        if self.work.run.gang:  # a job keeps the workers that it has taken
            return contextlib.nullcontext()
        return self._worker.suspended(self.work)

    def check(self) -> None:
        work = self.work
        if work.position in work.given_up:
            work.raised = work.position
            while work.at_loss:
                work.at_loss.pop()()
            raise Interruption


class Worker:
    """The state of one worker and what it does with each message.

    Parameters
    ----------
    rank
        This worker in the world.
    send
        ``send(rank, message)``, returns at once.
    poll
        Receives messages and dispatches them; called while waiting for an input.
    moving
        Tells whether a large message is under way.
    output
        Captures what tasks write.
    jobs
        Where ranks of jobs are started.
    longest_s
        Longest nap of a runner.
    """

    def __init__(
        self,
        rank: int,
        send: Callable[[int, Any], None],
        poll: Callable[[], bool],
        moving: Callable[[], bool],
        output: Output,
        jobs: JobPlace,
        longest_s: float,
    ) -> None:
        self.rank = rank
        self.jobs = jobs
        self.stopped = False
        self.turn = Turn()
        self.runners = Runners(self, poll, longest_s)
        #: The service of the batches in this process, once there are any.
        self.client: RemoteService | None = None
        #: Where the processes behind this rank's gateway are, that are clients of batches.
        self.door: Door | None = None
        #: Ranks that were lost; the transport's own.
        self.lost: Container[int] = ()
        self._send = send
        self._poll = poll
        self._moving = moving
        self._inbox: deque[Work] = deque()
        #: Chunks that were begun, by number; those whose task waits too.
        self._begun: dict[int, Work] = {}
        self._waiting: set[int] = set()
        #: Held while positions are taken back and that is said: what is said stays in order.
        self._giving_back = threading.Lock()
        self._inputs = Inputs()
        self.report = Report(lambda message: send(MANAGER, message))
        self.stacks = Stacks()
        self.interrupter = Interrupter(self)
        jobs.give_up = lambda work: self.interrupter.give_up(work, range(1))
        self.executor = Executor(
            self.turn, self.report, output, self._input, self.interrupter.watch
        )

    @property
    def has_work(self) -> bool:
        """Whether a chunk, or a rank of a job, is here to be run."""
        return bool(self._inbox) or self.jobs.has_work

    @property
    def waits(self) -> bool:
        """Whether a task waits, and others may run."""
        return bool(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is here to be run, or was begun."""
        return not self.has_work and not self._begun

    def depth(self) -> int:
        """Return how deep what a process behind this rank starts is nested."""
        return 1 + max((work.run.depth for work in [*self._begun.values()]), default=0)

    def close(self) -> None:
        """Stop what watches over tasks; none runs any more."""
        self.interrupter.stop()
        self.jobs.close()
        self.stacks.close()

    def step(self, guard: Guard | None = None, *, block: bool = True) -> bool:
        """Run the chunks, and the ranks of jobs, that are here, if any is.

        Parameters
        ----------
        guard
            Of the runner that this is; None on the thread that signals interrupt.
        block
            Wait for the turn, if another thread has it.
        """
        if not self.turn.take(block=block):
            return False
        try:
            if not self.has_work:
                return False
            with self.executor.capturing():
                # Those that have waited go first.
                while self.has_work and not self.turn.returning:
                    if self.jobs.has_work:
                        self._run_member(guard)
                    else:
                        self._run(self._inbox[0], guard)
                # Nothing follows that would carry the report.
                self.report.flush()
        finally:
            self.turn.give()
        return True

    def _run(self, work: Work, guard: Guard | None) -> None:
        work.thread, work.guard = threading.get_ident(), guard
        # Noted before it leaves the inbox: a recall or interruption finds it in either place.
        self._begun[work.run.chunk] = work
        self._inbox.popleft()
        self.jobs.lead(work)
        with sit(_Seat(self, work)):
            self.executor.run(work)
        del self._begun[work.run.chunk]
        self.interrupter.forget(work)
        self._inputs.release(work.remote)

    def _run_member(self, guard: Guard | None) -> None:
        site = self.jobs.site
        work = site.members.begin(threading.get_ident(), guard)
        with sit(_Seat(self, work)):
            site.members.run(site, work)

    @contextlib.contextmanager
    def suspended(self, work: Work) -> Iterator[None]:
        """Let others run while the running task of a chunk waits; on its own thread."""
        self.executor.part(work, lambda: self._suspend(work))
        try:
            yield
        finally:
            try:
                self.executor.regain(work, lambda: self._resume(work))
            finally:
                if work.on_runner:
                    self.runners.returned()

    def _suspend(self, work: Work) -> None:
        with self._giving_back:
            self._waiting.add(work.run.chunk)
            self._send(MANAGER, Suspend(work.run.chunk, work.give_back()))
        self.runners.cover(leaving=work.on_runner)

    def _resume(self, work: Work) -> None:
        # Interruptions are aimed at the task from here on, and looked for once it is in user code.
        self._waiting.discard(work.run.chunk)
        self._send(MANAGER, Resume(work.run.chunk))

    def dispatch(self, source: int, message: Any) -> None:
        """Take in one message; on any thread, returns at once.

        Raises
        ------
        InternalError
            For a message that no worker should get.
        """
        if isinstance(message, Run):
            self._receive(message)
        elif isinstance(message, Recall):
            with self._giving_back:
                self._send(MANAGER, Returned(self._give_back(None)))
        elif isinstance(message, Interrupt):
            if source == MANAGER:
                self._interrupt(message.chunks)
            else:  # the leader of a job that a rank of runs here
                self.jobs.interrupt(message.chunks)
        elif isinstance(message, Fetch):
            self._send(source, Value(message.key, self.executor.kept.find(message.key)))
        elif isinstance(message, Value):
            self._inputs.arrive(message.key[0], message.payload)
            if self.door is not None and self.door.value(*message):
                return
            if self.client is not None:
                self.client.value(message.key, message.payload)
        elif isinstance(message, (Ended, Answer, Over)):
            self._hand_on(message)
        elif isinstance(message, Forget):
            self.executor.buffers.forget(message.blobs)
            self.executor.kept.forget(message.values)
        elif isinstance(message, Dump):
            self._send(MANAGER, StackText(self.stacks.now()))
        elif isinstance(message, Configure):
            _configure(message)
        elif isinstance(message, Stop):
            self.stopped = True
            if message.failed:
                ends.fails()
        elif not (self.jobs.dispatch(source, message) or isinstance(message, Wake)):
            raise InternalError(f"rank {self.rank} cannot handle {message} from rank {source}")

    def _hand_on(self, message: Ended | Answer | Over) -> None:
        """Give a message to the client that it is for."""
        if message.address[1]:
            if self.door is not None:
                self.door.take(message)
        elif self.client is not None:
            self.client.dispatch(message)

    def _receive(self, run: Run) -> None:
        self.executor.define(run.definitions)
        for number, data in run.blobs.items():
            self.executor.buffers.add(number, data)
        # Asked for now, inputs from other workers travel while earlier tasks run.
        remote = {
            uid: source
            for uid, source in run.sources.items()
            if isinstance(source, int) and source != self.rank
        }
        for uid in self._inputs.need(remote):
            self._send(remote[uid], Fetch((uid, "result")))
        self._inbox.append(Work(run, list(remote)))

    def _input(self, uid: int, sources: dict[int, tuple[Any] | int]) -> Any:
        """Return the payload of another task's result, waiting for it if it is under way."""
        kept = self.executor.kept.find((uid, "result"))
        if kept is not None:
            return kept[0]
        source = sources.get(uid)
        if isinstance(source, tuple):
            return source[0]
        value = None
        if source is not None and source != self.rank:
            backoff = Backoff()
            while not self._inputs.here(uid):
                if source in self.lost:
                    raise WorkerDiedError(
                        f"The result of task {uid}, which is an argument here, was kept on rank "
                        f"{source}, which was lost. Run that task again, and this one.",
                        rank=source,
                    )
                if not self._poll():
                    backoff.pause(moving=self._moving())
            value = self._inputs.get(uid)
        if value is None:
            raise InternalError(f"the result of task {uid} is not on rank {source} any more")
        return value[0]

    def _give_back(self, chunks: Container[int] | None) -> dict[int, int]:
        """Take the positions that are not started out of these chunks, or of all."""
        inbox = [*self._inbox]
        works = inbox + [work for work in [*self._begun.values()] if work not in inbox]
        tails = {}
        for work in works:
            if chunks is None or work.run.chunk in chunks:
                count = work.give_back()
                if count:
                    tails[work.run.chunk] = count
        return tails

    def _interrupt(self, chunks: dict[int, list[int] | None]) -> None:
        with self._giving_back:
            tails = self._give_back(chunks)
            if tails:
                self._send(MANAGER, Returned(tails))
        for chunk, positions in chunks.items():
            work = self._begun.get(chunk)
            if work is None:
                continue
            everything = range(len(work.run.arguments))
            self.interrupter.give_up(work, everything if positions is None else positions)

    def wakes(self, work: Work) -> bool:
        """Have a task that waits look up; return False if it does not wait."""
        if work.run.chunk not in self._waiting:
            return False
        if self.client is not None:
            self.client.wake()
        return True

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Give up the running task; the handler of the interrupting signal.

        It runs on the main thread, so ``in_task`` cannot change under it: outside of user code a
        late signal does nothing, and one that comes too early comes again.
        """
        place = seat()
        if not isinstance(place, _Seat):
            return
        work = place.work
        wanted = work.position in work.given_up and work.raised != work.position
        if wanted and work.in_task and in_user_code(frame):
            work.raised = work.position
            raise Interruption


def _configure(message: Configure) -> None:
    if message.search_path is not None:
        known = set(sys.path)
        sys.path.extend(path for path in message.search_path if path not in known)
    if message.logger is not None:
        logging.getLogger(message.logger).setLevel(message.level)
