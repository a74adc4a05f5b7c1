"""Who the hub of a job talks to: its own wrappers, and nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from alamo_mpi.core.jobmessages import SpawnTurn
from alamo_mpi.runtime.jobhub import Hub, Part
from alamo_mpi.runtime.joboutput import JobOutput
from alamo_mpi.runtime.jobwrapper import HEAD, frames
from alamo_mpi.runtime.spawnturns import SpawnTurns


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub([Part(["true"], {}, None, None, None)] * 2, ["here"] * 2, "none")
    yield hub
    hub.close()


def says(hub: Hub, *messages: bytes) -> bytes:
    """Connect to the hub, say something, and return what it answers until it or we close."""
    _, address = hub.told.split()
    with socket.socket(socket.AF_UNIX) as mine:
        mine.connect("\0" + address[1:])
        for message in messages:
            mine.sendall(message)
        mine.settimeout(5)
        for _ in range(4):
            hub.drain(lambda: False, 0.01)
        mine.setblocking(False)
        try:
            return mine.recv(1 << 16)
        except BlockingIOError:
            return b"nothing"


def frame(letter: bytes, body: bytes) -> bytes:
    return HEAD.pack(letter, len(body)) + body


def test_a_wrapper_with_the_token_is_told_its_job(hub: Hub) -> None:
    token = hub.told.split()[0].encode()
    received = bytearray(says(hub, frame(b"H", token + b" 1")))
    assert [letter for letter, _ in frames(received)][:1] == [b"J"]


@pytest.mark.parametrize(
    ("letter", "body"),
    [
        (b"H", b"0" * 32 + b" 1"),
        (b"H", b""),
        (b"X", b"TOKEN 1"),
        (b"H", b"TOKEN 2"),
        (b"H", b"TOKEN -1"),
        (b"H", b"TOKEN one"),
        (b"H", b" " * 5000),
    ],
    ids=["token", "empty", "letter", "rank", "negative", "text", "long"],
)
def test_whoever_does_not_know_it_is_shown_the_door(hub: Hub, letter: bytes, body: bytes) -> None:
    token = hub.told.split()[0].encode()
    assert says(hub, frame(letter, body.replace(b"TOKEN", token))) == b""
    assert not hub.connected
    assert hub.state.statuses == [None, None]


def test_lines_of_a_rank_keep_their_order_and_are_written_whole(
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = JobOutput(2)
    output.add(0, 1, b"one\ntw")
    output.add(1, 1, b"other\n")
    output.add(0, 1, b"o\n\nthree")
    output.add(1, 2, b"error")
    output.finish()
    out, err = capfd.readouterr()
    assert out == "[0] one\n[1] other\n[0] two\n[0] \n[0] three\n"
    assert err == "[1] error\n"
    assert (output.tail(0), output.tail(1)) == ("", "error")


def test_turns_are_given_one_at_a_time_in_the_order_asked() -> None:
    given: list[tuple[int, int]] = []
    turns = SpawnTurns(lambda rank, message: given.append((rank, message.job)))
    for rank, job in ((1, 7), (2, 8), (3, 9)):
        turns.take(rank, SpawnTurn(job, True))
    assert given == [(1, 7)]
    turns.take(2, SpawnTurn(8, False))  # it has stopped waiting
    turns.take(1, SpawnTurn(7, False))
    assert given == [(1, 7), (3, 9)]
    turns.take(3, SpawnTurn(9, False))
    turns.take(1, SpawnTurn(10, True))
    assert given == [(1, 7), (3, 9), (1, 10)]
