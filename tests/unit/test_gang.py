"""Jobs that take several workers at once: held back for, started in order, starving nobody."""

from __future__ import annotations

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from tests.support.dialogue import RAISED, UNKNOWN, Dialogue


def job(talk: Dialogue, *widths: int) -> list[str]:
    """Submit a program of independent jobs."""
    return talk.submit(talk.program(UNKNOWN, len(widths), widths=dict(enumerate(widths))))


def test_jobs_run_side_by_side_on_workers_that_are_neighbours() -> None:
    talk = Dialogue(1, 2, 3, 4)
    assert job(talk, 2, 2, 1) == ["send c0 to 1+2: A0", "send c1 to 3+4: A1"]
    assert talk.ended(1, 1) == ["from 3, 0: A1 done", "send c2 to 3: A2"]
    assert talk.ended(2, 1) == ["from 3, 0: A2 done"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A"]


def spread(talk: Dialogue, width: int, *hosts: set[int]) -> list[str]:
    """Submit one job that is to be spread over these hosts."""
    over = {0: tuple(map(frozenset, hosts))}
    return talk.submit(talk.program(UNKNOWN, 1, widths={0: width}, spreads=over))


def test_a_job_is_spread_over_as_many_hosts_as_there_are() -> None:
    hosts = {1, 2}, {3, 4}, {5, 6}
    assert spread(Dialogue(1, 2, 3, 4, 5, 6), 2, *hosts) == ["send c0 to 1+3: A0"]
    assert spread(Dialogue(1, 2, 3, 4, 5, 6), 4, *hosts) == ["send c0 to 1+2+3+5: A0"]
    assert spread(Dialogue(1, 2, 3, 4, 5, 6), 6, *hosts) == ["send c0 to 1+2+3+4+5+6: A0"]


def test_a_job_that_is_spread_waits_for_a_worker_on_each_host() -> None:
    talk = Dialogue(1, 2, 3)
    assert talk.submit(talk.program(UNKNOWN, 3)) == [
        *("send c0 to 1: A0", "send c1 to 2: A1", "send c2 to 3: A2")
    ]
    assert spread(talk, 2, {1, 2}, {3}) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done"]
    assert talk.ended(2, 1) == ["from 3, 0: A2 done", "finished A", "send c3 to 1+3: B0"]


def test_small_tasks_fill_the_workers_that_a_job_leaves() -> None:
    talk = Dialogue(1, 2, 3)
    assert job(talk, 2) == ["send c0 to 1+2: A0"]
    assert talk.submit(talk.program(10, 3)) == ["send c1 to 3: B0"]
    assert talk.ended(1, 1) == ["from 3, 0: B0 done", "send c2 to 3: B1"]
    assert talk.ended(2, 1) == ["from 3, 0: B1 done", "send c3 to 3: B2"]


def test_workers_that_become_idle_are_held_back_for_a_job_that_waits() -> None:
    """None gets a chunk ahead either, though a hundred tasks were submitted before the job."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(10, 100))[:2] == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(0, 1)[0] == "from 1, 0: A0 done"
    assert job(talk, 2) == []
    busy = {number for number in range(2, 8) if number in talk.needs}
    said = [line for number in sorted({1, *busy}) for line in talk.ended(number, 1)]
    assert [line for line in said if line.startswith("send")] == ["send c5 to 1+2: B0"]


def test_a_worker_that_had_a_job_runs_what_waits_before_the_next_job_takes_it() -> None:
    talk = Dialogue(1, 2)
    assert job(talk, 2, 2) == ["send c0 to 1+2: A0"]
    assert talk.submit(talk.program(UNKNOWN, 3)) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 1: B0", "send c2 to 2: B1"]
    assert talk.ended(1, 1) == ["from 1, 0: B0 done"]
    assert talk.ended(2, 1) == ["from 2, 0: B1 done", "send c3 to 1+2: A1"]
    assert talk.ended(3, 1) == ["from 1, 0: A1 done", "finished A", "send c4 to 2: B2"]


def test_a_narrow_job_does_not_overtake_a_wide_one() -> None:
    talk = Dialogue(1, 2, 3)
    assert job(talk, 2) == ["send c0 to 1+2: A0"]
    assert job(talk, 3, 1) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A", "send c1 to 1+2+3: B0"]
    assert talk.ended(1, 1) == ["from 1, 0: B0 done", "send c2 to 1: B1"]


def test_a_job_waits_for_its_predecessors_and_is_waited_for() -> None:
    """A0 -> A1 (a job) -> A2: no chain crosses it, and its failure is passed on."""
    graph = Graph.from_edges(3, [(0, 1, Hazard.RAW), (1, 2, Hazard.RAW)])
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 3, graph, widths={1: 2})) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 1+2: A1"]
    assert talk.ended(1, 1, {0: RAISED}) == [
        "from 1, 0: A1 failed",
        "A2 skipped for A1",
        "finished A",
    ]


def test_termination_cancels_jobs_that_wait_and_interrupts_the_leader_of_one_that_runs() -> None:
    talk = Dialogue(1, 2)
    assert job(talk, 2, 2) == ["send c0 to 1+2: A0"]
    assert talk.terminate() == ["interrupt 1: c0", "A1 cancelled"]
    assert talk.returned(1, {0: 1}) == ["A0 cancelled", "finished A"]


def test_a_slow_worker_is_asked_for_its_rest_while_a_job_waits() -> None:
    """Its other tasks would keep the job waiting, though more are ready than it has."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(1, 100))
    job(talk, 2)
    for chunk in (0, 2):  # what worker 1 has
        assert talk.ended(chunk, 10)[-1].startswith("from 1")
    assert talk.tick(1.0) == ["recall from 2"]
