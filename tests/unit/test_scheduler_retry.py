"""The scheduler: tasks that are tried again, their back-off, and who has to wait for them.

Functions are numbered by the milliseconds that they take; `UNKNOWN` was never measured.
"""

from __future__ import annotations

import pytest

from alamo_mpi.core.events import Cancelled, Failed
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.program import Program
from alamo_mpi.core.retry import LONGEST_DELAY_S, Holds, Retry, kinds_of
from alamo_mpi.core.states import State
from alamo_mpi.errors import JobError, TaskTimeoutError
from tests.support.dialogue import UNKNOWN, Dialogue, skipped

RAW, WAR, WAW = Hazard.RAW, Hazard.WAR, Hazard.WAW

#: A function of 0.1 ms: a few independent calls make one chunk.
SHORT = 100
LOST = Failed(State.FAILED, kinds=("Lost", "builtins.Exception"))
OTHER = Failed(State.FAILED, kinds=("Other", "builtins.Exception"))


def on(kind: str = "Lost", retries: int = 2, delay_s: float = 0.0) -> Retry:
    return Retry(retries, delay_s, frozenset((kind,)))


def tried(program: Program, *tasks: int, terms: Retry | None = None) -> Program:
    """Return the program, these tasks of which are tried again."""
    program.retry = dict.fromkeys(tasks, terms or on())
    return program


# ---- the terms ----------------------------------------------------------------------------------


def test_the_delay_doubles_up_to_a_minute() -> None:
    terms = on(retries=2000, delay_s=4.0)
    delays = [terms.after(attempts, ("Lost",)) for attempts in (1, 2, 3, 4, 5, 6, 2000)]
    assert delays == [4.0, 8.0, 16.0, 32.0, LONGEST_DELAY_S, LONGEST_DELAY_S, LONGEST_DELAY_S]
    assert terms.after(2001, ("Lost",)) is None


def test_a_delay_over_the_limit_stays_as_it_is() -> None:
    terms = on(delay_s=3 * LONGEST_DELAY_S)
    assert [terms.after(n, ("Lost",)) for n in (1, 2)] == [3 * LONGEST_DELAY_S] * 2


def test_no_delay_stays_none() -> None:
    assert [on().after(n, ("Lost",)) for n in (1, 2, 3)] == [0.0, 0.0, None]


def test_exceptions_are_named_with_what_they_derive_from() -> None:
    assert kinds_of(TaskTimeoutError) == (
        *("alamo_mpi.errors.TaskTimeoutError", "alamo_mpi.errors.AlamoError"),
        *("builtins.TimeoutError", "builtins.OSError", "builtins.Exception"),
        "builtins.BaseException",
    )
    assert on("builtins.OSError").after(1, kinds_of(TaskTimeoutError)) == 0.0
    assert on("builtins.OSError").after(1, kinds_of(JobError)) is None


# ---- attempts -----------------------------------------------------------------------------------


def test_a_task_is_tried_again_until_it_succeeds() -> None:
    """At once, on the worker that is idle and not the one where it has failed."""
    talk = Dialogue(1, 2)
    assert talk.submit(tried(talk.program(UNKNOWN, 1), 0)) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c1 to 2: A0"]
    assert talk.ended(1, 1, {0: LOST}) == ["from 2, 0: A0 tried again", "send c2 to 1: A0"]
    assert talk.ended(2, 1) == ["from 1, 0: A0 done", "finished A"]


def test_the_last_attempt_decides() -> None:
    talk = Dialogue(1)
    assert talk.submit(tried(talk.program(UNKNOWN, 1), 0, terms=on(retries=1))) == [
        "send c0 to 1: A0"
    ]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c1 to 1: A0"]
    assert talk.ended(1, 1, {0: LOST}) == ["from 1, 0: A0 failed", "finished A"]


@pytest.mark.parametrize("failed", [OTHER, Failed(State.FAILED)])
def test_other_exceptions_are_final(failed: Failed) -> None:
    talk = Dialogue(1)
    talk.submit(tried(talk.program(UNKNOWN, 1), 0))
    assert talk.ended(0, 1, {0: failed}) == ["from 1, 0: A0 failed", "finished A"]


def test_the_others_of_a_report_are_settled() -> None:
    """Of four tasks the second is tried again, and the third fails for good."""
    talk = Dialogue(1)
    talk.scheduler._durations.observe(SHORT, 1, 1e-4)
    program = tried(talk.program(SHORT, 4), 1, terms=on(delay_s=1.0))
    assert talk.submit(program) == ["send c0 to 1: A0 A1 A2 A3"]
    assert talk.ended(0, 4, {1: LOST, 2: LOST}) == [
        "from 1, 0: A0 done",
        "from 1, 2: A2 failed, A3 done",
        "from 1, 1: A1 tried again",
    ]


def test_it_is_kept_for_another_worker_while_that_is_busy() -> None:
    """Worker 1 takes what else there is first, and A0 only when nothing else is left for it."""
    talk = Dialogue(1, 2)
    assert talk.submit(tried(talk.program(10, 4), 0)) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c2 to 1: A2"]
    assert talk.ended(2, 1) == ["from 1, 0: A2 done", "send c3 to 1: A3"]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done", "send c4 to 2: A0"]
    assert talk.ended(4, 1, {0: LOST}) == ["from 2, 0: A0 tried again", "send c5 to 2: A0"]


def test_a_job_and_a_task_with_a_policy_are_tried_again() -> None:
    talk = Dialogue(1, 2)
    job = tried(talk.program(UNKNOWN, 1, widths={0: 2}), 0)
    assert talk.submit(job) == ["send c0 to 1+2: A0"]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c1 to 1+2: A0"]
    assert talk.ended(1, 1) == ["from 1, 0: A0 done", "finished A"]
    pinned = tried(talk.program(UNKNOWN, 1, pins={0: [2]}), 0)
    assert talk.submit(pinned) == ["send c2 to 2: B0"]
    assert talk.ended(2, 1, {0: LOST}) == ["from 2, 0: B0 tried again", "send c3 to 2: B0"]


# ---- back-off -----------------------------------------------------------------------------------


def test_nobody_has_it_during_its_back_off() -> None:
    """The worker runs what else there is; time alone brings the next attempt."""
    talk = Dialogue(1)
    talk.submit(tried(talk.program(UNKNOWN, 1), 0, terms=on(delay_s=2.0)))
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again"]
    assert talk.scheduler.running == 0
    assert talk.scheduler.needs_ticks
    assert talk.scheduler.held == {(0, 0): 2.0}
    assert talk.submit(talk.program(UNKNOWN, 1)) == ["send c1 to 1: B0"]
    assert talk.tick(1.9) == []
    assert talk.ended(1, 1) == ["from 1, 0: B0 done", "finished B"]
    assert talk.tick(2.0) == ["send c2 to 1: A0"]
    assert talk.ended(2, 1, {0: LOST}) == ["from 1, 0: A0 tried again"]
    assert talk.tick(5.9) == []
    assert talk.tick(6.0) == ["send c3 to 1: A0"]
    assert talk.ended(3, 1) == ["from 1, 0: A0 done", "finished A"]
    assert not talk.scheduler.needs_ticks


def test_cancelled_during_its_back_off() -> None:
    """At once, with whoever reads from it; whoever is ordered behind it runs."""
    talk = Dialogue(1)
    graph = Graph.from_edges(3, [(0, 1, RAW), (0, 2, WAR)])
    program = tried(talk.program(UNKNOWN, 3, graph), 0, terms=on(delay_s=2.0))
    talk.submit(program)
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again"]
    assert talk.handle(Cancelled([program], frozenset((0,)))) == [
        "A0 cancelled",
        "A1 skipped for A0",
        "send c1 to 1: A2",
    ]
    assert talk.scheduler.held == {}
    assert talk.ended(1, 1) == ["from 1, 0: A2 done", "finished A"]


def test_terminated_during_its_back_off() -> None:
    talk = Dialogue(1)
    talk.submit(tried(talk.program(UNKNOWN, 1), 0, terms=on(delay_s=2.0)))
    talk.ended(0, 1, {0: LOST})
    assert talk.terminate() == ["A0 cancelled", "finished A"]
    assert not talk.scheduler.needs_ticks


def test_an_attempt_that_fails_after_its_task_was_given_up() -> None:
    """There is no other one, and it is cancelled, not failed: as between two attempts."""
    talk = Dialogue(1)
    program = tried(talk.program(UNKNOWN, 1), 0)
    talk.submit(program)
    assert talk.handle(Cancelled([program], frozenset((0,)))) == ["interrupt 1: c0"]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 cancelled", "finished A"]


# ---- successors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hazard", [RAW, WAR, WAW])
def test_no_successor_travels_with_it(hazard: int) -> None:
    """Measured, a chain would be one chunk: A2 behind A1 is, and A1 behind A0 is not."""
    talk = Dialogue(1)
    edges = [(0, 1, hazard), (1, 2, hazard)]
    assert talk.submit(tried(talk.program(1, 3, Graph.from_edges(3, edges)), 0)) == [
        "send c0 to 1: A0"
    ]
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c1 to 1: A0"]
    assert talk.ended(1, 1) == ["from 1, 0: A0 done", "send c2 to 1: A1 A2"]


def test_successors_fail_after_the_last_attempt_only() -> None:
    talk = Dialogue(1)
    graph = Graph.from_edges(2, [(0, 1, RAW)])
    talk.submit(tried(talk.program(1, 2, graph), 0, terms=on(retries=1)))
    assert talk.ended(0, 1, {0: LOST}) == ["from 1, 0: A0 tried again", "send c1 to 1: A0"]
    assert talk.ended(1, 1, {0: LOST}) == [
        "from 1, 0: A0 failed",
        "A1 skipped for A0",
        "finished A",
    ]


def test_a_predecessor_that_ends_in_the_same_report() -> None:
    """A1 failed behind A0 in one chunk: the end of A0 must not make it ready before its time."""
    talk = Dialogue(1)
    graph = Graph.from_edges(2, [(0, 1, RAW)])
    program = tried(talk.program(1, 2, graph), 1, terms=on(delay_s=1.0))
    assert talk.submit(program) == ["send c0 to 1: A0 A1"]
    assert talk.ended(0, 2, {1: LOST}) == ["from 1, 0: A0 done", "from 1, 1: A1 tried again"]
    assert talk.tick(1.0) == ["send c1 to 1: A1"]


def test_a_task_that_is_skipped_is_not_tried_again() -> None:
    talk = Dialogue(1)
    graph = Graph.from_edges(2, [(0, 1, RAW)])
    assert talk.submit(tried(talk.program(1, 2, graph), 1)) == ["send c0 to 1: A0 A1"]
    assert talk.ended(0, 2, {0: OTHER, 1: skipped(0)}) == [
        "from 1, 0: A0 failed, A1 skipped",
        "finished A",
    ]


# ---- the queue of those that wait ---------------------------------------------------------------


def test_holds_end_in_the_order_of_their_times() -> None:
    holds, talk = Holds(), Dialogue(1)
    first, second = talk.program(UNKNOWN, 3), talk.program(UNKNOWN, 3)
    for program, index, until in [(first, 0, 3.0), (second, 1, 1.0), (first, 2, 2.0)]:
        holds.push(program, index, until)
    assert list(holds.pop_due(0.5)) == []
    assert list(holds.pop_due(2.0)) == [(second, 1), (first, 2)]
    assert len(holds) == 1
    holds.push(first, 1, 1.0)
    holds.drop(first, frozenset((0,)))
    assert holds.untils() == {(0, 1): 1.0}
    holds.drop(first)
    assert len(holds) == 0
