"""Batches at the gateway, as far as no rank is needed: ids, the door, the outbox, the wire."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from alamo_mpi.core.messages import Answer, Drop, Fetch, Gone, Over, Register, Submit
from alamo_mpi.core.uids import connection_of, first_uid
from alamo_mpi.errors import GatewayError, InternalError
from alamo_mpi.runtime import door as doors
from alamo_mpi.runtime.door import Door, Ways
from alamo_mpi.runtime.gateway.outbox import Outbox
from alamo_mpi.runtime.gateway.wire import Wire, outside

RANK, SIZE = 2, 5


def test_ids_are_unique_and_tell_whose_they_are() -> None:
    firsts = {
        first_uid(rank, connection, SIZE): (rank, connection)
        for rank in range(SIZE)
        for connection in range(4)
    }
    assert len(firsts) == 4 * SIZE
    assert first_uid(RANK) == first_uid(RANK, 0, SIZE)
    for first, (_, connection) in firsts.items():
        assert connection_of(first, SIZE) == connection
        assert connection_of(first + (1 << 40) - 1, SIZE) == connection


# -------------------------------------------------------------------------------- the door


class Fake:
    """A rank without MPI: what a door has had it do."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.fetched: list[tuple[int, Fetch]] = []
        self.values: dict[Any, tuple[Any]] = {}
        self.polls = 0
        ways = Ways(self.sent.append, self._fetch, self._kept, self._poll, lambda: 7)
        self.door = Door(RANK, SIZE, ways)
        self.got: dict[int, list[Any]] = {}
        self.shut: list[int] = []

    def _fetch(self, rank: int, message: Fetch) -> None:
        self.fetched.append((rank, message))

    def _kept(self, rank: int, key: Any) -> tuple[Any] | None:
        return self.values.get((rank, key))

    def _poll(self) -> bool:
        self.polls += 1
        return False

    def enter(self) -> int:
        messages: list[Any] = []
        number = self.door.enter(messages.append, lambda: self.shut.append(number))
        self.got[number] = messages
        return number


def test_messages_go_to_their_connection_and_to_no_other() -> None:
    rank = Fake()
    one, two = rank.enter(), rank.enter()
    assert (one, two) == (1, 2)
    rank.door.take(Answer((RANK, two), 1, None, 3))
    rank.door.take(Answer((RANK, 9), 1, None, 3))  # it has gone
    assert not rank.got[one]
    assert rank.got[two] == [Answer((RANK, two), 1, None, 3)]
    rank.door.send(one, Drop((RANK, one), [1]))
    assert rank.sent == [Drop((RANK, one), [1])]


def test_a_connection_speaks_for_itself_alone() -> None:
    rank = Fake()
    one, two = rank.enter(), rank.enter()
    for address in (RANK, two), (RANK, 0), (RANK + 1, one):
        with pytest.raises(InternalError, match="has sent"):
            rank.door.send(one, Register(address, 1, 1))
    with pytest.raises(InternalError, match="has sent"):
        rank.door.fetch(one, 3, Fetch((first_uid(RANK, two, SIZE), "result")))
    assert not rank.sent
    assert not rank.fetched


def test_what_a_process_starts_is_as_deep_as_its_rank_says() -> None:
    rank = Fake()
    one = rank.enter()
    fields = [None] * len(Submit._fields)
    rank.door.send(one, Submit(*fields)._replace(address=(RANK, one), depth=0))
    assert rank.sent[0].depth == 7


def test_values_go_to_the_process_whose_tasks_they_are_of() -> None:
    rank = Fake()
    one, two = rank.enter(), rank.enter()
    key: Any = (first_uid(RANK, two, SIZE) + 5, "result")
    rank.door.fetch(two, 3, Fetch(key))
    assert rank.fetched == [(3, Fetch(key))]
    assert rank.door.value(key, ("value",))
    rank.values[RANK, key] = ("kept here",)
    rank.door.fetch(two, RANK, Fetch(key))
    assert [message.payload for message in rank.got[two]] == [("value",), ("kept here",)]
    assert not rank.got[one]
    # The rank's own, and of a process that has gone.
    assert not rank.door.value((first_uid(RANK) + 5, "result"), ("value",))
    assert rank.door.value((first_uid(RANK, 9, SIZE), "result"), ("value",))


def test_the_end_of_a_connection_is_its_last_message() -> None:
    rank = Fake()
    one = rank.enter()
    rank.door.leave(one)
    assert rank.sent == [Gone((RANK, one))]
    rank.door.take(Over((RANK, one), 1))
    assert not rank.got[one]


def test_the_end_of_the_program_shuts_connections() -> None:
    rank = Fake()
    one, two = rank.enter(), rank.enter()
    rank.door.take(Over((RANK, one), 4))  # of a batch only
    rank.door.take(Over((RANK, two), 0))
    assert rank.got[one] == [Over((RANK, one), 4)]
    assert rank.shut == [two]


def test_nothing_is_sent_by_a_door_that_is_closed() -> None:
    rank = Fake()
    one = rank.enter()
    rank.door.open()
    assert doors.current() is rank.door
    rank.door.close()
    assert doors.current() is None
    assert rank.shut == [one]
    for act in (
        lambda: rank.door.send(one, Drop((RANK, one), [])),
        lambda: rank.door.fetch(one, 3, Fetch((first_uid(RANK, one, SIZE), "result"))),
        rank.enter,
    ):
        with pytest.raises(GatewayError, match="is ending"):
            act()
    rank.door.leave(one)
    assert not rank.sent
    assert not rank.fetched


def test_looking_for_an_answer_ends_soon() -> None:
    rank = Fake()
    rank.door.look(lambda: False)
    assert rank.polls
    before = rank.polls
    rank.door.look(lambda: True)
    assert rank.polls == before


# -------------------------------------------------------------------------- the connection


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages_that_arrive_together_come_out_one_by_one(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = Wire(pair[0]), Wire(pair[1])
    big = bytes(50_000)
    sent: list[Any] = [1, ("two", outside(big)), [outside(b"x" * 20_000), outside(big)], "four", 5]
    for message in sent:
        near.send(message)
    assert far.receive() == 1
    assert far.pending
    assert far.receive() == ("two", big)
    assert far.receive() == [b"x" * 20_000, big]
    assert [far.receive(), far.receive()] == ["four", 5]
    assert not far.pending
    near.send("six")
    assert far.receive() == "six"


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_an_outbox_never_waits_and_keeps_the_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    outbox = Outbox(pair[0], "outbox-test")
    outbox.put("first")
    assert not threads("outbox-test")  # nothing was left to do
    begin = time.monotonic()
    big = bytes(3_000_000)
    for number in range(20):  # much more than a socket holds, and nobody reads
        outbox.put((number, outside(big)))
        outbox.put(number)
    assert outbox.count == 41
    assert time.monotonic() - begin < 30
    assert len(threads("outbox-test")) == 1
    far = Wire(pair[1])
    assert far.receive() == "first"
    for number in range(20):
        got, data = far.receive()
        assert (got, len(data)) == (number, len(big))
        assert far.receive() == number
    outbox.put("last")
    assert far.receive() == "last"
    Wire(pair[0]).shut()
    outbox.close()
    assert not threads("outbox-test")


def test_an_outbox_whose_reader_goes_forgets_what_it_had(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    outbox = Outbox(pair[0], "outbox-test")
    for _ in range(10):
        outbox.put(outside(bytes(1_000_000)))
    pair[1].close()
    for thread in threads("outbox-test"):
        thread.join(30)
    assert not threads("outbox-test")
    assert not outbox._pieces
    outbox.put("nobody")
    assert not outbox._pieces
    outbox.close()


def test_an_outbox_that_is_closed_half_way(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox = Outbox(pair[0], "outbox-test")
    outbox.put(outside(bytes(10_000_000)))
    Wire(pair[0]).shut()
    outbox.close()
    assert not threads("outbox-test")
    assert not outbox._pieces
    with contextlib.suppress(EOFError, OSError):
        Wire(pair[1]).receive()
