"""The file behind a captured descriptor: what is read, what is handed over, what is freed."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from alamo_mpi.runtime import spool
from alamo_mpi.runtime.spool import Spilled, Spool

LARGE = (1 << 20) + 1


@pytest.fixture
def made() -> Iterator[Spool]:
    made = Spool()
    yield made
    made.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def write(made: Spool, nbytes: int) -> bytes:
    data = os.urandom(1 << 10) * (nbytes // (1 << 10)) + b"x" * (nbytes % (1 << 10))
    assert os.write(made.fd, data) == nbytes
    return data


def test_a_megabyte_is_read_more_is_handed_over_with_its_file(made: Spool) -> None:
    data = write(made, LARGE - 1)
    assert made.take() == data
    data = write(made, LARGE)
    spilled = made.take()
    assert isinstance(spilled, Spilled)
    assert len(spilled) == spilled.nbytes == LARGE
    assert spilled[:] == data
    assert spilled[5:9] == data[5:9]
    assert spilled[LARGE - 3 : LARGE + 50] == data[-3:]
    assert spilled[LARGE:] == b""


def test_the_next_output_goes_to_another_file(made: Spool) -> None:
    first = write(made, LARGE)
    spilled = made.take()
    os.write(made.fd, b"second")
    assert made.take() == b"second"
    assert spilled[:] == first


def test_what_is_handed_over_is_freed_with_the_object(made: Spool) -> None:
    before, count = descriptors(), Spilled.count
    write(made, LARGE)
    spilled = made.take()
    assert isinstance(spilled, Spilled)
    assert len(descriptors()) == len(before) + 1
    del spilled
    assert len(descriptors()) == len(before)
    assert Spilled.count == count


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Let every write to a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_output_is_read_and_its_room_given_back(made: Spool) -> None:
    before = descriptors()
    data = write(made, LARGE)
    with no_room():
        assert made.take() == data
        assert os.fstat(made.fd).st_blocks * 512 < LARGE
    assert descriptors() == before
    assert (write(made, 10), made.take()) == (b"x" * 10, b"x" * 10)


def test_a_file_truncated_on_a_full_disk_goes_on_without_its_beginning(made: Spool) -> None:
    os.ftruncate(made.fd, 0)
    with no_room():
        made.skip()
        assert made.take() == b""
    for _ in range(2):
        assert (write(made, 10), made.take()) == (b"x" * 10, b"x" * 10)
    assert os.pread(made.fd, 16, 0) == spool._MAGIC


def test_a_file_that_was_truncated_meanwhile_is_handed_over_from_its_beginning(
    made: Spool,
) -> None:
    write(made, 100)
    os.ftruncate(made.fd, 0)
    data = write(made, LARGE)
    assert made.take()[:] == data


def test_many_outputs_do_not_use_up_the_descriptors(
    made: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_MOST_SPILLED", Spilled.count + 2)
    taken = []
    for _ in range(4):
        write(made, LARGE)
        taken.append(made.take())
    assert [type(each) for each in taken] == [Spilled, Spilled, bytes, bytes]


def test_without_room_for_another_file_the_output_is_read(
    made: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = write(made, LARGE)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert made.take() == data
