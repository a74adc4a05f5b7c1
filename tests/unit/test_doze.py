"""A rank that naps is woken by whoever sends something to it on its host."""

from __future__ import annotations

import os
import threading
import time

import pytest

from alamo_mpi.runtime import witnessed
from alamo_mpi.runtime.backoff import Backoff
from alamo_mpi.runtime.doze import doze, waker
from alamo_mpi.runtime.witnessed import Mark
from alamo_mpi.runtime.witnesspage import BELL, Page

LONGEST_S = 60.0


class Long(Backoff):
    """A wait that has been long, so that its nap would be, too."""

    def nap_s(self, longest_s: float) -> float:
        return longest_s


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> dict[int, Mark]:
    """Ranks 3 and 5 share a host."""
    ranks = (3, 5)
    fd = os.memfd_create("page")
    os.ftruncate(fd, Page.nbytes(len(ranks), 6))
    page = Page(fd, len(ranks), 6)
    os.close(fd)
    made = {rank: Mark(page, ranks, rank) for rank in ranks}
    monkeypatch.setattr(witnessed, "_current", made[3])
    return made


def test_what_is_sent_ends_the_nap(marks: dict[int, Mark], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessed, "_current", marks[5])
    wake = waker()
    monkeypatch.setattr(witnessed, "_current", marks[3])
    came = threading.Event()

    def send() -> None:
        while not marks[3].slot[BELL]:  # until it naps
            os.sched_yield()
        came.set()
        wake(3)

    thread = threading.Thread(target=send)
    thread.start()
    start = time.monotonic()
    doze(came.is_set, Long(), LONGEST_S)
    thread.join()
    assert came.is_set()
    assert time.monotonic() - start < LONGEST_S
    assert not marks[3].slot[BELL]


def test_what_came_before_the_name_was_there_is_found(marks: dict[int, Mark]) -> None:
    assert doze(lambda: True, Long(), LONGEST_S) is True
    assert not marks[3].slot[BELL]


def test_an_error_while_looking_takes_the_name_off(marks: dict[int, Mark]) -> None:
    def look() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        doze(look, Long(), LONGEST_S)
    assert not marks[3].slot[BELL]


def test_who_is_awake_or_elsewhere_is_not_rung(marks: dict[int, Mark]) -> None:
    wake = waker()
    for rank in (0, 3, 5):
        wake(rank)
    marks[5].slot[BELL] = 1 << 20
    wake(5)  # a bell that is gone
    assert not marks[5].slot[BELL]


def test_without_a_page_it_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessed, "_current", Mark())
    assert doze(lambda: True, Long(), 2e-3) is False
    waker()(0)
