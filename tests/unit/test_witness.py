"""What the witness makes of an end, what it says, and the page that it reads; no MPI."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from alamo_mpi.core.loss import Case, Rank, Tally, message, verdict
from alamo_mpi.runtime import witnessed
from alamo_mpi.runtime.deaths import how
from alamo_mpi.runtime.witnessed import Mark
from alamo_mpi.runtime.witnesspage import Page

KILLED = -signal.SIGKILL
TERMINATED = -signal.SIGTERM
#: One host of three ranks, under MPICH's launcher; the others still live.
CASE = Case(status=KILLED, heard=False, others=2, doomed=0, prompt=True)


@pytest.mark.parametrize("status", [-signal.SIGSEGV, -signal.SIGABRT, 0, 3])
@pytest.mark.parametrize("prompt", [True, False])
def test_an_end_of_its_own_is_a_loss(status: int, prompt: bool) -> None:
    """Whatever has become of the others meanwhile."""
    case = CASE._replace(status=status, prompt=prompt)
    for doomed in range(3):
        assert verdict(case._replace(doomed=doomed)) is True
        assert case._replace(doomed=doomed).sure


@pytest.mark.parametrize("status", [KILLED, TERMINATED, -signal.SIGINT, 130, None])
@pytest.mark.parametrize("prompt", [True, False])
def test_a_signal_for_all_is_none(status: int | None, prompt: bool) -> None:
    assert verdict(CASE._replace(status=status, prompt=prompt, heard=True)) is False


@pytest.mark.parametrize("status", [KILLED, None])
def test_a_kill_where_the_launcher_ends_others_at_once(status: int | None) -> None:
    """It is a loss; and if others live, no other host is the reason."""
    case = CASE._replace(status=status)
    for doomed in range(3):
        assert verdict(case._replace(doomed=doomed)) is True
        assert case._replace(doomed=doomed).sure == (doomed < 2)


def test_a_sigterm_waits_for_the_ear() -> None:
    assert verdict(CASE._replace(status=TERMINATED)) is None


@pytest.mark.parametrize("status", [KILLED, TERMINATED, None])
def test_a_kill_where_the_launcher_gives_others_time(status: int | None) -> None:
    """Others that are doomed at once were ended together with it."""
    case = CASE._replace(status=status, prompt=False)
    assert verdict(case) is None
    assert verdict(case._replace(doomed=1)) is None
    assert verdict(case._replace(doomed=2)) is False


def test_message_of_a_worker() -> None:
    lost = Rank(2, 4321, (17, "simulate"), running=True)
    others = [Rank(0, 1), Rank(1, 2, (18, "reduce"), running=True), Rank(3, 3, (4, "old"))]
    text = message(lost, "n12", how(KILLED), Tally(1204, 3, 96), others)
    assert text == (
        "alamo_mpi: rank 2 (host n12, process 4321) was lost: killed by signal 9 (SIGKILL). It was "
        "running task 17 'simulate'. By then 1204 tasks were done, 3 had failed and 96 were "
        "unfinished. Running elsewhere: task 18 'reduce' on rank 1. MPI does not go on without "
        "it: all ranks end now.\n"
    )


def test_message_of_an_idle_worker_of_another_host() -> None:
    text = message(Rank(2, 4321, (17, "simulate")), "n12", how(3), None, [])
    assert (
        "its process exited with status 3. It was idle; its last task was 17 'simulate'. " in text
    )
    assert "tasks were done" not in text
    assert "It was idle. " in message(Rank(2, 4321), "n12", how(None), None, [])


def test_message_of_rank_0() -> None:
    text = message(Rank(0, 1), "n12", how(-signal.SIGSEGV), Tally(1, 0, 0), [])
    assert "rank 0 (host n12, the main program) was lost: killed by signal 11 (SIGSEGV). By" in text


def test_a_message_is_short_enough_for_one_write() -> None:
    others = [Rank(n, n, (2**63, "f" * 95), running=True) for n in range(1000)]
    text = message(
        Rank(5, 5, (1, "g" * 95), running=True), "h" * 64, how(KILLED), Tally(1, 2, 3), others
    )
    assert "992 more" in text
    assert len(text) < 4096


@pytest.fixture
def page() -> Iterator[Page]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, Page.nbytes(3, 3))
    yield Page(fd, 3, 3)
    os.close(fd)


def test_tally(page: Page) -> None:
    page.count_started(10)
    page.count_done(4)
    page.count_others(1, 2)
    assert page.tally == Tally(4, 1, 3)


def test_slots_are_apart(page: Page) -> None:
    page.slot(1)[:] = memoryview(bytearray(b"\xff" * 8 * len(page.slot(1)))).cast("Q")
    page.write_name(1, "a" * 1000)
    page.write_name(2, "short")
    page.write_name(0, "größe")
    assert not any(page.slot(0)[:3])
    assert not any(page.slot(2)[:3])
    assert [page.name(at) for at in range(3)] == ["größe", "a" * 87, "short"]
    assert not page.ending
    page.end()
    assert page.ending


def test_a_rank_waits_until_it_is_watched(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    Mark().wait_until_watched()  # nobody is to come
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            page.watch()

    monkeypatch.setattr(witnessed.time, "sleep", nap)
    Mark(page, (4, 6, 8), 6).wait_until_watched()
    assert len(naps) == 3


def test_a_witness_that_does_not_come_up_is_not_waited_for_long(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessed, "_UP_S", 0.01)
    Mark(page, (0, 1, 2), 0).wait_until_watched()
    assert not page.watched


def test_whether_rank_0s_host_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        assert witnessed._no_way_to(*place) == ""
    assert "cannot reach 127.0.0.1 by TCP" in witnessed._no_way_to(*place)
