"""The graph: its arrays, and what is computed from them."""

from __future__ import annotations

import itertools
import random
from array import array

import pytest

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.errors import InternalError

RAW, WAR, WAW = Hazard.RAW, Hazard.WAR, Hazard.WAW


def diamond() -> Graph:
    r"""::

          0
         / \
        1   2
         \ /
          3
    """
    return Graph.from_edges(4, [(0, 1, RAW), (0, 2, RAW), (1, 3, RAW), (2, 3, WAR), (2, 3, RAW)])


def through_a_join() -> Graph:
    """(0, 1) -> join 5 -> (2, 3), and 3 -> 4."""
    return Graph.from_edges(
        5, [(0, 5, RAW), (1, 5, RAW), (5, 2, RAW), (5, 3, RAW), (3, 4, WAW)], nnodes=6
    )


def test_arrays_of_a_diamond():
    graph = diamond()
    graph.check()
    assert (graph.ntasks, graph.nnodes, graph.nedges) == (4, 4, 4)
    assert list(graph.indegree) == [0, 1, 1, 2]
    assert [list(graph.successors(node)) for node in range(4)] == [[1, 2], [3], [3], []]
    assert list(graph.edges()) == [(0, 1, RAW), (0, 2, RAW), (1, 3, RAW), (2, 3, RAW | WAR)]


def test_array_types_are_what_callers_index():
    graph = diamond()
    kinds = (graph.indegree.typecode, graph.succ_start.typecode, graph.succ.typecode)
    assert kinds == ("i", "q", "i")
    assert isinstance(graph.hazard, bytearray)


def test_independent_tasks():
    graph = Graph.independent(3)
    graph.check()
    assert list(graph.edges()) == []
    assert list(graph.bottom_levels()) == [0, 0, 0]
    assert graph.critical_path() == [0]


def test_empty_graph():
    graph = Graph.independent(0)
    graph.check()
    assert list(graph.bottom_levels()) == []
    assert graph.critical_path() == []


def test_levels_and_critical_path():
    """0 -> 1 -> 3 is as long as 0 -> 2 -> 3; the earlier task is chosen."""
    assert list(diamond().bottom_levels()) == [2, 1, 1, 0]
    assert diamond().critical_path() == [0, 1, 3]


def test_join_nodes_count_nothing():
    graph = through_a_join()
    graph.check()
    assert list(graph.bottom_levels())[:5] == [2, 2, 0, 1, 0]
    assert graph.critical_path() == [0, 3, 4]


def test_topological_order_respects_joins():
    graph = through_a_join()
    place = {node: i for i, node in enumerate(graph.topological_order())}
    assert len(place) == graph.nnodes
    assert all(place[source] < place[target] for source, target, _ in graph.edges())


@pytest.mark.parametrize("seed", range(20))
def test_levels_against_the_recursive_definition(seed):
    chance = random.Random(seed)
    pairs = {tuple(sorted(chance.sample(range(30), 2))) for _ in range(60)}
    graph = Graph.from_edges(30, [(i, j, RAW) for i, j in pairs])
    graph.check()
    assert {(i, j) for i, j, _ in graph.edges()} == pairs

    def level(node: int) -> int:
        return max((1 + level(j) for i, j in pairs if i == node), default=0)

    assert list(graph.bottom_levels()) == [level(node) for node in range(30)]
    path = graph.critical_path()
    assert len(path) == 1 + max(map(level, range(30)))
    assert all(pair in pairs for pair in itertools.pairwise(path))


def broken(**changes: object) -> Graph:
    graph = diamond()
    for name, value in changes.items():
        setattr(graph, name, value)
    return graph


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (broken(indegree=array("i", [0, 1, 1, 1])), "in-degree of 1"),
        (broken(succ=array("i", [1, 2, 3, 9])), "9 out of range"),
        (broken(succ=array("i", [1, 2, 3, 2])), "against list order"),
        (broken(succ=array("i", [1, 1, 3, 3])), "successor twice"),
        (broken(succ_start=array("q", [0, 2, 3, 4, 3])), "do not cover"),
        (broken(succ_start=array("q", [0, 3, 2, 4, 4])), "negative length"),
        (broken(hazard=bytearray([1, 1, 1])), "lengths"),
        (broken(hazard=bytearray([1, 1, 0, 1])), "no hazard"),
        (broken(ntasks=5), "5 tasks among 4 nodes"),
        (Graph.from_edges(1, [(0, 1, RAW), (1, 2, RAW), (2, 0, RAW)], nnodes=3), "cycle through 3"),
    ],
)
def test_check_finds_contradictions(graph, complaint):
    with pytest.raises(InternalError, match=complaint):
        graph.check()
