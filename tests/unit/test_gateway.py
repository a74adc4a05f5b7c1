"""The parts of the gateway that need no rank: addresses, marks, messages over a socket."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from alamo_mpi.errors import DDictError, GatewayError
from alamo_mpi.mpi.announced import Mark, mark_of_launcher
from alamo_mpi.runtime import home
from alamo_mpi.runtime.gateway.address import VARIABLE, descent, new_address, parse
from alamo_mpi.runtime.gateway.credentials import is_ours
from alamo_mpi.runtime.gateway.wire import Wire, outside


def test_an_address_is_what_its_text_says() -> None:
    address = new_address()
    assert parse(str(address)) == address
    assert address.socket_name == f"\0{address.name}"
    assert new_address() != address


@pytest.mark.parametrize("text", ["", "name", "name/token", "name/zz/1-1", "name/00/one-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(GatewayError, match="names no gateway"):
        parse(text)


# ----------------------------------------------------------------------------- descent


def test_the_mark_tells_a_child_from_a_rank_of_its_own() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {"PMI_RANK": "1", "PMI_FD": str(ours.fileno()), "HOME": "/"}
        rank = mark_of_launcher(environ)
        assert rank.socket
        # In the same process, or a fork: the very same socket.
        assert rank.is_of_child(rank)
        # A child: the descriptor is closed, or something else by now.
        with open(os.devnull) as other:
            child = {**environ, "PMI_FD": str(other.fileno())}
            assert mark_of_launcher(child).socket == 0
        assert Mark(rank.variables, 0).is_of_child(rank)
        # A rank of another run that was told the same.
        nested = mark_of_launcher({**environ, "PMI_FD": str(theirs.fileno())})
        assert not nested._replace(variables=rank.variables).is_of_child(rank)
        # Another rank; no launcher at all.
        assert not mark_of_launcher({**environ, "PMI_RANK": "0"}).is_of_child(rank)
        assert mark_of_launcher({"HOME": "/"}) == Mark(0, 0)
        assert not Mark(0, 0).is_of_child(rank)


def test_descent_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert descent() is None
    address = new_address()
    monkeypatch.setenv(VARIABLE, str(address))
    assert descent() == address
    monkeypatch.setenv("PMIX_RANK", "12345")
    assert descent() is None


def test_a_process_without_a_home_says_what_to_do() -> None:
    assert not home.exists()
    with pytest.raises(DDictError, match=r"alamo_mpi\.attach\(\)"):
        home.current()


# ---------------------------------------------------------------------------- messages


@pytest.fixture
def pair() -> Iterator[tuple[Wire, Wire]]:
    one, other = socket.socketpair()
    with one, other:
        yield Wire(one), Wire(other)


def exchange(pair: tuple[Wire, Wire], message: Any) -> Any:
    """Send on one end, while the other receives: a large message does not fit the kernel."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(pair[1].receive()))
    thread.start()
    pair[0].send(message)
    thread.join(60)
    return got[0]


@pytest.mark.parametrize("nbytes", [0, 1, 65_000, 65_536, 70_000, 3_000_000])
def test_messages_come_as_they_were_sent(pair: tuple[Wire, Wire], nbytes: int) -> None:
    data = os.urandom(nbytes)
    assert exchange(pair, ("in the pickle", data)) == ("in the pickle", data)
    frames = [pickle.PickleBuffer(bytearray(data)), outside(b"small"), pickle.PickleBuffer(b"end")]
    got = exchange(pair, frames)
    assert [bytes(each) for each in got] == [data, b"small", b"end"]
    assert not memoryview(got[0]).readonly


def test_a_message_in_pieces_is_one_message(pair: tuple[Wire, Wire]) -> None:
    one, other = socket.socketpair()
    with one, other:
        pair[0].send({"a": pickle.PickleBuffer(bytearray(b"x" * 100))})
        whole = pair[1]._socket.recv(1 << 16)
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(Wire(other).receive()))
        thread.start()
        for byte in whole:
            one.send(bytes([byte]))
        thread.join(60)
        assert bytes(got[0]["a"]) == b"x" * 100


def test_the_end_of_the_other_end_is_an_error_at_once(pair: tuple[Wire, Wire]) -> None:
    pair[0].shut()
    with pytest.raises(EOFError):
        pair[1].receive()
    pair[0].close()
    with pytest.raises(OSError, match="Broken pipe"):
        pair[1].send("nobody is there")
    pair[0].shut()  # of no effect


def test_both_ends_of_a_pair_are_ours() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert is_ours(one)
        assert is_ours(other)
