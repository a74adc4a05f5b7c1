"""Chunks: what is cut from a graph, in which order, and how its ends are counted.

Functions are numbered by their milliseconds; 0 was never measured.
"""

from __future__ import annotations

import random

import pytest

from alamo_mpi.core.chunk import LONGEST_S, MOST_TASKS, SHORTEST_S, Chunk
from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State

RAW, WAR, WAW = Hazard.RAW, Hazard.WAR, Hazard.WAW

UNKNOWN = 0

Edges = list[tuple[int, int, int]]


def measured() -> Durations:
    durations = Durations()
    for kind in (1, 2, 5, 10):
        durations.observe(kind, 1, kind * 1e-3)
    return durations


def opened(kinds: int | list[int], ntasks: int, edges: Edges, nnodes: int | None = None) -> Program:
    """Return a program whose tasks without predecessors are ready."""
    program = Program(0, kinds, ntasks, Graph.from_edges(ntasks, edges, nnodes))
    for index in range(ntasks):
        if not program.waiting[index]:
            program.states[index] = State.READY
            program.ready.push(index)
    return program


def cut(program: Program, budget_s: float) -> Chunk:
    chunk = Chunk(0, 1)
    chunk.take(program, measured(), budget_s)
    return chunk


def tasks(chunk: Chunk) -> list[int]:
    return [index for _, indices, _ in chunk.span(0, chunk.size) for index in indices]


# ---- cutting ------------------------------------------------------------------------------------


def test_independent_tasks_of_one_function_are_cut_by_arithmetic() -> None:
    program = Program(0, 1, 100)
    chunk = cut(program, 7.5e-3)
    assert chunk.parts == [(program, range(7))]
    assert chunk.expected == pytest.approx(7e-3)
    assert program.ready.count == 93
    assert program.states.count(State.RUNNING) == 7


def test_there_is_a_task_in_every_chunk_however_long_it_is() -> None:
    assert tasks(cut(Program(0, 10, 3), SHORTEST_S)) == [0]
    assert tasks(cut(opened([10] * 3, 3, []), SHORTEST_S)) == [0]


def test_a_message_holds_so_many_tasks_at_most() -> None:
    durations = Durations()
    durations.observe(1, 1000, 0.0)
    for program in (
        Program(0, 1, 2 * MOST_TASKS),
        Program(0, [1] * 2 * MOST_TASKS, 2 * MOST_TASKS),
    ):
        chunk = Chunk(0, 1)
        chunk.take(program, durations, 1.0)
        assert chunk.size == MOST_TASKS
        assert chunk.full(1.0)


@pytest.mark.parametrize("kinds", [UNKNOWN, [UNKNOWN] * 4])
def test_a_function_never_measured_fills_a_chunk_by_itself(kinds: int | list[int]) -> None:
    chunk = cut(Program(0, kinds, 4), LONGEST_S)
    assert tasks(chunk) == [0]
    assert chunk.full(LONGEST_S)


def test_a_function_never_measured_does_not_join_others() -> None:
    """1 ms, 1 ms, unknown, 1 ms: the unknown one stays ready, at its place."""
    program = Program(0, [1, 1, UNKNOWN, 1], 4)
    assert tasks(cut(program, LONGEST_S)) == [0, 1]
    assert program.states[2] == State.READY
    assert program.ready.pop(1) == 2


def test_nor_those_of_another_program() -> None:
    chunk = Chunk(0, 1)
    chunk.take(Program(0, 1, 1), measured(), LONGEST_S)
    second = opened([UNKNOWN], 1, [])
    chunk.take(second, measured(), LONGEST_S)
    assert (chunk.size, second.ready.count, second.states[0]) == (1, 1, State.READY)


def test_an_unmeasured_successor_does_not_stop_its_sisters() -> None:
    """0 -> 1 (never measured), 0 -> 2."""
    program = opened([1, UNKNOWN, 1], 3, [(0, 1, RAW), (0, 2, RAW)])
    assert tasks(cut(program, LONGEST_S)) == [0, 2]
    assert program.states[1] == State.WAITING


def test_a_chain_is_taken_beyond_the_budget_up_to_the_longest() -> None:
    """0 -> 1 -> ... -> 19, 1 ms each; the chain has nowhere else to go."""
    program = opened(1, 20, [(i, i + 1, RAW) for i in range(19)])
    chunk = cut(program, SHORTEST_S)
    assert tasks(chunk) == list(range(10))
    assert chunk.expected == pytest.approx(LONGEST_S)
    assert [program.states[index] for index in (9, 10)] == [State.RUNNING, State.WAITING]


def test_side_branches_are_left_to_others_unless_the_budget_has_room() -> None:
    """0 -> 1, 0 -> 2, 0 -> 3."""
    edges: Edges = [(0, i, RAW) for i in (1, 2, 3)]
    assert tasks(cut(opened(1, 4, edges), SHORTEST_S)) == [0, 1]
    assert tasks(cut(opened(1, 4, edges), 3e-3)) == [0, 1, 3]


def test_a_task_goes_along_when_all_its_predecessors_do() -> None:
    """0 -> (1, 2) -> 3: with room for all, 3 comes after both."""
    edges: Edges = [(0, 1, RAW), (0, 2, RAW), (1, 3, RAW), (2, 3, WAR)]
    chunk = cut(opened(1, 4, edges), LONGEST_S)
    assert tasks(chunk) == [0, 1, 2, 3]
    assert chunk.needs == {1: (0,), 2: (0,), 3: (1,)}


def test_a_task_with_a_predecessor_elsewhere_stays() -> None:
    """(0, 1) -> 2, and 1 runs on another worker."""
    program = opened(1, 3, [(0, 2, RAW), (1, 2, RAW)])
    assert tasks(cut(program, SHORTEST_S)) == [0]
    assert tasks(cut(program, SHORTEST_S)) == [1]
    assert program.states[2] == State.WAITING


def test_a_doomed_task_stays() -> None:
    """0 -WAW-> 1, and 1 reads from a task that has failed."""
    program = opened(1, 2, [(0, 1, WAW)])
    program.doomed[1] = (program, 0)
    assert tasks(cut(program, LONGEST_S)) == [0]


def test_what_is_behind_a_join_node_stays() -> None:
    """0 -> join 2 -> 1: only the scheduler settles join nodes."""
    program = opened(1, 2, [(0, 2, RAW), (2, 1, RAW)], nnodes=3)
    assert tasks(cut(program, LONGEST_S)) == [0]


def test_needs_are_positions_and_only_of_raw() -> None:
    """0 -WAR-> 1 -RAW-> 2, behind another program's task: positions count from its front."""
    chunk = Chunk(0, 1)
    chunk.take(Program(7, 1, 1), measured(), LONGEST_S)
    chunk.take(opened(1, 3, [(0, 1, WAR), (1, 2, RAW)]), measured(), LONGEST_S)
    assert tasks(chunk) == [0, 0, 1, 2]
    assert chunk.needs == {3: (2,)}


def test_a_task_kept_for_another_rank_does_not_fill_up_a_chunk() -> None:
    program = opened(1, 3, [(0, 2, RAW)])
    program.ready.drain()
    program.ready.push(0)
    program.ready.push(1, home=9)
    assert tasks(cut(program, LONGEST_S)) == [0, 2]
    assert tasks(cut(program, LONGEST_S)) == [1]


# ---- ends ---------------------------------------------------------------------------------------


def three_parts() -> tuple[Chunk, list[Program]]:
    """Positions 0-2: program 0; 3-4: program 1; 5-8: program 2."""
    chunk = Chunk(0, 1)
    programs = [Program(pid, 1, ntasks) for pid, ntasks in enumerate((3, 2, 4))]
    for program in programs:
        chunk.take(program, measured(), 1.0)
    return chunk, programs


def test_progress_is_told_by_program_with_offsets_from_its_own_start() -> None:
    chunk, (first, second, third) = three_parts()
    assert list(chunk.advance(2)) == [(first, range(2), 0)]
    assert list(chunk.advance(4)) == [
        (first, range(2, 3), 0),
        (second, range(2), 1),
        (third, range(1), 3),
    ]
    assert list(chunk.advance(3)) == [(third, range(1, 4), 0)]
    assert (chunk.done, chunk.size) == (9, 9)


def test_a_tail_is_cut_off_and_the_rest_keeps_its_positions() -> None:
    chunk, (first, second, third) = three_parts()
    list(chunk.advance(1))
    assert chunk.cut_tail(5) == [(second, range(1, 2)), (third, range(4))]
    assert (chunk.done, chunk.size) == (1, 4)
    assert chunk.expected == pytest.approx(4e-3)
    assert [chunk.at(position) for position in range(4)] == [
        (first, 0),
        (first, 1),
        (first, 2),
        (second, 0),
    ]
    with pytest.raises(IndexError):
        chunk.at(4)


def test_returned_tasks_make_one_part() -> None:
    """Tasks 1 and 3 came back; they go first, and together."""
    program = Program(0, 1, 6)
    program.ready.pop_range(4)
    program.ready.push(3)
    program.ready.push(1)
    assert cut(program, 3e-3).parts == [(program, [1, 3]), (program, range(4, 5))]


@pytest.mark.parametrize("seed", range(100))
def test_a_chunk_can_be_run_from_left_to_right(seed: int) -> None:
    """Random graphs cut until nothing is left, each chunk ended before the next is cut."""
    rng = random.Random(seed)
    ntasks = rng.randint(1, 30)
    edges: Edges = []
    for _ in range(rng.randint(0, 60) if ntasks > 1 else 0):
        source, target = sorted(rng.sample(range(ntasks), 2))
        edges.append((source, target, rng.choice([RAW, WAR, WAW, RAW | WAR])))
    program = opened([rng.choice([UNKNOWN, 1, 2, 5]) for _ in range(ntasks)], ntasks, edges)
    before: list[set[int]] = [set() for _ in range(ntasks)]
    reads: list[set[int]] = [set() for _ in range(ntasks)]
    for source, target, hazard in edges:
        before[target].add(source)
        if hazard & RAW:
            reads[target].add(source)
    over: set[int] = set()
    while len(over) < ntasks:
        chunk = cut(program, rng.choice([SHORTEST_S, 3e-3, LONGEST_S]))
        order = tasks(chunk)
        for position, index in enumerate(order):
            assert before[index] <= over, (order, index)
            over.add(index)
            here = {order[need] for need in chunk.needs.get(position, ())}
            assert here == reads[index] & set(order)
        assert len(set(order)) == len(order)
        end(program, order)


def end(program: Program, order: list[int]) -> None:
    """Mark tasks as done, and open what waited for them."""
    assert program.graph is not None
    for index in order:
        program.states[index] = State.DONE
        for successor in program.graph.successors(index):
            program.waiting[successor] -= 1
    for successor in range(program.ntasks):
        if program.states[successor] == State.WAITING and not program.waiting[successor]:
            program.states[successor] = State.READY
            program.ready.push(successor)
