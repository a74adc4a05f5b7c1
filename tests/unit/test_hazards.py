"""Dependency inference: small cases by hand, random ones against the definition."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alamo_mpi.core.access import (
    CommunicationDomain,
    CommunicationObject,
    DataAccess,
    read,
    write,
)
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.inference import explain, infer
from tests.support import oracle
from tests.support.oracle import Step

RAW, WAR, WAW, RAR, VALUE = Hazard.RAW, Hazard.WAR, Hazard.WAW, Hazard.RAR, Hazard.VALUE

USUAL = CommunicationDomain()
BOARD = CommunicationObject(USUAL, "board")
DOMAINS = [CommunicationDomain(*flags) for flags in itertools.product((False, True), repeat=4)]


def edges(accesses, values=()):
    graph = infer(accesses, values)
    graph.check()
    return {(source, target): hazard for source, target, hazard in graph.edges()}


# ---- one resource -------------------------------------------------------------------------------


def test_read_after_write():
    """w0 -> r1, w0 -> r2: both readers hang on the writer, and not on each other."""
    found = edges([[write(BOARD, 1)], [read(BOARD, 1)], [read(BOARD, 1)]])
    assert found == {(0, 1): RAW, (0, 2): RAW}


def test_write_after_reads():
    """r0 -> w2 <- r1: the write comes after both readers."""
    found = edges([[read(BOARD, 1)], [read(BOARD, 1)], [write(BOARD, 1)]])
    assert found == {(0, 2): WAR, (1, 2): WAR}


def test_write_after_write():
    """w0 -> w1 -> r2: only the last writer's data is read."""
    found = edges([[write(BOARD, 1)], [write(BOARD, 1)], [read(BOARD, 1)]])
    assert found == {(0, 1): WAW, (1, 2): RAW}


def test_write_after_write_through_a_reader():
    """w0 -> r1 -> w2: the path through the reader makes an edge w0 -> w2 superfluous."""
    found = edges([[write(BOARD, 1)], [read(BOARD, 1)], [write(BOARD, 1)]])
    assert found == {(0, 1): RAW, (1, 2): WAR}


def test_update_in_place_unites_hazards_and_has_no_edge_to_itself():
    """rw0 -> rw1 -> rw2: one edge for each pair, with the flags of both hazards."""
    update = [read(BOARD, 1), write(BOARD, 1)]
    expected = {(0, 1): RAW | WAW, (1, 2): RAW | WAW}
    assert edges([update] * 3) == expected
    assert edges([update[::-1]] * 3) == expected


def test_order_of_a_tasks_own_accesses_does_not_matter():
    """w0 -> w1+r1: the task reads what was there before it writes."""
    for own in itertools.permutations([read(BOARD, 1), write(BOARD, 1), read(BOARD, 1)]):
        assert edges([[write(BOARD, 1)], list(own)]) == {(0, 1): RAW | WAW}


def test_different_channels_do_not_conflict():
    assert edges([[write(BOARD, 1)], [write(BOARD, 2)], [read(BOARD, 3)]]) == {}


def test_several_channels_in_one_access():
    """w0(1), w1(2) -> r2(1, 2)."""
    found = edges([[write(BOARD, 1)], [write(BOARD, 2)], [read(BOARD, 1, 2)]])
    assert found == {(0, 2): RAW, (1, 2): RAW}


def test_objects_of_other_domain_or_kind_are_other_objects():
    other = CommunicationObject(CommunicationDomain(waw=False), "board")
    path = Path("board")
    accesses = [[write(BOARD, "x")], [write(other, "x")], [write(path, "x")], [write(path / "x")]]
    assert edges(accesses) == {(2, 3): WAW}


def test_equal_objects_are_one_object():
    twin = CommunicationObject(CommunicationDomain(), "board")
    assert edges([[write(BOARD, 1)], [read(twin, 1)]]) == {(0, 1): RAW}


# ---- domains ------------------------------------------------------------------------------------


def test_accumulation_is_read_after_all_writes():
    """w0, w1, w2 -> r3: without WAW the writes run in any order, and the reader needs them all."""
    adds = CommunicationObject(CommunicationDomain(waw=False), "sum")
    found = edges([[write(adds, 1)], [write(adds, 1)], [write(adds, 1)], [read(adds, 1)]])
    assert found == {(0, 3): RAW, (1, 3): RAW, (2, 3): RAW}


def test_second_reader_of_an_accumulation_goes_through_a_join():
    """w0, w1 -> r2; (w0, w1) -> j4 -> r3: the product of edges is never made."""
    adds = CommunicationObject(CommunicationDomain(waw=False), "sum")
    found = edges([[write(adds, 1)], [write(adds, 1)], [read(adds, 1)], [read(adds, 1)]])
    assert found == {(0, 2): RAW, (1, 2): RAW, (0, 4): RAW, (1, 4): RAW, (4, 3): RAW}


def test_ordered_reads():
    """r0 -> r1 -> w2: with RAR the last reader stands for all."""
    stream = CommunicationObject(CommunicationDomain(rar=True), "stream")
    found = edges([[read(stream, 1)], [read(stream, 1)], [write(stream, 1)]])
    assert found == {(0, 1): RAR, (1, 2): WAR}


def test_domain_that_orders_nothing():
    free = CommunicationObject(CommunicationDomain(False, False, False, False), "free")
    assert edges([[write(free)], [read(free, 1)], [write(free, 1)], [read(free)]]) == {}


# ---- whole objects ------------------------------------------------------------------------------


def test_whole_object_read_sees_the_last_writer_of_each_channel():
    """w0(a) -> w1(a) -> r3, w2(b) -> r3: the overwritten w0 is no RAW predecessor."""
    found = edges([[write(BOARD, "a")], [write(BOARD, "a")], [write(BOARD, "b")], [read(BOARD)]])
    assert found == {(0, 1): WAW, (1, 3): RAW, (2, 3): RAW}


def test_whole_object_write_covers_every_channel():
    """w0(a) -> W1 -> r2(a), W1 -> r3(b): the channels' earlier writers are forgotten."""
    found = edges([[write(BOARD, "a")], [write(BOARD)], [read(BOARD, "a")], [read(BOARD, "b")]])
    assert found == {(0, 1): WAW, (1, 2): RAW, (1, 3): RAW}


def test_channel_written_after_the_whole_object():
    """W0 -> w1(a) -> r2(a); r3 reads all: from W0 and from w1."""
    found = edges([[write(BOARD)], [write(BOARD, "a")], [read(BOARD, "a")], [read(BOARD)]])
    assert found == {(0, 1): WAW, (1, 2): RAW, (0, 3): RAW, (1, 3): RAW}


def test_whole_write_also_covers_what_a_join_node_took():
    """w0(a), w1(b) -> R2, -> join -> R3; W4; w5(a), w6(b) -> R7, -> join -> R8: R8 sees 4, 5, 6."""
    round_trip = [[write(BOARD, "a")], [write(BOARD, "b")], [read(BOARD)], [read(BOARD)]]
    graph = infer([*round_trip, [write(BOARD)], *round_trip])
    graph.check()
    assert graph.nnodes > graph.ntasks
    assert oracle.raw_predecessors(graph, 3) == {0, 1}
    assert oracle.raw_predecessors(graph, 8) == {4, 5, 6}


def test_join_node_keeps_a_writer_that_is_overwritten_later():
    """w0(a), w1(b) -> R2, R3; w4(a) -> R5: the join of w0 and w1, made for R3, serves R5 too."""
    accesses = [[write(BOARD, "a")], [write(BOARD, "b")], [read(BOARD)], [read(BOARD)]]
    graph = infer([*accesses, [write(BOARD, "a")], [read(BOARD)]])
    assert oracle.raw_predecessors(graph, 5) == {0, 1, 4}


def test_directory_covers_files_at_any_depth(tmp_path):
    """w0(d/s/f) -> r1(d), -> r2(d/s); r3(other) is free."""
    accesses = [
        [write(tmp_path / "d" / "s", "f")],
        [read(tmp_path / "d")],
        [read(tmp_path, "d/s")],
        [read(tmp_path / "other")],
    ]
    assert edges(accesses) == {(0, 1): RAW, (0, 2): RAW}


def test_root_directory_covers_everything():
    """W0(/) -> r1(/etc/x) -> W2(/)."""
    found = edges([[write(Path("/"))], [read(Path("/etc/x"))], [write(Path("/"))]])
    assert found == {(0, 1): RAW, (1, 2): WAR, (0, 2): WAW}


# ---- values -------------------------------------------------------------------------------------


def test_value_is_a_raw_edge_with_a_flag_of_its_own():
    found = edges([[write(BOARD, 1)], [read(BOARD, 1)], []], [(0, 2), (0, 1)])
    assert found == {(0, 1): RAW | VALUE, (0, 2): RAW | VALUE}


def test_value_alone():
    assert edges([[], [], []], [(0, 2), (1, 2), (0, 2)]) == {
        (0, 2): RAW | VALUE,
        (1, 2): RAW | VALUE,
    }


@pytest.mark.parametrize("pair", [(1, 0), (1, 1)])
def test_value_from_a_later_task_is_refused(pair):
    with pytest.raises(ValueError, match="reorder the list"):
        infer([[], []], [pair])


@pytest.mark.parametrize("pair", [(0, 2), (-1, 1)])
def test_value_outside_the_list_is_refused(pair):
    with pytest.raises(IndexError, match="not a pair of the 2 tasks"):
        infer([[], []], [pair])


def test_tasks_without_accesses_are_independent():
    graph = infer([[]] * 1000)
    graph.check()
    assert (graph.ntasks, graph.nnodes, graph.nedges) == (1000, 1000, 0)


# ---- explanations -------------------------------------------------------------------------------


def test_explain_names_the_channel_and_the_hazard(tmp_path):
    accesses = [
        [write(tmp_path, "a"), write(BOARD, 7)],
        [read(tmp_path, Path("a"))],
        [write(BOARD, 7)],
        [read(tmp_path)],
        [write(tmp_path, "a")],
    ]
    graph = infer(accesses, [(1, 2)])
    assert explain(graph, accesses, 0, 1) == f"it reads {tmp_path}/a (RAW)"
    assert (
        explain(graph, accesses, 0, 2)
        == "it writes channel 7 of communication object 'board' (WAW)"
    )
    assert explain(graph, accesses, 0, 3) == f"it reads {tmp_path} (RAW)"
    assert explain(graph, accesses, 1, 4) == f"it writes {tmp_path}/a (WAR)"
    assert explain(graph, accesses, 1, 2) == "it takes the result of task 1 as an argument (RAW)"
    assert explain(graph, accesses, 1, 3) is None


def test_explain_sees_through_join_nodes():
    adds = CommunicationObject(CommunicationDomain(waw=False), "sum")
    accesses = [[write(adds)], [write(adds)], [read(adds)], [read(adds)]]
    graph = infer(accesses)
    assert graph.nnodes > graph.ntasks
    assert explain(graph, accesses, 1, 3) == "it reads communication object 'sum' (RAW)"


# ---- random programs ----------------------------------------------------------------------------

#: A directory tree as the user sees it: (), two channels, and what lies below the first of them.
CELLS = [(), ("a",), ("b",), ("a", "x"), ("a", "y"), ("a", "x", "p")]
LEAVES = [("a", "x", "p"), ("a", "x", ""), ("a", "y"), ("a", ""), ("b",), ("",)]
FLAT_CELLS = [("a",), ("b",), ("c",), ()]


def programs(cells, max_size):
    some = st.lists(st.sampled_from(cells), max_size=2).map(tuple)
    return st.lists(st.builds(Step, some, some), max_size=max_size)


def as_files(program):
    """The program on files below a directory that does not exist."""
    base = Path("/nonexistent/of/this/test")

    def access(make, cell):
        return make(base, "/".join(cell)) if cell else make(base)

    return [
        [access(read, cell) for cell in step.reads] + [access(write, cell) for cell in step.writes]
        for step in program
    ]


def as_object(program, domain):
    """The program on the channels of one communication object; cells have one component."""
    obj = CommunicationObject(domain, "random")
    return [
        [read(obj, *cell) for cell in step.reads] + [write(obj, *cell) for cell in step.writes]
        for step in program
    ]


def check_against_oracle(program, accesses, domain):
    graph = infer(accesses)
    graph.check()
    assert oracle.task_pairs(graph) == oracle.ordered_pairs(program, domain)
    for task in range(len(program)):
        found = oracle.raw_predecessors(graph, task)
        visible = oracle.visible_writers(program, task, domain) if domain.raw else set()
        assert visible <= found
        if graph.nnodes == graph.ntasks:
            assert visible == found
        for pred in found:
            assert oracle.conflicts(program[pred], program[task], domain) & RAW
    for source, target, hazard in graph.edges():
        if source < graph.ntasks and target < graph.ntasks:
            assert oracle.conflicts(program[source], program[target], domain) & hazard == hazard
        else:
            assert hazard in (RAW, WAR, WAW, RAR)


@given(programs(CELLS, 14))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_nested_files_against_the_definition(program):
    check_against_oracle(program, as_files(program), USUAL)


@given(programs(FLAT_CELLS, 12), st.sampled_from(DOMAINS))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_every_domain_against_the_definition(program, domain):
    check_against_oracle(program, as_object(program, domain), domain)


@given(programs(FLAT_CELLS[:-1], 16))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_plain_channels_against_the_definition(program):
    check_against_oracle(program, as_object(program, USUAL), USUAL)


@pytest.mark.parametrize("seed", range(80))
def test_long_programs_against_the_definition(seed):
    """Long enough for lists that are taken many times, and for join nodes behind join nodes."""
    chance = random.Random(seed)
    domain = chance.choice(DOMAINS)
    nested = domain == USUAL or chance.random() < 0.3
    cells = CELLS if nested else FLAT_CELLS
    writing = chance.choice([0.15, 0.5, 0.85])
    program = []
    for _ in range(40):
        mine = tuple(chance.choice(cells) for _ in range(chance.choice([1, 1, 1, 2])))
        kind = chance.random()
        reads = mine if kind > writing or kind < 0.1 else ()
        program.append(Step(reads, mine if kind <= writing else ()))
    if nested:
        check_against_oracle(program, as_files(program), USUAL)
    else:
        check_against_oracle(program, as_object(program, domain), domain)


def random_topological_order(graph: Graph, chance: random.Random) -> list[int]:
    """A linear extension of the graph, each ready node equally likely to be next."""
    waiting = list(graph.indegree)
    ready = [node for node in range(graph.nnodes) if not waiting[node]]
    order = []
    while ready:
        node = ready.pop(chance.randrange(len(ready)))
        order.append(node)
        for target in graph.successors(node):
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return [node for node in order if node < graph.ntasks]


@given(programs(CELLS, 20), st.integers(0, 2**32))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_any_topological_order_leaves_the_store_of_the_sequential_program(program, seed):
    order = random_topological_order(infer(as_files(program)), random.Random(seed))
    sequential = oracle.run(program, range(len(program)), LEAVES)
    assert oracle.run(program, order, LEAVES) == sequential


# ---- size ---------------------------------------------------------------------------------------

N = 300
ACCUMULATION = CommunicationObject(CommunicationDomain(waw=False), "sum")
READS_ORDERED = CommunicationObject(CommunicationDomain(rar=True, war=True, waw=False), "odd")
ADVERSARIES = {
    "channel writes, then whole reads": [[write(BOARD, i)] for i in range(N)] + [[read(BOARD)]] * N,
    "whole reads, then channel writes": [[read(BOARD)]] * N + [[write(BOARD, i)] for i in range(N)],
    "whole reads and channel writes in turn": [
        access for i in range(N) for access in ([read(BOARD)], [write(BOARD, i)])
    ],
    "whole writes and channel reads in turn": [
        access for i in range(N) for access in ([write(BOARD)], [read(BOARD, i)])
    ],
    "same channel between whole reads": [
        access for _ in range(N) for access in ([read(BOARD)], [write(BOARD, 0)], [read(BOARD, 1)])
    ],
    "unordered writes, then reads": [[write(ACCUMULATION)]] * N + [[read(ACCUMULATION)]] * N,
    "unordered writes and reads in turn": [[write(ACCUMULATION)], [read(ACCUMULATION)]] * N,
    "unordered updates": [[read(ACCUMULATION), write(ACCUMULATION)]] * N,
    "unordered whole and channel updates": [
        access
        for i in range(N)
        for access in ([write(ACCUMULATION, i)], [read(ACCUMULATION)], [write(ACCUMULATION)])
    ],
    "ordered reads among unordered writes": [
        access
        for i in range(N)
        for access in ([read(READS_ORDERED, i)], [write(READS_ORDERED)], [read(READS_ORDERED)])
    ],
    "reads of one channel, then writes of another, whole reads between": [
        access
        for i in range(N)
        for access in ([read(BOARD, 0)], [write(BOARD, 1)], [read(BOARD)], [write(BOARD, i)])
    ],
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_size_is_linear(name):
    accesses: list[list[DataAccess]] = ADVERSARIES[name]
    graph = infer(accesses)
    graph.check()
    naccesses = sum(map(len, accesses))
    assert graph.nedges + graph.nnodes - graph.ntasks <= 5 * naccesses
