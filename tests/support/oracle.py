"""Dependency inference by definition: compares all pairs of accesses, in quadratic time.

A *cell* is what an access names: a tuple of components, where a shorter tuple covers all longer
ones that begin with it.  So ``()`` is the whole object, ``("a",)`` a channel, and ``("a", "b")``
something below that channel.  All cells of a program belong to one communication object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alamo_mpi.core.access import CommunicationDomain
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard

Cell = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One task of a program: what it reads and what it writes."""

    reads: tuple[Cell, ...] = ()
    writes: tuple[Cell, ...] = ()


def covers(above: Cell, below: Cell) -> bool:
    """Return whether an access to `above` touches everything that `below` stands for."""
    return below[: len(above)] == above


def overlap(one: Cell, other: Cell) -> bool:
    return covers(one, other) or covers(other, one)


def conflicts(earlier: Step, later: Step, domain: CommunicationDomain) -> Hazard:
    """Return the hazards that order two tasks."""
    found = Hazard(0)
    for hazard, ordered, firsts, seconds in (
        (Hazard.RAW, domain.raw, earlier.writes, later.reads),
        (Hazard.WAR, domain.war, earlier.reads, later.writes),
        (Hazard.WAW, domain.waw, earlier.writes, later.writes),
        (Hazard.RAR, domain.rar, earlier.reads, later.reads),
    ):
        if ordered and any(overlap(a, b) for a in firsts for b in seconds):
            found |= hazard
    return found


def ordered_pairs(program: Sequence[Step], domain: CommunicationDomain) -> set[tuple[int, int]]:
    """Return the transitive closure of all conflicts."""
    direct = [
        (i, j)
        for j in range(len(program))
        for i in range(j)
        if conflicts(program[i], program[j], domain)
    ]
    return closure(len(program), direct)


def closure(nnodes: int, edges: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return all pairs connected by a path, by Warshall's algorithm."""
    reached = [0] * nnodes
    for source, target in edges:
        reached[source] |= 1 << target
    for middle in range(nnodes):
        for node in range(nnodes):
            if reached[node] >> middle & 1:
                reached[node] |= reached[middle]
    return {(i, j) for i in range(nnodes) for j in range(nnodes) if reached[i] >> j & 1}


def visible_writers(program: Sequence[Step], reader: int, domain: CommunicationDomain) -> set[int]:
    """Return the tasks whose data `reader` may see: writers that no later write covers.

    Where writes are not ordered, none covers another.
    """
    found = set()
    for cell in program[reader].reads:
        for writer in range(reader):
            for written in program[writer].writes:
                if overlap(cell, written):
                    common = max(cell, written, key=len)
                    hidden = domain.waw and any(
                        covers(later, common)
                        for task in range(writer + 1, reader)
                        for later in program[task].writes
                    )
                    if not hidden:
                        found.add(writer)
    return found


def run(program: Sequence[Step], order: Iterable[int], leaves: Sequence[Cell]) -> dict[Cell, int]:
    """Return the store that a run of the tasks in `order` leaves.

    Each task stores in every leaf that it writes a number made of its index, of the leaf and of
    all that it reads, so that any change in what some task sees shows in the end.
    """
    store = dict.fromkeys(leaves, 0)
    for task in order:
        step = program[task]
        seen = tuple(
            store[leaf] for leaf in leaves if any(covers(cell, leaf) for cell in step.reads)
        )
        for leaf in leaves:
            if any(covers(cell, leaf) for cell in step.writes):
                store[leaf] = hash((task, leaf, seen))
    return store


def raw_predecessors(graph: Graph, task: int) -> set[int]:
    """Return the tasks that a RAW edge, or RAW edges through join nodes, connect to `task`."""
    incoming: dict[int, list[int]] = {}
    for source, target, hazard in graph.edges():
        if hazard & Hazard.RAW:
            incoming.setdefault(target, []).append(source)
    found, nodes = set(), list(incoming.get(task, ()))
    for node in nodes:  # grows while it is read
        if node < graph.ntasks:
            found.add(node)
        else:
            nodes.extend(incoming.get(node, ()))
    return found


def task_pairs(graph: Graph) -> set[tuple[int, int]]:
    """Return all pairs of tasks that are connected by a path."""
    pairs = closure(graph.nnodes, [(source, target) for source, target, _ in graph.edges()])
    return {(i, j) for i, j in pairs if i < graph.ntasks and j < graph.ntasks}
