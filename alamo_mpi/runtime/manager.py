"""The manager on rank 0: messages become scheduler events, commands become messages.

Whoever waits drives: a user thread in ``wait``, ``get`` or ``join`` runs the manager's loop itself,
so that no thread switch lies between a completion and whoever waits for it.  The driver thread
("alamo-driver") does the same while the user's code is busy elsewhere.  State changes under one
lock; callbacks, and the tasks of a world of one rank, run outside of it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from alamo_mpi.core.events import (
    Command,
    Event,
    Finished,
    Interrupted,
    RecallTail,
    Retried,
    SendChunk,
    Settled,
    Submitted,
    Ticked,
    Unrun,
)
from alamo_mpi.core.gpus import Means
from alamo_mpi.core.jobmessages import SpawnTurn
from alamo_mpi.core.lifecycle import PRIMARY
from alamo_mpi.core.messages import (
    Armed,
    Interrupt,
    Progress,
    Recall,
    StackText,
    Stop,
    Stopped,
    Value,
    Wake,
)
from alamo_mpi.core.record import TaskRecord
from alamo_mpi.errors import InternalError, TaskStateError
from alamo_mpi.mpi.transport import Transport
from alamo_mpi.mpi.world import World
from alamo_mpi.runtime import ends, pool
from alamo_mpi.runtime.backoff import Backoff, longest_nap_s
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.compose import Composer
from alamo_mpi.runtime.desk import Client, Desk, Tables
from alamo_mpi.runtime.device import means, tell_gpus
from alamo_mpi.runtime.doze import doze, waker
from alamo_mpi.runtime.driver import Driver
from alamo_mpi.runtime.fetches import Fetches
from alamo_mpi.runtime.functions import FunctionTable
from alamo_mpi.runtime.ledger import Ledger
from alamo_mpi.runtime.lives import Lives
from alamo_mpi.runtime.local import LocalOutput, local_worker, own_door
from alamo_mpi.runtime.mourning import Mourning, Ties
from alamo_mpi.runtime.outcome import Outcomes, Wanted
from alamo_mpi.runtime.prepare import Preparer
from alamo_mpi.runtime.relay import Relay
from alamo_mpi.runtime.roster import LiveBatch, Roster
from alamo_mpi.runtime.runners import OwnGuard
from alamo_mpi.runtime.service import BatchState
from alamo_mpi.runtime.spawnturns import SpawnTurns
from alamo_mpi.runtime.stall import Sight, watchdog
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.translate import event_of
from alamo_mpi.runtime.turn import released, seat
from alamo_mpi.runtime.vigil import endless
from alamo_mpi.runtime.worker import Worker

__all__ = ["Manager"]

#: How often the schedulers hear that time has passed, while something runs.
_TICK_S = 1e-3
#: Seconds that `terminate` waits for running tasks to give up.
_TERMINATE_S = 2.0
#: After this long without work, `await_end` names the clients that it waits for.
_NAME_CLIENTS_S = 5.0

#: Ids of tasks, counted on through all sessions of this process; other ranks count from theirs.
_uids = itertools.count()


class Manager:
    """Serve all batches of one program.

    Parameters
    ----------
    world
        The ranks; this is rank 0.  The others run `runtime.serving.serve`.

    Attributes
    ----------
    preparer : Preparer
        Makes submissions of tasks.
    roster : Roster
        The live batches.
    outcomes : Outcomes
        Gives clients what came back of their tasks.
    lives : Lives
        How batches begin and end.
    desk : Desk
        Serves the clients on other ranks.
    uids : iterator of int
        Ids for tasks.
    hosts, one_node
        Host name by rank; whether all ranks share memory.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.hosts, self.one_node = world.hosts, world.one_node
        self.lock = threading.RLock()
        self._transport = Transport(world)
        self._send, self._transport.sent = self._transport.send, waker()
        pool.tie(self._transport)
        workers = tuple(range(1, world.size)) if world.size > 1 else (0,)
        self.roster = Roster(workers)
        functions, blobs = FunctionTable(), BlobTable()
        self.preparer = Preparer(functions, blobs)
        self._fetches = Fetches(self.lock, self._send, self.drive, world.hosts)
        self.outcomes = Outcomes(
            self.lock,
            self.drive,
            self._fetches.fetch,
            lambda number: bytearray(blobs[number].data),
            world.hosts,
        )
        self.uids: Iterator[int] = _uids
        self._relay = Relay(self._tell)
        self.lives = Lives(self.roster, self._send, self._handle, world.hosts)
        self._ledger = Ledger(
            self._send, blobs, self.lock, self.outcomes.value, self.lives.release, self._relay
        )
        tables = Tables(functions, blobs, self.preparer)
        self.desk = Desk(self._tell, self.roster, self.lives, tables, self, world.hosts)
        self.lives.desk = self.desk
        self._spawn_turns = SpawnTurns(self._send)
        self._composer = Composer(functions, blobs, self._ledger.submissions)
        self._mourning = Mourning(
            Ties(self._transport, self.roster, self.desk, self._fetches, world.hosts, self._handle)
        )
        #: What each rank has, for the policies of tasks.
        self.means = means(world.hosts, world.told)
        self._stopped: dict[int, float] = {}
        self._ticked = 0.0
        self._longest_nap_s = longest_nap_s(world.one_node)
        self._killed = False
        self._local: Worker | None = None
        self._output: LocalOutput | None = None
        self._guards = OwnGuard()
        if world.size == 1:
            self._local, self._output = local_worker(world, self._transport.send, self._poll)
        self._door = own_door(world.size, self._take, self._send, self._poll, self._local)
        self._driver = Driver(self.turn, self._is_busy)
        self.moves = 0  # counted for the watchdog
        self._watchdog = watchdog(
            Sight(self.lock, self.roster, world.hosts, self._send, self._receive, self)
        )

    # For clients ------------------------------------------------------------------------------

    def open_batch(
        self, num_workers: int | None, log_level: int, *, record: bool
    ) -> tuple[LiveBatch, Hashable]:
        """Give workers to a new batch; return it and its first client.  Local.

        Raises
        ------
        WorkersBusyError
            If other batches hold every worker.
        """
        place = seat()
        with self.lock:
            root = self.roster.of_rank(0) if place is not None else None
            live = self.lives.open(root, num_workers, log_level, record, PRIMARY)
        if place is not None:
            place.at_loss.append(lambda: self.cancel_all(live))
        tell_gpus(f"alamo_mpi.batch.{live.number}", self.means, live.ranks)
        return live, PRIMARY

    def open_for(
        self, rank: int, num_workers: int | None, log_level: int, record: bool, client: Client
    ) -> LiveBatch:
        """Open a batch for a client on a rank, under the lock; as `open_batch`.

        One whose task belongs to a batch shares the workers of that.
        """
        return self.lives.open(self.roster.of_rank(rank), num_workers, log_level, record, client)

    def join_in(self, state: BatchState) -> tuple[LiveBatch, Hashable]:
        """Become a further client of a batch.

        Raises
        ------
        TaskStateError
            If the batch has ended.
        """
        with self.lock:
            live = self.roster.find(state[0])
            if live is None:
                raise TaskStateError("This Batch has ended; create a new one.")
            client = live.lifecycle.register()
        place = seat()
        if place is not None:
            place.at_end.append(lambda: self.close(live, client))
        return live, client

    def means_of(self, live: LiveBatch) -> dict[int, Means]:
        """Return what each worker of a batch has."""
        return {rank: self.means[rank] for rank in live.ranks}

    def share(self, live: LiveBatch) -> BatchState:
        """Return what to pickle of a batch; others may come to it from now on."""
        live.shared = True
        return live.number, live.num_workers, live.recorder is not None

    def submit(self, live: LiveBatch, submission: Submission) -> None:
        """Hand a submission to its batch's scheduler; local, returns at once."""
        with self.lock:
            self.enter(live, submission)
            # Starting many tasks must not keep the ends of earlier ones waiting.
            if submission.submitted - self._driver.last_turn > _TICK_S:
                self._receive()
        self._driver.wake()

    def enter(self, live: LiveBatch, submission: Submission) -> None:
        """Hand a submission to its batch's scheduler, under the lock."""
        submission.submitted = time.perf_counter()
        self.moves += 1
        self._ledger.add(live, submission)
        self.lives.share_search_path()
        self._handle(live, Submitted(submission.program))

    def drive(
        self, done: Callable[[], bool], timeout: float | None = None, on: Wanted | None = None
    ) -> bool:
        """Run the manager's loop on this thread until `done`; return whether it is.

        Parameters
        ----------
        done
            Called after each turn.
        timeout
            Seconds; None waits as long as it takes.
        on
            What for, if that has no limit.
        """
        if done():
            return True
        place, backoff = seat(), Backoff()
        deadline = None if timeout is None else time.perf_counter() + timeout
        vigil = self.desk.circles.vigil(place, on, self.lock)
        with vigil, released(), self._driver.replaced():
            while not done():
                self._driver.check()
                if place is not None:
                    place.check()
                    vigil.look()
                if self.turn():
                    backoff.reset()
                    continue
                rest = self._longest_nap_s
                if deadline is not None:
                    rest = min(rest, deadline - time.perf_counter())
                    if rest <= 0:
                        return done()
                if doze(self.turn, backoff, rest, moving=self._transport.moving):
                    backoff.reset()
        return True

    def in_callback(self, submission: Submission | None = None) -> bool:
        """Tell whether this thread runs a callback, of this submission if given."""
        return self._ledger.callbacks.inside(submission)

    def close(self, live: LiveBatch, client: Hashable) -> None:
        """Note that a client submits nothing more."""
        with self.lock:
            self.lives.close(live, client)

    def terminate(self, live: LiveBatch) -> bool:
        """Cancel what waits, interrupt what runs; return whether all of it has ended.

        Notes
        -----
        Waits up to two seconds for running tasks: one inside a long C call notices only after.
        """
        with self.lock:
            self.lives.end(live)
        return self.drive(lambda: not live.running, _TERMINATE_S)

    def cancel(self, live: LiveBatch, submission: Submission, tasks: list[int] | None) -> None:
        """Give up tasks of a start, or all of it; returns at once."""
        with self.lock:
            self.lives.cancel(live, submission, tasks)
            self._receive()  # a thread in a task does not

    def cancel_all(self, live: LiveBatch) -> None:
        """Give up all that was started in a batch so far; returns at once."""
        with self.lock:
            self.lives.cancel_all(live)
            self._receive()

    def await_end(self, live: LiveBatch, timeout: float) -> bool:
        """Wait until a batch is over; return whether it is.

        Names the clients that it waits for in the log, when there has been no work for a while.
        """
        place = seat()
        if place is not None:
            with self.lock:
                live.check_join(place.uid)
        on = (live, None) if endless(timeout) else None
        if self.drive(lambda: live.over, min(timeout, _NAME_CLIENTS_S), on):
            return True
        if timeout > _NAME_CLIENTS_S:
            self.desk.name_open(live)
        return self.drive(lambda: live.over, max(timeout - _NAME_CLIENTS_S, 0.0), on)

    def leave(self, live: LiveBatch, client: Hashable) -> None:
        """Note that nobody holds a client any more; only notes, as finalizers may."""
        self.lives.abandoned.append((live, client))

    def records(self, live: LiveBatch) -> list[TaskRecord] | None:
        """Return the record of a batch's tasks; None if it keeps none."""
        return None if live.recorder is None else live.recorder.records

    def nbytes_sent(self, rank: int) -> int:
        """Return the bytes of all messages sent to a rank so far."""
        return self._transport.nbytes_sent[rank]

    # The loop ---------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Receive and handle what has arrived; return whether anything happened."""
        with self.lock:
            moved = self._receive()
        # A thread that waits inside a task runs no other on its own stack: a runner does.
        if self._local is not None and self._local.has_work and seat() is None:
            moved |= self._local.step(self._guards.guard, block=False)
        while self._ledger.callbacks.due:
            moved |= self._ledger.callbacks.run()
        return moved

    def _poll(self) -> bool:
        with self.lock:
            return self._receive()

    def _receive(self) -> bool:
        messages = self._transport.poll()
        for source, message in messages:
            if source not in self._mourning.ranks:
                self._dispatch(source, message)
        now = time.perf_counter()
        self._driver.last_turn = now
        if not messages and now - self._ticked > _TICK_S:
            self._tick(now)
        return bool(messages)

    def _is_busy(self) -> bool:
        known = self.lives.abandoned or self.desk.clients
        return bool(known) or any(live.busy for live in self.roster.batches)

    def _tick(self, now: float) -> None:
        self._ticked = now
        self._mourning.look()
        self.lives.end_abandoned()
        self._ledger.free_unreachable()
        for live in self.roster.batches:
            if live.scheduler.needs_ticks:
                self._handle(live, Ticked())

    def _dispatch(self, source: int, message: Any) -> None:
        self.moves += not isinstance(message, (StackText, Wake))
        event = event_of(source, message)
        if event is not None:
            progress = message if isinstance(message, Progress) else None
            self._handle(self.roster.reporting(source), event, progress)
        elif isinstance(message, Value):
            if not self._door.value(*message):
                self._fetches.arrived(message)
        elif isinstance(message, Stopped):
            self._stopped[source] = message.busy_seconds
        elif isinstance(message, SpawnTurn):
            self._spawn_turns.take(source, message)
        elif isinstance(message, (StackText, Armed)):
            if self._watchdog is not None:
                self._watchdog.take(source, message)
        elif self._local is not None:
            self._local.dispatch(source, message)
        elif not (isinstance(message, Wake) or self.desk.dispatch(message)):
            raise InternalError(f"the manager cannot handle {message} from rank {source}")

    def _handle(self, live: LiveBatch, event: Event, message: Progress | None = None) -> None:
        for command in live.scheduler.handle(event, time.perf_counter()):
            self._perform(live, command, message)
        self._relay.flush()
        if not live.submissions:
            # The last that a closed batch waits for may be the answer to a recall.
            self.lives.release(live.root)

    def _perform(self, live: LiveBatch, command: Command, message: Progress | None) -> None:
        if isinstance(command, SendChunk):
            run = self._composer.run(command.chunk, record=live.root.recording)
            self._send(command.chunk.rank, run)
        elif isinstance(command, (Settled, Retried)):
            assert message is not None
            self._ledger.reported(command, message)
        elif isinstance(command, Unrun):
            self._ledger.unrun(command)
        elif isinstance(command, Finished):
            self._ledger.finished(command.program)
        elif isinstance(command, RecallTail):
            self._send(command.rank, Recall())
        elif isinstance(command, Interrupted):
            self._send(command.rank, Interrupt(command.chunks))

    # End of the program -----------------------------------------------------------------------

    def kill(self) -> None:
        """Forget all work and stop the workers; sends and returns at once, for the error path."""
        with self.lock:
            self._killed = True
            ends.fails()
            self.desk.end()
            for live in self.roster.batches:
                self.lives.end(live)
            self._stop_workers()

    def shutdown(self, grace_s: float) -> bool:
        """Close what the user left open, stop the workers, wait for them.

        Parameters
        ----------
        grace_s
            Seconds to wait at most.

        False is returned if a worker has not answered in time: it still runs a task.
        """
        deadline = time.perf_counter() + grace_s
        if not self._killed:
            with self.lock:
                self.lives.end_abandoned()
                self.desk.end()
                live_batches = self.roster.batches
                for live in live_batches:
                    self.lives.end_unclosed(live)
            self.drive(lambda: not any(live.scheduler.running for live in live_batches), grace_s)
            with self.lock:
                self._stop_workers()
        rest = max(deadline - time.perf_counter(), 0.1)
        answered = self.drive(lambda: not self._silent(), rest)
        self._driver.stop()
        self._door.close()
        ends.give_back()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._local is not None:
            self._local.close()
        if self._output is not None:
            self._output.close()
        if answered:
            self._transport.close()
        return answered

    @property
    def silent_ranks(self) -> list[str]:
        """Workers that have not said goodbye, as "rank 3 (host n012)"."""
        return [f"rank {rank} (host {self.hosts[rank]})" for rank in self._silent()]

    def _silent(self) -> list[int]:
        return sorted({*range(1, self._world.size)} - {*self._stopped} - self._transport.lost)

    def _stop_workers(self) -> None:
        for rank in range(1, self._world.size):
            self._send(rank, Stop(self._killed))

    # Clients ----------------------------------------------------------------------------------

    def _tell(self, rank: int, message: Any) -> None:
        """Send to a client, which may be behind this rank's own gateway."""
        if rank:
            self._transport.send(rank, message)
        else:
            self._door.take(message)

    def _take(self, message: Any) -> None:
        """Take in what a client behind this rank's gateway has sent."""
        with self.lock:
            self.moves += 1
            self.desk.dispatch(message)
            self._receive()  # a thread in a task does not
        self._driver.wake()
