"""A worker: receives chunks, runs them on its main thread, reports.

Two threads share the work, and the transport's lock:

*main* runs tasks; between chunks it polls for messages itself, so that an idle worker needs no
second thread.  *service* ("alamo-service") polls while the main thread is inside a chunk: it
receives the next chunk, answers `Recall`, `Fetch` and `Interrupt` at once, makes MPI progress, and
sends reports that would be late because a long task followed a short one.  It never blocks in MPI,
and sleeps on an event while the main thread is idle.

Whoever polls calls `dispatch`, which only ever files things away or answers, and never runs user
code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from alamo_mpi.core.messages import (
    Configure,
    Fetch,
    Forget,
    Interrupt,
    Recall,
    Returned,
    Run,
    Stop,
    Stopped,
    Value,
    Wake,
)
from alamo_mpi.errors import InternalError
from alamo_mpi.mpi.transport import Transport
from alamo_mpi.mpi.world import World
from alamo_mpi.runtime import ends, pool
from alamo_mpi.runtime.backoff import Backoff, longest_nap_s
from alamo_mpi.runtime.capture import Capture
from alamo_mpi.runtime.execute import Executor, Interruption, Output, Work
from alamo_mpi.runtime.inputs import Inputs
from alamo_mpi.runtime.jobsite import JobSite
from alamo_mpi.runtime.report import Report

__all__ = ["MANAGER", "Worker", "serve"]

logger = logging.getLogger(__name__)

#: The rank that the manager runs on.
MANAGER = 0
#: Raised in the main thread to interrupt a task: ignored by default, so harmless if it comes late.
_INTERRUPT_SIGNAL = signal.SIGURG
#: How often the service thread looks: fast enough for one-sided progress and late reports, rare
#: enough to take well under 1 % of the running task's time.
_SERVICE_NAP_S = 2e-3
_SERVICE_NAP_LATE_S = 1e-3
#: While a large message is under way it takes more, so that the message ends soon.
_SERVICE_NAP_MOVING_S = 2e-4
#: The main thread stays in charge of polling after this long without work.
_PARK_S = 0.05
#: A thread that waits for the interpreter gets it after this long, when tasks are pure Python.
_SWITCH_INTERVAL_S = 5e-4
#: Seconds that messages under way have to leave, at the end.
_DRAIN_S = 2.0


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
    site
        Where ranks of jobs are started.
    """

    def __init__(
        self,
        rank: int,
        send: Callable[[int, Any], None],
        poll: Callable[[], bool],
        moving: Callable[[], bool],
        output: Output,
        site: JobSite,
    ) -> None:
        self.rank = rank
        self.site = site
        self.stopped = False
        self._send = send
        self._poll = poll
        self._moving = moving
        self._inbox: deque[Work] = deque()
        self._current: Work | None = None
        self._inputs = Inputs()
        self.report = Report(lambda message: send(MANAGER, message))
        self.executor = Executor(self.report, output, self._input)
        self._thread: int | None = None

    @property
    def has_work(self) -> bool:
        """Whether a chunk, or a rank of a job, is here to be run."""
        return bool(self._inbox or self.site.members)

    def step(self) -> bool:
        """Run the chunks that are here, if any is; on the thread that runs tasks."""
        if not self.has_work:
            return False
        self._thread = threading.get_ident()
        with self.executor.capturing():
            while self.has_work:
                if self.site.members:
                    self.site.members.run(self.site, self.executor)
                    continue
                # Noted before it leaves the inbox: a recall or interruption finds it in one place.
                work = self._current = self._inbox[0]
                self._inbox.popleft()
                self.site.lead(work)
                self.executor.run(work)
                self._current = None
                self._inputs.release(work.remote)
            # Nothing follows that would carry the report.
            self.report.flush()
        return True

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
            self._send(MANAGER, Returned(self._give_back(None)))
        elif isinstance(message, Interrupt):
            if source == MANAGER:
                self._interrupt(set(message.chunks))
            else:  # the leader of a job that a rank of runs here
                self.site.members.interrupt(message.chunks)
        elif isinstance(message, Fetch):
            self._send(source, Value(message.key, self.executor.kept.find(message.key)))
        elif isinstance(message, Value):
            self._inputs.arrive(message.key[0], message.payload)
        elif isinstance(message, Forget):
            self.executor.buffers.forget(message.blobs)
            self.executor.kept.forget(message.values)
        elif isinstance(message, Configure):
            _configure(message)
        elif isinstance(message, Stop):
            self.stopped = True
        elif not (self.site.dispatch(source, message) or isinstance(message, Wake)):
            raise InternalError(f"rank {self.rank} cannot handle {message} from rank {source}")

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
                if not self._poll():
                    backoff.pause(moving=self._moving())
            value = self._inputs.get(uid)
        if value is None:
            raise InternalError(f"the result of task {uid} is not on rank {source} any more")
        return value[0]

    def _give_back(self, chunks: set[int] | None) -> dict[int, int]:
        """Take the positions that are not started out of these chunks, or of all."""
        works = [*self._inbox]
        current = self._current
        if current is not None and current not in works:
            works.append(current)
        tails = {}
        for work in works:
            if chunks is None or work.run.chunk in chunks:
                count = work.give_back()
                if count:
                    tails[work.run.chunk] = count
        return tails

    def _interrupt(self, chunks: set[int]) -> None:
        tails = self._give_back(chunks)
        if tails:
            self._send(MANAGER, Returned(tails))
        current = self._current
        if current is not None and current.run.chunk in chunks and self._thread is not None:
            current.given_up = True
            signal.pthread_kill(self._thread, _INTERRUPT_SIGNAL)

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Give up the running task; the handler of the interrupting signal.

        It runs on the main thread, so ``in_task`` cannot change under it: outside of user code a
        late signal does nothing.
        """
        if self.executor.in_task:
            raise Interruption


def _configure(message: Configure) -> None:
    if message.search_path is not None:
        known = set(sys.path)
        sys.path.extend(path for path in message.search_path if path not in known)
    if message.logger is not None:
        logging.getLogger(message.logger).setLevel(message.level)


class _Service:
    """The second thread of a worker: polls while the main thread is inside a chunk."""

    def __init__(
        self, worker: Worker, poll: Callable[[], bool], moving: Callable[[], bool]
    ) -> None:
        self._worker = worker
        self._poll = poll
        self._moving = moving
        self._busy = threading.Event()
        self._stopping = False
        #: What ended the thread, to be raised on the main thread.
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="alamo-service", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Poll from now on."""
        if not self._busy.is_set():
            self._busy.set()

    def park(self) -> None:
        """Sleep until `wake`: the main thread polls."""
        self._busy.clear()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping = True
        self._busy.set()
        self._thread.join()

    def _run(self) -> None:
        report = self._worker.report
        late = False
        try:
            while True:
                self._busy.wait()
                if self._stopping:
                    return
                nap = _SERVICE_NAP_LATE_S if late else _SERVICE_NAP_S
                time.sleep(_SERVICE_NAP_MOVING_S if self._moving() else nap)
                self._poll()
                self._worker.site.watch()
                late = report.pending
                if late:
                    report.flush_if_late()
        except BaseException as error:  # handed to the main thread, which ends the rank
            self.error = error


def serve(world: World) -> None:
    """Run this rank as a worker until the manager says stop.

    Parameters
    ----------
    world
        The ranks of the program; this one is not rank 0.

    Raises
    ------
    BaseException
        Whatever went wrong inside this package; a task's own errors never come here.

    Notes
    -----
    Blocks.  Must be called on the main thread for running tasks to be interruptible.  Signal
    handler and switch interval are put back at the end.
    """
    transport = Transport(world)
    capture = Capture()

    # What one thread has received is filed away before the other receives what follows: else
    # chunks would overtake each other.  Filing never polls, so the lock is taken once.
    polling = threading.Lock()

    def poll() -> bool:
        with polling:
            messages = transport.poll()
            for source, message in messages:
                worker.dispatch(source, message)
        return bool(messages)

    def moving() -> bool:
        return transport.moving

    site = JobSite(world, transport.send, poll, capture.take, capture.real_stderr)
    worker = Worker(world.rank, transport.send, poll, moving, capture, site)
    pool.wake_with(transport.send)
    restore = _set_up_interruption(worker)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    service = _Service(worker, poll, moving)
    try:
        _loop(worker, service, poll, moving, longest_nap_s(world.one_node))
        transport.send(MANAGER, Stopped(worker.executor.busy_s))
        _drain(transport)
    finally:
        ends.give_back()
        service.stop()
        site.close()
        sys.setswitchinterval(interval)
        restore()
        transport.close()
        worker.executor.buffers.clear()
        worker.executor.kept.clear()
        capture.close()


def _loop(
    worker: Worker,
    service: _Service,
    poll: Callable[[], bool],
    moving: Callable[[], bool],
    longest_s: float,
) -> None:
    backoff = Backoff()
    while not worker.stopped:
        if worker.has_work:
            service.wake()
            worker.step()
            backoff.reset()
        elif poll():
            backoff.reset()
        else:
            if service.error is not None:
                raise service.error
            if backoff.waited_s > _PARK_S:
                service.park()
            backoff.pause(longest_s, moving=moving())


def _drain(transport: Transport) -> None:
    """Let the last messages leave."""
    backoff = Backoff()
    while not transport.quiet and backoff.waited_s < _DRAIN_S:
        backoff.pause(moving=True)


def _set_up_interruption(worker: Worker) -> Callable[[], Any]:
    """Install the handler that interrupts tasks; return what puts the old one back."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        logger.warning(
            "alamo_mpi serves on a thread that is not the main one: running tasks cannot be "
            "interrupted on this rank."
        )
        return lambda: None
    previous = signal.signal(_INTERRUPT_SIGNAL, worker.on_signal)
    return lambda: signal.signal(_INTERRUPT_SIGNAL, previous)
