"""The scheduler: a worker that is gone, in a program that goes on without it."""

from __future__ import annotations

from alamo_mpi.core.events import Lost, Resumed, Suspended
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from tests.support.dialogue import RAISED, UNKNOWN, Dialogue


def left(talk: Dialogue, rank: int) -> list[tuple[int, bool, bool]]:
    return [(c.number, waits, begun) for c, waits, begun in talk.scheduler.dispatch.left_by(rank)]


def test_what_it_had_begun_fails_and_the_rest_goes_to_others() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 6)) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(1, 1, seconds={UNKNOWN: (1, 1e-4)}) == [
        "from 2, 0: A1 done",
        "send c2 to 2: A2 A3 A4 A5",
    ]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.handle(Lost(2)) == []
    assert left(talk, 2) == [(2, False, False)]
    assert talk.ended(2, 2, {0: RAISED, 1: RAISED}) == ["from 2, 0: A2 failed, A3 failed"]
    assert talk.returned(2, {2: 2}) == ["send c3 to 1: A4 A5"]
    assert talk.ended(3, 2) == ["from 1, 0: A4 done, A5 done", "finished A"]
    assert talk.scheduler.running == 0


def test_an_idle_one_is_given_nothing_more() -> None:
    talk = Dialogue(1, 2)
    assert talk.handle(Lost(1)) == []
    assert talk.submit(talk.program(10, 3)) == ["send c0 to 2: A0"]
    assert talk.ended(0, 1) == ["from 2, 0: A0 done", "send c1 to 2: A1"]


def test_a_recall_that_it_owes_is_not_waited_for() -> None:
    talk = Dialogue(1, 2)
    talk.scheduler._durations.observe(3, 1, 1e-4)
    assert talk.submit(talk.program(3, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(1.0) == ["recall from 1"]
    assert talk.handle(Lost(1)) == []
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.returned(1, {0: 2}) == ["send c1 to 2: A1 A2"]
    assert talk.ended(1, 2) == ["from 2, 0: A1 done, A2 done", "finished A"]
    assert talk.scheduler.running == 0


def test_a_task_that_waits_is_lost_with_it() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 1)) == ["send c0 to 1: A0"]
    assert talk.handle(Suspended(0, 0)) == []
    assert talk.submit(talk.program(10, 1)) == ["send c1 to 1: B0"]
    assert talk.handle(Lost(1)) == []
    assert left(talk, 1) == [(1, False, False), (0, True, True)]
    assert talk.ended(1, 1, {0: RAISED}) == ["from 1, 0: B0 failed", "finished B"]
    assert talk.handle(Resumed(0)) == []
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]


def test_who_reads_from_it_is_skipped() -> None:
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(2, [(0, 1, Hazard.RAW)])
    assert talk.submit(talk.program([UNKNOWN, 10], 2, graph)) == ["send c0 to 1: A0"]
    talk.handle(Lost(1))
    assert talk.ended(0, 1, {0: RAISED}) == [
        "from 1, 0: A0 failed",
        "A1 skipped for A0",
        "finished A",
    ]


def test_what_only_it_may_run_is_cancelled() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(10, 2, pins={0: [1], 1: [1]})) == ["send c0 to 1: A0"]
    assert talk.handle(Lost(1)) == ["interrupt 1: c0", "A1 cancelled"]
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]
    # Also what comes later.
    assert talk.submit(talk.program(10, 2, pins={0: [1]})) == ["B0 cancelled", "send c1 to 2: B1"]
    assert talk.ended(1, 1) == ["from 2, 0: B1 done", "finished B"]


def test_without_workers_all_is_cancelled() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(10, 2)) == ["send c0 to 1: A0"]
    assert talk.handle(Lost(1)) == ["interrupt 1: c0", "A1 cancelled"]
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]
    assert talk.submit(talk.program(10, 2)) == ["B0 cancelled", "B1 cancelled", "finished B"]


def test_a_job_whose_leader_is_lost_gives_back_its_members() -> None:
    talk = Dialogue(1, 2, 3)
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == ["send c0 to 1+2: A0"]
    assert talk.handle(Lost(1)) == []
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == ["send c1 to 2+3: B0"]


def test_a_member_that_is_lost_is_not_given_back() -> None:
    talk = Dialogue(1, 2, 3)
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == ["send c0 to 1+2: A0"]
    assert talk.handle(Lost(2)) == []
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == ["send c1 to 1+3: B0"]
    assert talk.submit(talk.program(UNKNOWN, 2)) == []


def test_a_job_for_which_too_few_are_left_is_cancelled() -> None:
    talk = Dialogue(1, 2, 3)
    assert talk.submit(talk.program(UNKNOWN, 2, widths={0: 3, 1: 2})) == ["send c0 to 1+2+3: A0"]
    # It runs, and is left to say so itself; nobody can start one like it.
    assert talk.handle(Lost(2)) == []
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 3})) == []
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "send c1 to 1+3: A1"]
    assert talk.ended(1, 1) == ["from 1, 0: A1 done", "B0 cancelled", "finished A", "finished B"]


def test_a_job_that_was_sent_and_not_begun_is_cancelled_where_too_few_are_left() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == ["send c0 to 1+2: A0"]
    assert talk.handle(Lost(1)) == []
    assert talk.returned(1, {0: 1}) == ["A0 cancelled", "finished A"]
    assert talk.scheduler.running == 0


def test_a_job_is_cancelled_where_too_few_of_those_it_may_have_are_left() -> None:
    talk = Dialogue(1, 2, 3)
    talk.handle(Lost(3))
    pins = {0: [2, 3]}
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2}, pins=pins)) == [
        "A0 cancelled",
        "finished A",
    ]


def test_a_spread_job_does_not_wait_for_a_host_that_is_lost() -> None:
    talk = Dialogue(1, 2, 3)
    talk.handle(Lost(3))
    over = {0: (frozenset({1, 2}), frozenset({3}))}
    job = talk.program(UNKNOWN, 1, widths={0: 2}, spreads=over)
    assert talk.submit(job) == ["send c0 to 1+2: A0"]
