"""The file behind a captured descriptor: what is read, what is handed over, what is freed."""

from __future__ import annotations

import os
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
