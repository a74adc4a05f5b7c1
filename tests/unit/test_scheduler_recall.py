"""The scheduler: work asked back, termination, and events that cannot be.

Functions are numbered by the milliseconds that they take; `UNKNOWN` was never measured.
"""

from __future__ import annotations

import pytest

from alamo_mpi.core.events import Failed, Suspended
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.states import State
from alamo_mpi.errors import InternalError
from tests.support.dialogue import RAISED, UNKNOWN, Dialogue, skipped

RAW, WAR = Hazard.RAW, Hazard.WAR

INTERRUPTED = Failed(State.CANCELLED)
#: A function of 0.1 ms: a few independent calls make one chunk, though other workers are idle.
SHORT = 100


def chain(ntasks: int, hazard: int = RAW) -> Graph:
    """0 -> 1 -> 2 -> ..."""
    return Graph.from_edges(ntasks, [(i, i + 1, hazard) for i in range(ntasks - 1)])


def with_short(*ranks: int) -> Dialogue:
    """Return a dialogue whose scheduler knows how long `SHORT` takes."""
    talk = Dialogue(*ranks)
    talk.scheduler._durations.observe(SHORT, 1, 1e-4)
    return talk


def one_behind() -> Dialogue:
    """Worker 1 has nothing to do; worker 2 has A2 to A5 in its first chunk, and B0 behind them."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 6)) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(1, 1, seconds={UNKNOWN: (1, 1e-4)}) == [
        "from 2, 0: A1 done",
        "send c2 to 2: A2 A3 A4 A5",
    ]
    assert talk.submit(talk.program(1, 1)) == ["send c3 to 2: B0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    return talk


# ---- recall -------------------------------------------------------------------------------------


def test_a_worker_that_is_silent_too_long_gives_back_what_it_has_not_started() -> None:
    """A2 takes longer than was thought: A3 to A5 and the second chunk go to the idle worker."""
    talk = one_behind()
    assert talk.tick(1.9e-3) == []
    assert talk.tick(2.1e-3) == ["recall from 2"]
    assert talk.tick(9e-3) == []
    assert talk.returned(2, {3: 1, 2: 3}) == ["send c4 to 1: A3 A4 A5", "send c5 to 1: B0"]
    assert talk.ended(4, 3) == ["from 1, 0: A3 done, A4 done, A5 done"]
    assert talk.ended(5, 1) == ["from 1, 0: B0 done", "finished B"]
    assert talk.ended(2, 1) == ["from 2, 0: A2 done", "finished A"]


def test_the_answer_comes_after_a_job_has_taken_the_worker() -> None:
    """A2 waits before worker 2 has heard that it is asked, and what it gives back waits for B0."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(UNKNOWN, 6))
    assert talk.ended(1, 1, seconds={UNKNOWN: (1, 1e-4)})[-1] == "send c2 to 2: A2 A3 A4 A5"
    talk.ended(0, 1)
    assert talk.tick(2.1e-3) == ["recall from 2"]
    assert talk.submit(talk.program(UNKNOWN, 1, widths={0: 2})) == []
    assert talk.handle(Suspended(2, 3)) == ["send c3 to 1+2: B0"]
    assert talk.returned(2, {}) == []
    assert talk.ended(3, 1)[:2] == ["from 1, 0: B0 done", "finished B"]


def test_progress_puts_the_recall_off() -> None:
    talk = one_behind()
    talk.now = 1.5e-3
    assert talk.ended(2, 1) == ["from 2, 0: A2 done"]
    assert talk.tick(3.4e-3) == []
    assert talk.tick(3.6e-3) == ["recall from 2"]


def test_nobody_is_asked_while_nobody_is_idle() -> None:
    talk = with_short(1)
    assert talk.submit(talk.program(SHORT, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(1.0) == []


def test_nobody_is_asked_for_the_task_that_it_runs() -> None:
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 1)) == ["send c0 to 1: A0"]
    assert talk.tick(1.0) == []


def test_nobody_is_asked_for_a_chain_behind_the_task_that_it_runs() -> None:
    """A3 may run anywhere, so it is worth a recall until it runs; A0 -> A1 -> A2 never is."""
    talk = with_short(1, 2)
    assert talk.submit(talk.program(1, 3, chain(3))) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(1.0) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.tick(2.0) == []
    talk = with_short(1, 2)
    edges = [(0, 1, RAW), (1, 2, RAW), (3, 4, WAR), (4, 5, RAW)]
    assert talk.submit(talk.program(SHORT, 6, Graph.from_edges(6, edges))) == [
        "send c0 to 1: A0 A1 A2 A3 A4 A5",
    ]
    assert talk.ended(0, 3) == ["from 1, 0: A0 done, A1 done, A2 done"]
    assert talk.tick(1.0) == []


def test_a_second_chunk_is_asked_for_though_the_first_is_a_chain() -> None:
    """Worker 2 becomes idle while B0 waits behind the chain of worker 1."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 3, chain(3))) == ["send c0 to 1: A0 A1 A2"]
    assert talk.submit(talk.program(UNKNOWN, 1)) == ["send c1 to 2: B0"]
    assert talk.submit(talk.program(1, 1)) == ["send c2 to 1: C0"]
    assert talk.ended(1, 1) == ["from 2, 0: B0 done", "finished B"]
    assert talk.tick(1.0) == ["recall from 1"]
    assert talk.returned(1, {0: 2, 2: 1}) == ["send c3 to 2: C0"]


def test_the_worker_with_the_most_left_is_asked_first() -> None:
    """Workers 1, 2 and 3 have two, three and one tasks to give; worker 4 has nothing to do."""
    talk = with_short(1, 2, 3, 4)
    assert talk.submit(talk.program(SHORT, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.submit(talk.program(SHORT, 4)) == ["send c1 to 2: B0 B1 B2 B3"]
    assert talk.submit(talk.program(SHORT, 2)) == ["send c2 to 3: C0 C1"]
    assert talk.tick(1.0) == ["recall from 2"]
    assert talk.tick(1.1) == ["recall from 1"]
    assert talk.tick(1.2) == ["recall from 3"]


def test_progress_that_crosses_the_recall_is_no_part_of_what_comes_back() -> None:
    """A2 ended and A3 began before the worker was asked: A4, A5 and the second chunk come back."""
    talk = one_behind()
    assert talk.tick(2.1e-3) == ["recall from 2"]
    assert talk.ended(2, 1) == ["from 2, 0: A2 done"]
    assert talk.returned(2, {3: 1, 2: 2}) == ["send c4 to 1: A4 A5", "send c5 to 2: B0"]
    assert talk.ended(2, 1) == ["from 2, 0: A3 done"]


def test_all_was_started_when_the_recall_came() -> None:
    """Nothing comes back; the same question would get the same answer, so it has time."""
    talk = with_short(1, 2)
    assert talk.submit(talk.program(SHORT, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(2.9e-3) == ["recall from 1"]
    assert talk.tick(3e-3) == []
    assert talk.returned(1, {}) == []
    assert talk.tick(4.9e-3) == []
    assert talk.tick(5.1e-3) == ["recall from 1"]


def test_a_chain_that_comes_back_waits_for_its_head() -> None:
    """0 -> 1 -> 2, and 3; 0 runs: 1 and 2 come back and go out together when 0 is done."""
    talk = with_short(1, 2)
    graph = Graph.from_edges(4, [(0, 1, RAW), (1, 2, RAW)])
    assert talk.submit(talk.program(SHORT, 4, graph)) == ["send c0 to 1: A0 A1 A2 A3"]
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.returned(1, {0: 3}) == ["send c1 to 2: A3"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c2 to 1: A1 A2"]


def test_what_comes_back_behind_a_failure_is_skipped() -> None:
    """0 (fails) -> 1 -RAW-> 2 -WAR-> 3, and 4; the report of the failure came before the rest.

    Worker 1 has ended a task since it was asked, so it is as good as any, and idle last.
    """
    talk = with_short(1, 2)
    graph = Graph.from_edges(5, [(0, 1, RAW), (1, 2, RAW), (2, 3, WAR)])
    assert talk.submit(talk.program(SHORT, 5, graph)) == ["send c0 to 1: A0 A1 A2 A3 A4"]
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.returned(1, {0: 4}) == [
        "A1 skipped for A0",
        "A2 skipped for A0",
        "send c1 to 1: A3 A4",
    ]


def test_a_whole_chunk_that_comes_back_is_cut_anew() -> None:
    """Nothing of the chunk was started: it ends, and the worker that did not begin comes last."""
    talk = with_short(1, 2)
    assert talk.submit(talk.program(SHORT, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.returned(1, {0: 3}) == ["send c1 to 2: A0 A1 A2"]
    with pytest.raises(InternalError, match="does not fit"):
        talk.ended(0, 1)


def test_a_worker_that_ended_its_tasks_before_it_was_asked_is_not_put_last() -> None:
    talk = with_short(1, 2)
    assert talk.submit(talk.program(SHORT, 3)) == ["send c0 to 1: A0 A1 A2"]
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.ended(0, 3) == ["from 1, 0: A0 done, A1 done, A2 done", "finished A"]
    assert talk.returned(1, {}) == []
    assert talk.submit(talk.program(1, 1)) == ["send c1 to 1: B0"]


def test_workers_that_never_begin_are_given_more_time_with_each_recall() -> None:
    """Slow messages: a chunk that comes back whole each time must come to rest somewhere."""
    talk = with_short(1, 2)
    talk.submit(talk.program(SHORT, 2))
    rank, start, patience_s = 1, 0.0, 2e-3
    for number in range(12):
        assert talk.tick(start + 0.9 * patience_s) == []
        start += 1.1 * patience_s
        assert talk.tick(start) == [f"recall from {rank}"]
        assert talk.returned(rank, {number: 2}) == [f"send c{number + 1} to {3 - rank}: A0 A1"]
        rank = 3 - rank
        if rank == 1:
            patience_s *= 2
    # One of its tasks has ended: from now on worker 1 is late as soon as at first.
    assert talk.ended(12, 1) == ["from 1, 0: A0 done"]
    assert talk.ended(12, 1) == ["from 1, 0: A1 done", "finished A"]
    assert talk.submit(talk.program(SHORT, 2)) == ["send c13 to 1: B0 B1"]
    assert talk.tick(start + 1.9e-3) == []
    assert talk.tick(start + 2.1e-3) == ["recall from 1"]


def test_a_late_worker_gets_no_second_chunk() -> None:
    """From the recall until one of its tasks ends: it would be asked to give that back too."""
    talk = with_short(1, 2)
    assert talk.submit(talk.program(SHORT, 2)) == ["send c0 to 1: A0 A1"]
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.submit(talk.program(1, 3)) == ["send c1 to 2: B0", "send c2 to 2: B1"]
    assert talk.returned(1, {0: 1}) == []
    assert talk.ended(0, 1) == [
        "from 1, 0: A0 done",
        "send c3 to 1: A1",
        "send c4 to 1: B2",
    ]


def test_running_counts_the_answers_that_are_owed() -> None:
    talk = with_short(1, 2)
    talk.submit(talk.program(SHORT, 3))
    assert (talk.scheduler.running, talk.scheduler.unfinished) == (1, 3)
    talk.tick(3e-3)
    assert talk.scheduler.running == 2
    talk.ended(0, 3)
    assert (talk.scheduler.running, talk.scheduler.unfinished) == (1, 0)
    assert talk.returned(1, {}) == []
    assert talk.scheduler.running == 0


# ---- terminate ----------------------------------------------------------------------------------


def test_terminate_cancels_what_waits_and_interrupts_what_runs() -> None:
    """A0 runs, A1 and A2 are sent behind it, B0 is ready, B1 waits."""
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 3, Graph.independent(3)))
    talk.submit(talk.program(1, 2, chain(2)))
    assert talk.terminate() == [
        "interrupt 1: c0",
        "A1 cancelled",
        "A2 cancelled",
        "B0 cancelled",
        "B1 cancelled",
        "finished B",
    ]
    assert talk.ended(0, 1, {0: INTERRUPTED}) == ["from 1, 0: A0 cancelled", "finished A"]


def test_what_comes_back_after_terminate_is_cancelled() -> None:
    """0 -> 1 -> 2 and D behind it: the worker drops 1 and 2, and gives up 0."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(1, 3, chain(3)))
    assert talk.terminate() == ["interrupt 1: c0"]
    assert talk.returned(1, {0: 2}) == ["A1 cancelled", "A2 cancelled"]
    assert talk.ended(0, 1, {0: INTERRUPTED}) == ["from 1, 0: A0 cancelled", "finished A"]
    assert talk.scheduler.running == 0


def test_both_chunks_of_a_worker_are_named() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(10, 3)) == ["send c0 to 1: A0", "send c1 to 1: A1"]
    assert talk.terminate() == ["interrupt 1: c0 c1", "A2 cancelled"]
    assert talk.returned(1, {1: 1}) == ["A1 cancelled"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A"]


def test_a_task_that_ends_before_the_interruption_reaches_it_keeps_its_result() -> None:
    """Its successors were cancelled already, and stay so."""
    talk = Dialogue(1)
    talk.submit(talk.program([1, UNKNOWN, 1], 3, chain(3)))
    assert talk.terminate() == ["interrupt 1: c0", "A1 cancelled", "A2 cancelled"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A"]


def test_a_failure_after_terminate_changes_no_end() -> None:
    talk = Dialogue(1)
    talk.submit(talk.program([1, UNKNOWN, 1], 3, chain(3)))
    talk.terminate()
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "finished A"]


def test_a_task_behind_an_interrupted_one_is_skipped_for_it() -> None:
    """The worker had begun A1 of the chain when the interruption came, and skipped it."""
    talk = Dialogue(1)
    program = talk.program(1, 2, chain(2))
    talk.submit(program)
    talk.terminate()
    assert talk.ended(0, 2, {0: INTERRUPTED, 1: skipped(0)}) == [
        "from 1, 0: A0 cancelled, A1 skipped",
        "finished A",
    ]
    assert program.doomed[1] == (program, 0)


def test_a_recall_under_way_at_terminate_is_still_answered() -> None:
    talk = with_short(1, 2)
    talk.submit(talk.program(SHORT, 3))
    assert talk.tick(3e-3) == ["recall from 1"]
    assert talk.terminate() == ["interrupt 1: c0"]
    assert talk.returned(1, {0: 2}) == ["A1 cancelled", "A2 cancelled"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A"]


def test_nobody_is_recalled_after_terminate() -> None:
    """The interruption asked back what is not started."""
    talk = with_short(1, 2)
    talk.submit(talk.program(SHORT, 3))
    talk.terminate()
    assert talk.tick(1.0) == []


def test_what_is_submitted_after_terminate_is_cancelled() -> None:
    talk = Dialogue(1)
    assert talk.terminate() == []
    assert talk.submit(talk.program(1, 2)) == ["A0 cancelled", "A1 cancelled", "finished A"]
    assert talk.submit(talk.program(1, 2, chain(2))) == [
        "B0 cancelled",
        "B1 cancelled",
        "finished B",
    ]


def test_an_empty_program_ends_after_terminate_too() -> None:
    talk = Dialogue(1)
    talk.terminate()
    assert talk.submit(talk.program(1, 0)) == ["finished A"]


def test_terminating_twice_interrupts_again_and_cancels_nothing_twice() -> None:
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 2))
    assert talk.terminate() == ["interrupt 1: c0", "A1 cancelled"]
    assert talk.terminate() == ["interrupt 1: c0"]


# ---- events that cannot be ----------------------------------------------------------------------


def test_progress_of_an_unknown_chunk() -> None:
    with pytest.raises(InternalError, match="chunk"):
        Dialogue(1).ended(7, 1)


def test_more_progress_than_the_chunk_holds() -> None:
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 2))
    with pytest.raises(InternalError, match="does not fit"):
        talk.ended(0, 2)


def test_progress_after_the_chunk_has_ended() -> None:
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 1))
    talk.ended(0, 1)
    with pytest.raises(InternalError, match="does not fit"):
        talk.ended(0, 1)


def test_more_given_back_than_is_left() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(1, 3, chain(3))) == ["send c0 to 1: A0 A1 A2"]
    talk.ended(0, 2)
    with pytest.raises(InternalError, match="does not fit"):
        talk.returned(1, {0: 2})


def test_tasks_given_back_by_a_worker_that_does_not_have_them() -> None:
    talk = Dialogue(1, 2)
    talk.submit(talk.program(1, 3, chain(3)))
    with pytest.raises(InternalError, match="does not fit"):
        talk.returned(2, {0: 1})


def test_an_answer_of_an_unknown_worker() -> None:
    with pytest.raises(InternalError, match="rank 9"):
        Dialogue(1).returned(9, {})


def test_a_program_submitted_twice() -> None:
    talk = Dialogue(1)
    program = talk.program(UNKNOWN, 2)
    talk.submit(program)
    with pytest.raises(InternalError, match="program 0"):
        talk.submit(program)
