"""A worker rank at work: its threads, their loops, and how they begin and end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import Armed, Fetch, Key, Stopped
from alamo_mpi.core.uids import first_uid
from alamo_mpi.mpi.transport import Transport
from alamo_mpi.mpi.world import World
from alamo_mpi.runtime import ends, pool, service
from alamo_mpi.runtime.backoff import Backoff, longest_nap_s
from alamo_mpi.runtime.capture import Capture
from alamo_mpi.runtime.door import Door, Ways
from alamo_mpi.runtime.doze import doze, waker
from alamo_mpi.runtime.interrupter import INTERRUPT_SIGNAL
from alamo_mpi.runtime.jobplace import JobPlace
from alamo_mpi.runtime.remote import RemoteService
from alamo_mpi.runtime.stall import stall_timeout_s
from alamo_mpi.runtime.witnessed import mark
from alamo_mpi.runtime.worker import MANAGER, Worker

__all__ = ["serve"]

logger = logging.getLogger(__name__)

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
#: The launcher ends with the last rank, and the witness says what happened before.
_LAST_WORDS_S = 0.5
#: Seconds that messages under way have to leave, at the end.
_DRAIN_S = 2.0


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
                self._worker.jobs.watch()
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
    transport.sent = waker()
    capture = Capture()

    # What one thread has received is filed away before the other receives what follows: else
    # chunks would overtake each other.  Filing never polls, so the lock is taken once.
    polling = threading.Lock()

    stall_s = stall_timeout_s()
    known: set[int] = set()  # of the ranks that were lost

    def poll() -> bool:
        with polling:
            if stall_s is not None:
                worker.stacks.arm(stall_s / 2)
            messages = transport.poll()
            for source, message in messages:
                worker.dispatch(source, message)
            if world.ends_apart:
                mark().note_lost(world.lost)
                if len(world.lost) != len(known):
                    _note_losses(world, transport, jobs, known)
        if worker.client is not None:
            worker.client.say_notes()
        return bool(messages)

    def moving() -> bool:
        return transport.moving

    nap_s = longest_nap_s(world.one_node)
    jobs = JobPlace(world, transport.send, poll, capture.take, capture.real_stderr)
    worker = Worker(world.rank, transport.send, poll, moving, capture, jobs, nap_s)
    worker.lost = transport.lost
    pool.tie(transport)
    if stall_s is not None:
        transport.send(MANAGER, Armed(os.getpid(), worker.stacks.fd))
    restore = _set_up_interruption(worker)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    clients = _Clients(worker, transport, poll, world)
    service.offer(clients.service)
    ways = Ways(clients.send, transport.send, clients.kept, poll, worker.depth)
    worker.door = Door(world.rank, world.size, ways)
    worker.door.open()
    service_thread = _Service(worker, poll, moving)
    try:
        _loop(worker, service_thread, poll, moving, nap_s)
        mark().leave()
        transport.send(MANAGER, Stopped(worker.executor.busy_s))
        _drain(transport)
    finally:
        worker.door.close()
        service.offer(None)
        ends.give_back()
        worker.runners.stop()
        service_thread.stop()
        jobs.close()
        sys.setswitchinterval(interval)
        restore()
        transport.close()
        worker.executor.buffers.clear()
        worker.executor.kept.clear()
        worker.close()
        capture.close()


def _note_losses(world: World, transport: Transport, jobs: JobPlace, known: set[int]) -> None:
    """Go on without lost ranks, but not without rank 0."""
    if MANAGER in world.lost:
        time.sleep(_LAST_WORDS_S)
        world.leave(1)
    for rank in world.lost - known:
        transport.give_up(rank)
        pool.lose(rank)
        jobs.lose(rank)
        known.add(rank)


class _Clients:
    """The channel of this rank's own clients, and their service once there is one."""

    def __init__(
        self, worker: Worker, transport: Transport, poll: Callable[[], bool], world: World
    ) -> None:
        self._worker = worker
        self._transport = transport
        self._hosts = world.hosts
        self._lock = threading.Lock()
        self.poll = poll

    def service(self) -> RemoteService:
        """Return the service of this process; made at the first use."""
        worker = self._worker
        with self._lock:
            if worker.client is None:
                first = first_uid(worker.rank)
                worker.client = RemoteService((worker.rank, 0), self, self._hosts, first)
            return worker.client

    def send(self, message: Any) -> None:
        self._transport.send(MANAGER, message)

    def fetch(self, rank: int, message: Fetch) -> None:
        self._transport.send(rank, message)

    def is_lost(self, rank: int) -> bool:
        return rank in self._worker.lost

    def kept(self, rank: int, key: Key) -> tuple[Any] | None:
        return self._worker.executor.kept.find(key) if rank == self._worker.rank else None

    def check(self) -> None:
        """Do nothing: as long as this rank runs, so does the manager."""


def _loop(
    worker: Worker,
    service: _Service,
    poll: Callable[[], bool],
    moving: Callable[[], bool],
    longest_s: float,
) -> None:
    backoff = Backoff()
    # A runner's task is waited for like the main thread's own.
    while not (worker.stopped and worker.idle):
        if worker.has_work:
            service.wake()
            worker.step()
            backoff.reset()
        elif (worker.client is not None and worker.client.run_callbacks()) or poll():
            backoff.reset()
        else:
            error = service.error or worker.runners.error
            if error is not None:
                raise error
            if backoff.waited_s > _PARK_S and worker.idle:
                service.park()
            if doze(poll, backoff, longest_s, moving=moving()):
                backoff.reset()


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
    previous = signal.signal(INTERRUPT_SIGNAL, worker.on_signal)
    return lambda: signal.signal(INTERRUPT_SIGNAL, previous)
