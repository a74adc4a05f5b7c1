"""Parcels: what is sent arrives, large things by shared memory, and no descriptor is left."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from alamo_mpi.runtime import parcels
from alamo_mpi.runtime.cow import SharedBuffers
from alamo_mpi.runtime.packing import pack, unpack
from alamo_mpi.runtime.parcels import Parcel, receive

Ends = tuple[socket.socket, socket.socket]


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = open_fds()
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield pair
    for each in pair:
        each.close()
    assert open_fds() == before


def passed(ends: Ends, value: Any, buffers: SharedBuffers | None = None, place: Any = None) -> Any:
    """Pack, send, receive and unpack a value."""
    parcel = Parcel()
    payload = pack(value, place or pickle.PickleBuffer)
    file_of = None if buffers is None else buffers.file_of
    parcel.send(ends[0], ("before", parcel.payload(payload, file_of)))
    (tag, sent), fds, opened = receive(ends[1])
    assert tag == "before"
    got = unpack(opened(sent), lambda number: None)
    for fd in fds:
        os.close(fd)
    return got


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        1 << 100,
        b"x" * 10,
        b"x" * (1 << 15),
        b"x" * (1 << 22),
        [list(range(20_000)), {"k": (1, None)}],
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_has_no_buffers(ends: Ends, value: Any) -> None:
    assert passed(ends, value) == value


@pytest.mark.parametrize("count", [1, 1 << 11, 1 << 13, 1 << 17, 1 << 20])
def test_an_array(ends: Ends, count: int) -> None:
    array = np.arange(count, dtype=float)
    got = passed(ends, array)
    assert np.array_equal(got, array)
    got += 1  # it can be written, and nobody else sees it
    assert array[0] == 0.0


def test_several_arrays(ends: Ends) -> None:
    arrays = [np.full(3000 + i, i) for i in range(100)] + [np.zeros((0, 3)), np.ones(1 << 19)]
    got = passed(ends, arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, got, strict=True))
    assert all(each.ctypes.data % 16 == 0 for each in got)


def test_a_mapping_goes_with_the_last_array_on_it(ends: Ends) -> None:
    before = parcels._Mapping.count
    got = passed(ends, [np.ones(1 << 20), np.zeros(1 << 20)])
    assert parcels._Mapping.count == before + 1
    last = got.pop()
    del got
    assert parcels._Mapping.count == before + 1
    del last
    assert parcels._Mapping.count == before


def test_many_mappings_become_copies(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "_MOST_MAPPINGS", parcels._Mapping.count + 2)
    before = open_fds()
    got = [passed(ends, np.full(1 << 17, i)) for i in range(5)]
    assert open_fds() <= before + 2
    assert [each[0] for each in got] == list(range(5))
    got[4][:] = 9
    assert [each[-1] for each in got] == [0, 1, 2, 3, 9]


def test_blobs(ends: Ends) -> None:
    buffers = SharedBuffers()
    contents = [np.full(1 << 18, 1.0), np.full(1 << 12, 2.0), np.full(1 << 18, 3.0)]
    for number, each in enumerate(contents):
        buffers.add(number, each.data)
    numbers = iter(range(3))
    got = passed(ends, contents, buffers, lambda raw: next(numbers))
    assert all(np.array_equal(a, b) for a, b in zip(contents, got, strict=True))
    got[0][:] = 7.0  # copy-on-write: the blob stays as it is
    assert bytes(buffers.find(0)) == contents[0].tobytes()
    buffers.clear()
    assert got[2][0] == 3.0
    del got


def test_more_blobs_than_descriptors_can_be_passed(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "_MOST_FDS", 2)
    test_blobs(ends)


def test_descriptors_in_front(ends: Ends) -> None:
    read, write = os.pipe()
    buffers = SharedBuffers()
    buffers.add(0, np.arange(1 << 18).data)
    parcel = Parcel((write,))
    sent = parcel.payload([b"", 0, np.ones(1 << 14).data], buffers.file_of)
    parcel.send(ends[0], sent)
    os.close(write)
    sent, fds, opened = receive(ends[1])
    assert len(fds) == 2
    os.write(fds[0], b"there")
    assert os.read(read, 10) == b"there"
    _, blob, other = opened(sent)
    assert isinstance(blob, mmap.mmap)
    assert np.array_equal(np.frombuffer(blob, np.int64), np.arange(1 << 18))
    assert np.frombuffer(other)[-1] == 1.0
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (*fds, read):
        os.close(fd)
    buffers.clear()
    blob.close()


def test_the_other_end_is_gone(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        receive(ends[1])
    with pytest.raises(BrokenPipeError):
        Parcel().send(ends[1], None)


def test_what_cannot_be_unpickled_leaves_no_descriptor(ends: Ends) -> None:
    read, write = os.pipe()
    parcel = Parcel((write,))
    parcel.send(ends[0], Unpicklable())
    for fd in (read, write):
        os.close(fd)
    with pytest.raises(ZeroDivisionError):
        receive(ends[1])


class Unpicklable:
    def __reduce__(self) -> tuple[Any, ...]:
        return divide, (1, 0)


def divide(x: int, y: int) -> float:
    return x / y
