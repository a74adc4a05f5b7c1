"""Who gets which ready task: the ready set by itself, and the scheduler's use of it."""

from __future__ import annotations

import random

import pytest

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.placement import ReadySet
from tests.support.dialogue import UNKNOWN, Dialogue

VALUE = Hazard.RAW | Hazard.VALUE

BIG = 1 << 20

# ---- the ready set ------------------------------------------------------------------------------


def test_without_levels_the_order_of_the_list_holds() -> None:
    ready = ReadySet(5)
    for index in (3, 0, 4):
        ready.push(index)
    assert (ready.count, [ready.pop(1) for _ in range(3)], ready.count) == (3, [0, 3, 4], 0)


def test_the_higher_level_comes_first_and_among_equals_the_earlier_task() -> None:
    ready = ReadySet(4, [0, 2, 1, 2])
    for index in range(4):
        ready.push(index)
    assert [ready.pop(1) for _ in range(4)] == [1, 3, 2, 0]


def test_a_fresh_set_is_a_range() -> None:
    ready = ReadySet(6, fresh=True)
    assert ready.count == 6
    assert ready.pop_range(2) == range(0, 2)
    assert (ready.peek(1), ready.pop(1), ready.peek(1)) == (2, 2, 3)
    assert ready.pop_range(9) == range(3, 6)
    assert (ready.pop_range(9), ready.count) == (range(6, 6), 0)


def test_what_came_back_goes_before_the_rest_of_the_range() -> None:
    ready = ReadySet(6, fresh=True)
    ready.pop_range(3)
    ready.push(1)
    assert ready.pop_range(2) == range(0)
    assert (ready.pop(1), ready.pop_range(2)) == (1, range(3, 5))


def test_tasks_are_kept_for_their_home() -> None:
    """2 and 3 lie on rank 7; rank 1 gets them only after all else, and then not the better one."""
    ready = ReadySet(4)
    for index, home in ((0, None), (1, None), (2, 7), (3, 7)):
        ready.push(index, home)
    assert ready.home_among({1, 7}) == 7
    assert ready.home_among({1, 2}) is None
    assert [ready.has_for(rank) for rank in (1, 7)] == [True, True]
    assert [ready.pop(7), ready.pop(1), ready.pop(1)] == [2, 0, 1]
    assert [ready.has_for(rank) for rank in (1, 7)] == [False, True]
    assert ready.pop(1) == 3
    assert [ready.has_for(rank) for rank in (1, 7)] == [False, False]
    assert ready.home_among({1, 7}) is None


def test_another_rank_takes_from_the_home_that_keeps_most() -> None:
    ready = ReadySet(4)
    for index, home in ((0, 5), (1, 6), (2, 6), (3, 6)):
        ready.push(index, home)
    assert [ready.pop(1) for _ in range(2)] == [1, 2]


def test_draining_returns_every_task_wherever_it_is_held() -> None:
    ready = ReadySet(6, fresh=True)
    ready.pop_range(4)
    ready.push(0)
    ready.push(2, home=3)
    assert sorted(ready.drain()) == [0, 2, 4, 5]
    assert (ready.count, ready.pop_range(6)) == (0, range(6, 6))
    assert (ready.has_for(3), ready.home_among({3})) == (False, None)


@pytest.mark.parametrize("seed", range(50))
def test_every_task_comes_out_once_and_in_order(seed: int) -> None:
    """Against a sorted list: own tasks first, then those of nobody, by level and place."""
    rng = random.Random(seed)
    levels = [rng.randrange(4) for _ in range(30)]
    ready = ReadySet(30, levels)
    held: dict[int | None, list[tuple[int, int]]] = {None: [], 1: [], 2: []}
    todo = list(range(30))
    rng.shuffle(todo)
    while todo or ready.count:
        if todo and rng.random() < 0.6:
            index, home = todo.pop(), rng.choice([None, None, 1, 2])
            ready.push(index, home)
            held[home].append((-levels[index], index))
        elif ready.count:
            rank = rng.choice([1, 2])
            own = held[rank] or held[None] or held[3 - rank]
            assert ready.has_for(rank) == bool(held[rank] or held[None])
            assert (-levels[ready.peek(rank)], ready.peek(rank)) == min(own)
            assert (-levels[found := ready.pop(rank)], found) == min(own)
            own.remove(min(own))
        assert ready.count == sum(map(len, held.values()))


# ---- the scheduler's use of it ------------------------------------------------------------------


def test_a_task_runs_where_its_big_argument_lies() -> None:
    """0 -VALUE-> 2, 1: worker 1 has the result of 0; worker 2, idle for longer, does not get 2."""
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(3, [(0, 2, VALUE)])
    assert talk.submit(talk.program([10, 10, 10], 3, graph)) == [
        "send c0 to 1: A0",
        "send c1 to 2: A1",
    ]
    assert talk.ended(1, 1) == ["from 2, 0: A1 done"]
    assert talk.ended(0, 1, kept={0: BIG}) == ["from 1, 0: A0 done", "send c2 to 1: A2"]


def test_a_small_argument_moves() -> None:
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(3, [(0, 2, VALUE)])
    talk.submit(talk.program([10, 10, 10], 3, graph))
    talk.ended(1, 1)
    assert talk.ended(0, 1, kept={0: 1000}) == ["from 1, 0: A0 done", "send c2 to 2: A2"]


def test_whoever_takes_no_result_as_an_argument_is_not_tied_to_it() -> None:
    """0 -RAW-> 2: what 2 reads is elsewhere, as in a file; the result of 0 does not matter."""
    talk = Dialogue(1, 2)
    talk.submit(talk.program(10, 3, Graph.from_edges(3, [(0, 2, Hazard.RAW)])))
    talk.ended(1, 1)
    assert talk.ended(0, 1, kept={0: BIG}) == ["from 1, 0: A0 done", "send c2 to 2: A2"]


def test_the_largest_of_several_arguments_decides() -> None:
    """(0, 1) -VALUE-> 2: the result on worker 1 is the larger one, though 2 reports last."""
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(3, [(0, 2, VALUE), (1, 2, VALUE)])
    talk.submit(talk.program(10, 3, graph))
    talk.ended(0, 1, kept={0: 2 * BIG})
    assert talk.ended(1, 1, kept={0: BIG}) == ["from 2, 0: A1 done", "send c2 to 1: A2"]


def test_an_idle_worker_takes_what_is_kept_for_a_busy_one() -> None:
    """0 -VALUE-> (1, 2): worker 1 has the argument, but 2 has nothing to do."""
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(3, [(0, 1, VALUE), (0, 2, VALUE)])
    assert talk.submit(talk.program(10, 3, graph)) == ["send c0 to 1: A0"]
    assert talk.ended(0, 1, kept={0: BIG}) == [
        "from 1, 0: A0 done",
        "send c1 to 1: A1",
        "send c2 to 2: A2",
    ]


def test_a_busy_worker_gets_nothing_ahead_that_is_kept_for_another() -> None:
    """0 -VALUE-> (1, 2, 3, 4, 5): worker 2, busy too, gets one of them only when it is idle."""
    talk = Dialogue(1, 2)
    graph = Graph.from_edges(6, [(0, i, VALUE) for i in range(1, 6)])
    talk.submit(talk.program(UNKNOWN, 6, graph))
    assert talk.submit(talk.program(5, 1)) == ["send c1 to 2: B0"]
    assert talk.ended(0, 1, kept={0: BIG}, seconds={UNKNOWN: (1, 1e-2)}) == [
        "from 1, 0: A0 done",
        "send c2 to 1: A1",
        "send c3 to 1: A2",
    ]
    assert talk.ended(1, 1) == ["from 2, 0: B0 done", "finished B", "send c4 to 2: A3"]


def test_a_reader_in_another_program_runs_where_its_argument_lies() -> None:
    """A0 ~> B0, and C0 that keeps nobody: worker 2 is idle for longer than 1."""
    talk = Dialogue(1, 2)
    first = talk.program(10, 1)
    talk.submit(first)
    talk.submit(talk.program(10, 1, None, [(0, first, 0)]))
    assert talk.ended(0, 1, kept={0: BIG}) == [
        "from 1, 0: A0 done",
        "finished A",
        "send c1 to 1: B0",
    ]
