"""The scheduler: one event in, the exact list of commands out, invariants held after each.

Functions are numbered by the milliseconds that they take; `UNKNOWN` was never measured.
"""

from __future__ import annotations

import pytest

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from tests.support.dialogue import RAISED, UNKNOWN, Dialogue, skipped

RAW, WAR, WAW = Hazard.RAW, Hazard.WAR, Hazard.WAW


def chain(ntasks: int, hazard: int = RAW) -> Graph:
    """0 -> 1 -> 2 -> ..."""
    return Graph.from_edges(ntasks, [(i, i + 1, hazard) for i in range(ntasks - 1)])


def diamond() -> Graph:
    r"""::

          0
         / \
        1   2
         \ /
          3
    """
    return Graph.from_edges(4, [(0, 1, RAW), (0, 2, RAW), (1, 3, RAW), (2, 3, RAW)])


def through_a_join(hazard: int) -> Graph:
    """(0, 1) -> join 4 -> (2, 3): each of the later two comes after both of the first."""
    edges = [(0, 4, hazard), (1, 4, hazard), (4, 2, hazard), (4, 3, hazard)]
    return Graph.from_edges(4, edges, nnodes=5)


# ---- independent tasks --------------------------------------------------------------------------


def test_a_function_never_measured_travels_alone() -> None:
    """One task to each worker, and none behind it, until the first has told how long it takes."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(UNKNOWN, 6)) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(0, 1, seconds={UNKNOWN: (1, 1e-4)}) == [
        "from 1, 0: A0 done",
        "send c2 to 1: A2 A3 A4 A5",
    ]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done"]
    assert talk.ended(2, 4) == ["from 1, 0: A2 done, A3 done, A4 done, A5 done", "finished A"]


def test_long_tasks_go_out_one_by_one_and_the_last_wait_for_whoever_is_idle_first() -> None:
    """Tasks of 10 ms: one a chunk; a second chunk only while there are more than workers."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(10, 5)) == [
        "send c0 to 1: A0",
        "send c1 to 2: A1",
        "send c2 to 1: A2",
    ]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done", "send c3 to 2: A3"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.ended(2, 1) == ["from 1, 0: A2 done", "send c4 to 1: A4"]
    assert talk.ended(4, 1) == ["from 1, 0: A4 done"]
    assert talk.ended(3, 1) == ["from 2, 0: A3 done", "finished A"]


def test_nothing_is_sent_ahead_behind_a_very_long_task() -> None:
    """Tasks of 50 ms: whoever is idle first gets the next, however many there are."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(UNKNOWN, 9))
    assert talk.ended(0, 1, seconds={UNKNOWN: (1, 0.05)}) == [
        "from 1, 0: A0 done",
        "send c2 to 1: A2",
    ]
    assert talk.ended(2, 1) == ["from 1, 0: A2 done", "send c3 to 1: A3"]


def test_chunks_shrink_towards_the_end() -> None:
    """24 tasks of 1 ms on 2 workers: each chunk is a quarter of what is left."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 24)) == [
        "send c0 to 1: A0 A1 A2 A3 A4 A5",
        "send c1 to 2: A6 A7 A8 A9",
        "send c2 to 1: A10 A11 A12",
        "send c3 to 2: A13 A14",
    ]


def test_chunks_are_cut_by_the_function_that_is_next() -> None:
    """One task of 10 ms before 12 of 1 ms: these are shared out as if the first were not there."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program([10] + [1] * 12, 13))[:2] == [
        "send c0 to 1: A0",
        "send c1 to 2: A1 A2 A3",
    ]


def test_partial_progress_counts_from_the_last_message() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(1, 3)) == [
        "send c0 to 1: A0",
        "send c1 to 1: A1",
    ]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c2 to 1: A2"]
    talk = Dialogue(1)
    assert talk.submit(talk.program(1, 8))[0] == "send c0 to 1: A0 A1 A2 A3"
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.ended(0, 2, {1: RAISED}) == ["from 1, 0: A1 done, A2 failed"]


def test_a_failure_among_independent_tasks_concerns_no_other() -> None:
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 2))
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed", "send c1 to 1: A1"]
    assert talk.ended(1, 1) == ["from 1, 0: A1 done", "finished A"]


def test_a_program_without_tasks_is_finished_at_once() -> None:
    talk = Dialogue(1)
    assert talk.submit(talk.program(1, 0)) == ["finished A"]
    assert talk.submit(talk.program([], 0, Graph.independent(0))) == ["finished B"]


# ---- graphs -------------------------------------------------------------------------------------


def test_a_chain_travels_as_one_chunk() -> None:
    """0 -> 1 -> 2: nobody else could run 1 or 2 before the chunk reports."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 3, chain(3))) == ["send c0 to 1: A0 A1 A2"]
    assert talk.needs[0] == {1: (0,), 2: (1,)}
    assert talk.ended(0, 2) == ["from 1, 0: A0 done, A1 done"]
    assert talk.ended(0, 1) == ["from 1, 0: A2 done", "finished A"]


def test_a_chain_of_long_tasks_is_cut_by_time() -> None:
    """Tasks of 5 ms: the chunk takes two, the rest waits for their end."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(5, 3, chain(3))) == ["send c0 to 1: A0 A1"]
    assert talk.ended(0, 2) == ["from 1, 0: A0 done, A1 done", "send c1 to 1: A2"]


def test_an_unmeasured_successor_stays_behind() -> None:
    """0 (1 ms) -> 1 (never measured)."""
    talk = Dialogue(1)
    assert talk.submit(talk.program([1, UNKNOWN], 2, chain(2))) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 1: A1"]


def test_a_diamond_is_shared_once_its_top_is_done() -> None:
    """0 -> (1, 2) -> 3: the chain 0 -> 1 goes along; 2 is for the other worker, 3 after both."""
    talk = Dialogue(1, 2)
    assert talk.submit(talk.program(1, 4, diamond())) == ["send c0 to 1: A0 A1"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c1 to 2: A2"]
    assert talk.ended(1, 1) == ["from 2, 0: A2 done"]
    assert talk.ended(0, 1) == ["from 1, 0: A1 done", "send c2 to 1: A3"]
    assert talk.ended(2, 1) == ["from 1, 0: A3 done", "finished A"]


def test_readers_of_what_stays_in_a_workers_memory_go_there() -> None:
    """0 -> 2 and 1 -> 3, written into the memory of whoever runs 0 and 1; 10 ms each."""
    talk = Dialogue(1, 2)
    program = talk.program(10, 4, Graph.from_edges(4, [(0, 3, RAW), (1, 2, RAW)]))
    program.resident = True
    assert talk.submit(program) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert program.home(3) is None
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c2 to 1: A3"]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done", "send c3 to 2: A2"]
    assert (program.home(3), program.home(2)) == (1, 2)


def test_fork_and_join_through_a_join_node() -> None:
    """(0, 1) -> join -> (2, 3): the join node is settled here and never sent."""
    talk = Dialogue(1, 2)
    program = talk.program(10, 4, through_a_join(RAW))
    assert talk.submit(program) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done"]
    assert talk.ended(1, 1) == [
        "from 2, 0: A1 done",
        "send c2 to 2: A2",
        "send c3 to 1: A3",
    ]


def test_the_longest_way_to_an_exit_goes_first() -> None:
    """0, 1, 2 -> 3 -> 4 (10 ms each): 2 has two tasks behind it, so it goes before 0 and 1."""
    talk = Dialogue(1)
    graph = Graph.from_edges(5, [(2, 3, RAW), (3, 4, RAW)])
    assert talk.submit(talk.program(10, 5, graph)) == ["send c0 to 1: A2", "send c1 to 1: A0"]
    assert talk.ended(0, 1) == ["from 1, 0: A2 done", "send c2 to 1: A3"]


def test_programs_are_served_in_the_order_of_submission() -> None:
    """A chain that opens its tasks late still comes before a younger program."""
    talk = Dialogue(1)
    assert talk.submit(talk.program(10, 2, chain(2))) == ["send c0 to 1: A0"]
    assert talk.submit(talk.program(10, 3)) == ["send c1 to 1: B0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "send c2 to 1: A1"]
    assert talk.ended(1, 1) == ["from 1, 0: B0 done", "send c3 to 1: B1"]
    assert talk.ended(2, 1) == ["from 1, 0: A1 done", "finished A"]


def test_small_programs_share_a_chunk() -> None:
    """Tasks started one by one, each a program, travel together when they are short."""
    talk = Dialogue(1)
    talk.submit(talk.program(UNKNOWN, 1))
    for _ in range(5):
        assert talk.submit(talk.program(1, 1)) == []
    assert talk.ended(0, 1) == [
        "from 1, 0: A0 done",
        "finished A",
        "send c1 to 1: B0 C0",
        "send c2 to 1: D0",
    ]
    assert talk.ended(1, 2) == [
        "from 1, 0: B0 done",
        "from 1, 1: C0 done",
        "finished B",
        "finished C",
        "send c3 to 1: E0",
    ]


# ---- failure ------------------------------------------------------------------------------------


def test_whoever_reads_from_a_failed_task_is_skipped_and_whoever_overwrites_is_not() -> None:
    r"""::

        0 (fails)
    RAW/ |WAR \WAW
      1  2    3
    """
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(4, [(0, 1, RAW), (0, 2, WAR), (0, 3, WAW)])
    assert talk.submit(talk.program(10, 4, graph)) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1, {0: RAISED}) == [
        "from 1, 0: A0 failed",
        "A1 skipped for A0",
        "send c1 to 1: A2",
        "send c2 to 2: A3",
    ]


def test_skipping_goes_on_through_raw_to_the_root() -> None:
    """0 (fails) -RAW-> 1 -RAW-> 2 -WAR-> 3: both readers name task 0; 3 runs."""
    talk = Dialogue(1)
    graph = Graph.from_edges(4, [(0, 1, RAW), (1, 2, RAW), (2, 3, WAR)])
    assert talk.submit(talk.program(10, 4, graph)) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1, {0: RAISED}) == [
        "from 1, 0: A0 failed",
        "A1 skipped for A0",
        "A2 skipped for A0",
        "send c1 to 1: A3",
    ]


def test_a_doomed_task_is_settled_only_when_all_its_predecessors_are_final() -> None:
    r"""::

        0 (fails)   1
            \RAW   /WAW
              2
              |WAW
              3

    Task 3 must stay behind 1, which writes what it writes, so 2 must not be settled before 1.
    """
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(4, [(0, 2, RAW), (1, 2, WAW), (2, 3, WAW)])
    assert talk.submit(talk.program(10, 4, graph)) == ["send c0 to 1: A0", "send c1 to 2: A1"]
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.ended(1, 1) == [
        "from 2, 0: A1 done",
        "A2 skipped for A0",
        "send c2 to 2: A3",
    ]


@pytest.mark.parametrize("hazard", [WAR, WAW])
def test_a_join_node_of_mere_order_passes_no_failure_on(hazard: int) -> None:
    """(0 fails, 1) -> join -> (2, 3)."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(10, 4, through_a_join(hazard)))
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done", "send c2 to 2: A2", "send c3 to 1: A3"]


def test_a_join_node_of_reads_passes_failure_on_when_all_before_it_are_final() -> None:
    """(0 fails, 1) -> join -> (2, 3)."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(10, 4, through_a_join(RAW)))
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.ended(1, 1) == [
        "from 2, 0: A1 done",
        "A2 skipped for A0",
        "A3 skipped for A0",
        "finished A",
    ]


def test_a_failure_inside_a_chunk_is_told_by_positions() -> None:
    """0 -> 1 (fails) -> 2, one chunk: the worker skips 2 and says that position 1 is the root."""
    talk = Dialogue(1)
    program = talk.program(1, 3, chain(3))
    assert talk.submit(program) == ["send c0 to 1: A0 A1 A2"]
    assert talk.ended(0, 3, {1: RAISED, 2: skipped(1)}) == [
        "from 1, 0: A0 done, A1 failed, A2 skipped",
        "finished A",
    ]
    assert program.doomed[2] == (program, 1)


def test_the_root_of_a_skipped_task_may_be_in_an_earlier_report() -> None:
    """0 (fails) -> 1 -> 2 with a report each; behind them, in the next chunk's place, 3."""
    talk = Dialogue(1)
    program = talk.program([1, 1, 1, 10], 4, chain(4))
    assert talk.submit(program) == ["send c0 to 1: A0 A1 A2 A3"]
    assert talk.ended(0, 1, {0: RAISED}) == ["from 1, 0: A0 failed"]
    assert talk.ended(0, 1, {0: skipped(0)}) == ["from 1, 0: A1 skipped"]
    assert talk.ended(0, 2, {0: skipped(0), 1: skipped(0)}) == [
        "from 1, 0: A2 skipped, A3 skipped",
        "finished A",
    ]
    assert [program.doomed[index][1] for index in (1, 2, 3)] == [0, 0, 0]


def test_a_skip_inside_a_chunk_dooms_readers_outside_of_it() -> None:
    """0 (fails) -> 1 -> 2 (5 ms each): 2 is not in the chunk, and is skipped here."""
    talk = Dialogue(1)
    assert talk.submit(talk.program(5, 3, chain(3))) == ["send c0 to 1: A0 A1"]
    assert talk.ended(0, 2, {0: RAISED, 1: skipped(0)}) == [
        "from 1, 0: A0 failed, A1 skipped",
        "A2 skipped for A0",
        "finished A",
    ]


# ---- results of earlier programs ----------------------------------------------------------------


def test_an_argument_from_a_program_under_way_is_waited_for() -> None:
    """A0 ~> B1, and B0 that waits for nobody."""
    talk = Dialogue(1, 2)
    first = talk.program(10, 1)
    talk.submit(first)
    assert talk.submit(talk.program(10, 2, None, [(1, first, 0)])) == ["send c1 to 2: B0"]
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A", "send c2 to 1: B1"]


def test_an_argument_that_is_there_already_is_not_waited_for() -> None:
    talk = Dialogue(1)
    first = talk.program(10, 1)
    talk.submit(first)
    talk.ended(0, 1)
    assert talk.submit(talk.program(10, 1, None, [(0, first, 0)])) == ["send c1 to 1: B0"]


def test_the_same_argument_twice_counts_twice() -> None:
    talk = Dialogue(1)
    first = talk.program(10, 1)
    talk.submit(first)
    assert talk.submit(talk.program(10, 1, None, [(0, first, 0), (0, first, 0)])) == []
    assert talk.ended(0, 1) == ["from 1, 0: A0 done", "finished A", "send c1 to 1: B0"]


def test_failure_of_an_argument_under_way_skips_its_readers() -> None:
    """A0 (fails) ~> B0 -RAW-> B1."""
    talk = Dialogue(1)
    first = talk.program(10, 1)
    talk.submit(first)
    assert talk.submit(talk.program(10, 2, chain(2), [(0, first, 0)])) == []
    assert talk.ended(0, 1, {0: RAISED}) == [
        "from 1, 0: A0 failed",
        "B0 skipped for A0",
        "B1 skipped for A0",
        "finished A",
        "finished B",
    ]


def test_an_argument_that_failed_or_was_skipped_names_its_root() -> None:
    """A0 (fails) -RAW-> A1; later A0 ~> B0 and A1 ~> C0."""
    talk = Dialogue(1)
    first = talk.program(10, 2, chain(2))
    talk.submit(first)
    assert talk.ended(0, 1, {0: RAISED})[1:] == ["A1 skipped for A0", "finished A"]
    for name, source in (("B", 0), ("C", 1)):
        assert talk.submit(talk.program(10, 1, None, [(0, first, source)])) == [
            f"{name}0 skipped for A0",
            f"finished {name}",
        ]


def test_a_task_skipped_at_submission_opens_the_next_ones_once() -> None:
    """A0 (failed) ~> B0 -WAR-> B1 -WAW-> B2: task B1 is opened by B0, not a second time."""
    talk = Dialogue(1)
    first = talk.program(10, 1)
    talk.submit(first)
    talk.ended(0, 1, {0: RAISED})
    graph = Graph.from_edges(3, [(0, 1, WAR), (1, 2, WAW)])
    assert talk.submit(talk.program(10, 3, graph, [(0, first, 0)])) == [
        "B0 skipped for A0",
        "send c1 to 1: B1",
    ]
    assert talk.ended(1, 1) == ["from 1, 0: B1 done", "send c2 to 1: B2"]
