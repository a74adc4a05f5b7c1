"""Declaring accesses: what is accepted, how it is held, and what is said about the rest."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path, PurePosixPath

import pytest

from alamo_mpi.core.access import (
    CommunicationDomain,
    CommunicationObject,
    DataAccess,
    Hazard,
    Mode,
    read,
    write,
)

BOARD = CommunicationObject(CommunicationDomain(), "board")


class Shelf:
    """A communication object of its own kind: channels are compared by their length."""

    def __init__(self, name: str) -> None:
        self.name = name

    def communication_object(self) -> CommunicationObject:
        return CommunicationObject(CommunicationDomain(), ("shelf", self.name))

    def channel_key(self, channel: object) -> int:
        return len(str(channel))


class BrokenShelf(Shelf):
    def communication_object(self) -> CommunicationObject:
        return "shelf"  # type: ignore[return-value]


class ListKeys(Shelf):
    def channel_key(self, channel: object) -> int:
        return [channel]  # type: ignore[return-value]


class Where(os.PathLike):
    def __init__(self, path: object) -> None:
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize(("make", "mode"), [(read, Mode.READ), (write, Mode.WRITE)])
def test_path_and_channels_are_held_as_text(make, mode):
    access = make(Path("/data"), "a", Path("b/c"), Where(b"d"))
    assert (access.mode, access.obj, access.channels) == (mode, "/data", ("a", "b/c", "d"))
    assert all(type(channel) is str for channel in access.channels)


@pytest.mark.parametrize("path", [Path("/d"), PurePosixPath("/d"), Where("/d"), Where(b"/d")])
def test_every_path_like_object_is_a_path(path):
    assert read(path) == read(Path("/d"))
    assert read(path).channels == ()


def test_accesses_to_one_path_share_its_text():
    base = Path("/data")
    assert read(base, "a").obj is write(base, "b").obj


def test_communication_object_and_any_hashable_channel():
    access = write(BOARD, 1, "two", (3, 4), None)
    assert access.obj is BOARD
    assert access.channels == (1, "two", (3, 4), None)


def test_own_kind_of_object_decides_domain_and_channels():
    access = read(Shelf("x"), "abc", "de")
    assert access.obj == Shelf("x").communication_object()
    assert access.channels == (3, 2)


@pytest.mark.parametrize("text", ["/data", b"/data"])
def test_plain_text_is_refused_with_the_remedy(text):
    with pytest.raises(TypeError, match=r"plain (str|bytes) .*use pathlib\.Path\('/data'\)"):
        read(text)


@pytest.mark.parametrize("obj", [None, 3, object(), ["a"], {}, Shelf, CommunicationDomain()])
def test_other_objects_are_refused_with_what_is_accepted(obj):
    with pytest.raises(TypeError, match=r"is not a communication object: pass a pathlib\.Path"):
        write(obj)


@pytest.mark.parametrize("obj", [BOARD, Path("/d")])
def test_unhashable_channel_is_refused_by_name(obj):
    with pytest.raises(TypeError, match=r"channel \['a', 'b'\] is not hashable"):
        read(obj, "x", ["a", "b"])


def test_channel_of_a_path_must_be_a_path():
    with pytest.raises(TypeError, match=r"channel of a path must be a Path or str .* not 3"):
        read(Path("/d"), 3)


def test_broken_protocol_is_named():
    with pytest.raises(TypeError, match=r"BrokenShelf\.communication_object\(\) must return"):
        read(BrokenShelf("x"), 1)
    with pytest.raises(TypeError, match=r"ListKeys\.channel_key\(\) result \[1\] is not hashable"):
        read(ListKeys("x"), 1)


def test_communication_object_checks_its_arguments():
    with pytest.raises(TypeError, match="domain must be a CommunicationDomain"):
        CommunicationObject("board", CommunicationDomain())
    with pytest.raises(TypeError, match="identity must be hashable"):
        CommunicationObject(CommunicationDomain(), [])


@pytest.mark.parametrize("flag", ["rar", "raw", "war", "waw"])
def test_domain_takes_booleans_only(flag):
    with pytest.raises(TypeError, match=f"{flag}=.*must be True or False, not 1"):
        CommunicationDomain(**{flag: 1})


def test_domain_says_which_hazards_it_orders():
    assert CommunicationDomain().hazards == Hazard.RAW | Hazard.WAR | Hazard.WAW
    assert CommunicationDomain(True, False, False, False).hazards == Hazard.RAR
    assert CommunicationDomain(False, False, False, False).hazards == Hazard(0)


def test_objects_are_equal_by_domain_and_identity():
    twin = CommunicationObject(CommunicationDomain(), "board")
    assert (twin, hash(twin)) == (BOARD, hash(BOARD))
    assert twin != CommunicationObject(CommunicationDomain(rar=True), "board")
    assert twin != CommunicationObject(CommunicationDomain(), "other")


def test_domain_and_object_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot be changed"):
        BOARD.identity = "other"
    with pytest.raises(AttributeError, match="the raw you want"):
        BOARD.domain.raw = False
    with pytest.raises(AttributeError, match="cannot be changed"):
        del BOARD.domain


def test_accesses_travel():
    for access in (read(Path("/d"), "a"), write(BOARD, 1), read(BOARD)):
        twin = pickle.loads(pickle.dumps(access))
        assert (twin, hash(twin)) == (access, hash(access))


def test_accesses_compare_and_show_themselves():
    assert read(BOARD, 1) != write(BOARD, 1)
    assert read(BOARD, 1) != "read"
    assert repr(write(Path("/d"), "a")) == "write('/d', 'a')"


def test_accesses_are_small():
    """Two for each of a million tasks: three references and no ``__dict__``."""
    access = read(BOARD, 1)
    assert not hasattr(access, "__dict__")
    assert DataAccess.__basicsize__ == object.__basicsize__ + 3 * struct.calcsize("P")
    assert DataAccess.__slots__ == ("channels", "mode", "obj")
