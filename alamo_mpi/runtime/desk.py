"""The manager's desk for clients that are not on rank 0: it takes their messages.

`runtime.remote` is the other side.  All methods are called under the manager's lock.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from alamo_mpi.core.gpus import Means
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.messages import (
    Address,
    Answer,
    Ask,
    Cancel,
    Drop,
    Ended,
    Gone,
    Leave,
    Over,
    Register,
    Submit,
    Waits,
)
from alamo_mpi.core.program import Program
from alamo_mpi.core.retry import Retry
from alamo_mpi.core.states import State
from alamo_mpi.errors import AlamoError, DeadlockError, InternalError
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.circles import Circles
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK, FunctionTable
from alamo_mpi.runtime.lives import Lives
from alamo_mpi.runtime.prepare import Preparer
from alamo_mpi.runtime.recorder import Recorder
from alamo_mpi.runtime.roster import LiveBatch, Roster
from alamo_mpi.runtime.standing import held_up
from alamo_mpi.runtime.submission import Submission

__all__ = ["Acts", "Client", "Desk", "Tables"]

logger = logging.getLogger(__name__)


class Client(NamedTuple):
    """A client of a batch on another rank, or behind one."""

    address: Address
    key: int


class Tables(NamedTuple):
    """What the desk enters tasks into."""

    functions: FunctionTable
    blobs: BlobTable
    preparer: Preparer


class Acts(Protocol):
    """What the desk has the manager do, and know."""

    #: What each rank has.
    means: tuple[Means, ...]

    def open_for(
        self, rank: int, num_workers: int | None, log_level: int, record: bool, client: Client
    ) -> LiveBatch:
        """Open a batch for a client on a rank."""

    def enter(self, live: LiveBatch, submission: Submission) -> None:
        """Hand tasks to the scheduler."""


class Desk:
    """Serve remote clients.

    Parameters
    ----------
    send
        ``send(rank, message)``.
    roster
        The live batches.
    lives
        How they end.
    tables
        Functions, blobs and numbers of the program.
    acts
        What only the manager can do.
    hosts
        Host name by rank.
    """

    def __init__(
        self,
        send: Callable[[int, Any], None],
        roster: Roster,
        lives: Lives,
        tables: Tables,
        acts: Acts,
        hosts: tuple[str, ...],
    ) -> None:
        self._send = send
        self._roster = roster
        self._lives = lives
        self._tables = tables
        self._acts = acts
        #: Who waits for whom, of all tasks.
        self.circles = Circles(roster)
        self._hosts = hosts
        #: Clients that have not left, with their batches.
        self.clients: dict[Client, LiveBatch] = {}
        #: Starts that their clients still hold, or may.
        self._held: dict[Address, dict[int, Submission]] = {}
        #: The program's number of each function, by the client's.
        self._kinds: dict[Address, dict[int, int]] = {}
        #: Of batches that clients have opened: they ask for the record when the batch is over.
        self._recorders: dict[int, Recorder] = {}
        #: The program ends.
        self._ended = False
        #: Who waits for the end of a batch.
        self._joins: list[tuple[Ask, LiveBatch, Callable[[LiveBatch], bool]]] = []

    def dispatch(self, message: Any) -> bool:
        """Take in a message; return False if it is none of a client."""
        if self._ended and isinstance(message, (Submit, Ask)):
            self._send(message.address[0], Over(message.address, 0))
        elif isinstance(message, Submit):
            self._submit(message)
        elif isinstance(message, Register):
            self._register(message)
        elif isinstance(message, Leave):
            self._leave(message)
        elif isinstance(message, Drop):
            held = self._held.get(message.address, {})
            for number in message.numbers:
                held.pop(number, None)
        elif isinstance(message, Cancel):
            self._cancel(message)
        elif isinstance(message, Ask):
            self._ask(message)
        elif isinstance(message, Waits):
            self._waits(message)
        elif isinstance(message, Gone):
            self._gone(message.address)
        else:
            return False
        return True

    def named(self, live: LiveBatch) -> str:
        """Name the clients of a batch that have not closed."""
        names = []
        for client in live.lifecycle.open:
            if isinstance(client, Client):
                rank, connection = client.address
                who = "a process attached to" if connection else "a client on"
                names.append(f"{who} rank {rank} (host {self._hosts[rank]})")
            else:
                names.append("a client on rank 0")
        return ", ".join(names)

    def name_open(self, live: LiveBatch) -> None:
        """Say in the log which clients somebody waits for to close a batch that is done."""
        if not live.busy and not live.lifecycle.all_closed:
            names = self.named(live)
            logger.warning("%s is done, but join() waits for %s to call close().", live, names)

    def over(self, live: LiveBatch) -> None:
        """Tell the clients of a batch that it was terminated; they are none any more."""
        gone = [client for client, its_batch in self.clients.items() if its_batch is live]
        for client in gone:
            del self.clients[client]
        for address in {client.address for client in gone}:
            self._send(address[0], Over(address, live.number))

    def end(self) -> None:
        """Have the processes behind gateways told that the program ends, before anything does."""
        self._ended = True
        asking = {ask.address for ask, _, _ in self._joins}
        for address in {client.address for client in self.clients} | set(self._held) | asking:
            if address[1]:
                self._send(address[0], Over(address, 0))

    def lose(self, rank: int) -> None:
        """Drop the clients of a lost rank, as if nobody held them any more."""
        for client, live in list(self.clients.items()):
            if client.address[0] == rank and self.clients.pop(client, None) is not None:
                self._lives.drop(live, client)
        self._joins = [entry for entry in self._joins if entry[0].address[0] != rank]
        for address in {*self._held, *self._kinds}:
            if address[0] == rank:
                self._forget(address)

    def answer_joins(self) -> None:
        """Answer those whose batch is over by now."""
        if not self._joins:
            return
        waiting, self._joins = self._joins, []
        for entry in waiting:
            ask, live, done = entry
            if done(live):
                self._answer(ask, None, True)
            else:
                self._joins.append(entry)

    # Messages ---------------------------------------------------------------------------------

    def _register(self, message: Register) -> None:
        client = Client(message.address, message.key)
        live = self._roster.find(message.batch)
        if live is None or live.lifecycle.terminated:
            self._send(message.address[0], Over(message.address, message.batch))
            return
        live.lifecycle.admit(client)
        self.clients[client] = live

    def _leave(self, message: Leave) -> None:
        client = Client(message.address, message.key)
        live = self.clients.pop(client, None)
        if live is None or live.released:
            return
        live.shared |= message.shared
        if message.dropped:
            self._lives.drop(live, client)
        else:
            self._lives.close(live, client)

    def _gone(self, address: Address) -> None:
        """Forget a process; the clients that it has not closed were lost with it."""
        self._joins = [entry for entry in self._joins if entry[0].address != address]
        for client in [client for client in self.clients if client.address == address]:
            self._lives.lose(self.clients.pop(client), client, address)
        self._forget(address)

    def _forget(self, address: Address) -> None:
        self._held.pop(address, None)
        self._kinds.pop(address, None)

    def _ask(self, ask: Ask) -> None:
        try:
            if ask.what == "open":
                self._answer(ask, None, self._open(ask))
                return
            live = self._roster.find(ask.batch)
            if ask.what == "records":
                recorder = live.recorder if live is not None else self._recorders.get(ask.batch)
                rows = None if recorder is None else recorder.records
                self._answer(ask, None, None if rows is None else [tuple(row) for row in rows])
            elif ask.what == "means":
                ranks = () if live is None else live.ranks
                self._answer(ask, None, {rank: tuple(self._acts.means[rank]) for rank in ranks})
            elif ask.what == "held":
                holders = None if live is None else held_up(live, ask.address, self._hosts)
                self._answer(ask, None, holders)
            elif live is None:
                self._answer(ask, None, True)
            elif ask.what == "join":
                for uid in ask.details:
                    live.check_join(uid)
                self._joins.append((ask, live, lambda live: live.released or live.over))
            elif ask.what == "terminate":
                self._lives.end(live)
                self._joins.append((ask, live, lambda live: live.released or not live.running))
            else:
                raise InternalError(f"the manager cannot answer {ask}")
        except AlamoError as error:
            self._answer(ask, error, None)
        self.answer_joins()

    def _waits(self, message: Waits) -> None:
        if message.what is None:
            self.circles.end(message.uid)
            return
        wanted: LiveBatch | Submission | None
        kind, number, *task = message.what
        if kind == "batch":
            wanted = self._roster.find(number)
        else:
            wanted = self._held.get(message.address, {}).get(number)
        if wanted is None:
            return
        try:
            self.circles.begin(message.uid, wanted, *(each for each in task if each >= 0))
        except DeadlockError as error:
            self._answer(message, error, None)

    def _cancel(self, message: Cancel) -> None:
        live = self._roster.find(message.batch)
        if live is None:
            return
        if message.number is None:
            self._lives.cancel_all(live)
            return
        submission = self._held.get(message.address, {}).get(message.number)
        if submission is not None:
            self._lives.cancel(live, submission, message.tasks)

    def _answer(self, ask: Ask | Waits, error: AlamoError | None, value: Any) -> None:
        told = None if error is None else (type(error).__name__, str(error))
        self._send(ask.address[0], Answer(ask.address, ask.number, told, value))

    def _open(self, ask: Ask) -> tuple[int, int]:
        num_workers, log_level, record, key = ask.details
        client = Client(ask.address, key)
        live = self._acts.open_for(ask.address[0], num_workers, log_level, record, client)
        self.clients[client] = live
        if live.recorder is not None:
            self._recorders[live.number] = live.recorder
        return live.number, live.num_workers

    # Submissions ------------------------------------------------------------------------------

    def _submit(self, message: Submit) -> None:
        """Enter tasks, or cancel them at once where the batch takes none any more."""
        live = self.clients.get(Client(message.address, message.key))
        if live is None or live.released:
            self._refuse(message)
            return
        submission = self._submission(message, record=live.recorder is not None)
        self._held.setdefault(message.address, {})[message.number] = submission
        # It may have been terminated while the message was under way.
        submission.program.cancelled = live.lifecycle.terminated
        self._acts.enter(live, submission)

    def _refuse(self, message: Submit) -> None:
        """Answer tasks of a batch that had ended before its client came."""
        count = len(message.arguments)
        states = bytes([State.CANCELLED]) * count
        tasks = list(range(count))
        ended = Ended(
            message.address, message.number, tasks, states, None, {}, {}, {}, {}, True, {}
        )
        self._send(message.address[0], ended)

    def _submission(self, message: Submit, *, record: bool) -> Submission:
        ntasks = len(message.arguments)
        inputs, externals = self._inputs(message)
        program = Program(
            self._tables.preparer.next_program(),
            self._program_kinds(message),
            ntasks,
            _graph(message.graph),
            externals,
            record=record,
            depth=message.depth,
            widths=message.widths,
            pins=message.pins,
            spreads=message.spreads,
        )
        program.retry = {index: Retry(*terms) for index, terms in message.retry.items()}
        uids, names = message.uids, message.names
        submission = Submission(
            program,
            range(uids, uids + ntasks) if isinstance(uids, int) else uids,
            [names] * ntasks if isinstance(names, str) else names,
            message.arguments,
        )
        submission.origin = message.address, message.number
        submission.limits = message.limits
        submission.isolated = message.isolated
        self._adopt_blobs(message, submission)
        for index, entries in inputs.items():
            submission.inputs[index] = [
                (at, submission if source is None else source, there)
                for at, source, there in entries
            ]
        return submission

    def _program_kinds(self, message: Submit) -> int | list[int]:
        known = self._kinds.setdefault(message.address, {TRAVELS_WITH_TASK: TRAVELS_WITH_TASK})
        for kind, pickled in message.definitions.items():
            known[kind] = self._tables.functions.adopt(pickled)
        kinds = message.kinds
        return known[kinds] if isinstance(kinds, int) else [known[kind] for kind in kinds]

    def _adopt_blobs(self, message: Submit, submission: Submission) -> None:
        """Give the blobs of a message the program's numbers, also inside the arguments."""
        if not message.blobs:
            return
        users = dict.fromkeys(message.blobs, 0)
        for numbers in message.uses.values():
            for number in numbers:
                users[number] += 1
        names = {
            number: self._tables.blobs.adopt(_owned(data), users[number])
            for number, data in message.blobs.items()
        }
        for index, numbers in message.uses.items():
            submission.blobs[index] = [names[number] for number in numbers]
            head, *rest = submission.arguments[index]
            submission.arguments[index] = [
                head,
                *(names[each] if type(each) is int else each for each in rest),
            ]

    def _inputs(
        self, message: Submit
    ) -> tuple[dict[int, list[tuple[int, Submission | None, int]]], list[tuple[int, Program, int]]]:
        held = self._held.get(message.address, {})
        inputs = {
            index: [
                (at, None if number < 0 else held[number], there) for at, number, there in entries
            ]
            for index, entries in message.inputs.items()
        }
        externals = [
            (index, source.program, there)
            for index, entries in inputs.items()
            for _, source, there in entries
            if source is not None
        ]
        return inputs, externals


def _owned(data: Any) -> bytearray:
    return data if type(data) is bytearray else bytearray(data)


def _graph(arrays: tuple[int, bytes, bytes, bytes, bytes] | None) -> Graph | None:
    if arrays is None:
        return None
    ntasks, indegree, succ_start, succ, hazard = arrays
    return Graph(
        ntasks,
        array("i", indegree),
        array("q", succ_start),
        array("i", succ),
        bytearray(hazard),
    )
