"""Tasks that only some workers may run: sent to these alone, in order, starving nobody."""

from __future__ import annotations

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from tests.support.dialogue import RAISED, UNKNOWN, Dialogue


def test_a_task_goes_to_a_worker_that_may_run_it_and_waits_for_that() -> None:
    talk = Dialogue(1, 2, 3)
    pins = {0: [2], 1: [2], 2: [2, 3]}
    assert talk.submit(talk.program(1, 3, pins=pins)) == ["send c0 to 2: A0", "send c1 to 3: A2"]
    assert talk.ended(1, 1) == ["from 3, 0: A2 done"]
    assert talk.ended(0, 1) == ["from 2, 0: A0 done", "send c2 to 2: A1"]
    assert talk.ended(2, 1) == ["from 2, 0: A1 done", "finished A"]


def test_others_run_what_everybody_may_run_meanwhile() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 2, pins={0: [1], 1: [1]})) == ["send c0 to 1: A0"]
    assert talk.submit(talk.program(UNKNOWN, 2)) == ["send c1 to 2: B0"]
    assert talk.ended(1, 1) == ["from 2, 0: B0 done", "send c2 to 2: B1"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c3 to 1: A1"]


def test_a_worker_that_is_wanted_gets_nothing_ahead() -> None:
    """Of a hundred short tasks it would else always have another chunk, and never be idle."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 1, pins={0: [1]})) == ["send c0 to 1: A0"]
    assert talk.submit(talk.program(UNKNOWN, 1, pins={0: [2]})) == ["send c1 to 2: B0"]
    assert talk.submit(talk.program(UNKNOWN, 1, pins={0: [1]})) == []
    assert talk.submit(talk.program(10, 100)) == []
    assert talk.ended(1, 1) == [
        *("from 2, 0: B0 done", "finished B"),
        *("send c2 to 2: D0", "send c3 to 2: D1"),
    ]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A", "send c4 to 1: C0"]
    said = talk.ended(4, 1)
    assert said == ["from 1, 0: C0 done", "finished C", "send c5 to 1: D2", "send c6 to 1: D3"]


def test_what_was_submitted_earlier_comes_first() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(UNKNOWN, 2)) == ["send c0 to 1: A0"]
    assert talk.submit(talk.program(UNKNOWN, 1, pins={0: [1]})) == []
    assert talk.submit(talk.program(UNKNOWN, 1)) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 1: A1"]
    assert talk.ended(1, 1) == ["from 1, 0: A1 done", "finished A", "send c2 to 1: B0"]
    assert talk.ended(2, 1) == ["from 1, 0: B0 done", "finished B", "send c3 to 1: C0"]


def test_no_chain_crosses_a_pinned_task() -> None:
    """A0 -> A1 (only on 2) -> A2."""
    graph = Graph.from_edges(3, [(0, 1, Hazard.RAW), (1, 2, Hazard.RAW)])
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 3, graph, pins={1: [2]})) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 2: A1"]
    assert talk.ended(1, 1, {0: RAISED}) == [
        *("from 2, 0: A1 failed", "A2 skipped for A1", "finished A"),
    ]


def test_a_job_takes_only_workers_that_it_may_have() -> None:
    talk = Dialogue(1, 2, 3, 4)
    program = talk.program(UNKNOWN, 2, widths={0: 2, 1: 2}, pins={0: [2, 4], 1: [2, 4]})
    assert talk.submit(program) == ["send c0 to 2+4: A0"]
    assert talk.ended(0, 1) == ["from 2, 0: A0 done", "send c1 to 2+4: A1"]


def test_termination_cancels_what_waits_for_a_worker() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 2, pins={0: [1], 1: [1]})) == ["send c0 to 1: A0"]
    assert talk.terminate() == ["interrupt 1: c0", "A1 cancelled"]
