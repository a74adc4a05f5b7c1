"""Which layer of a picture each node of a DAG is in, and the order within the layers.

The first half of Sugiyama's method: longest-path layers, virtual nodes where long edges pass, and
barycentre sweeps against crossings.  Long edges of one kind that leave (or reach) the same node
share their virtual nodes, so that a fan becomes one trunk with branches.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Edge", "Layers", "Link", "assign"]

#: Predecessor, successor, hazard flags.
Edge = tuple[int, int, int]

#: Past this many virtual nodes, long edges are drawn straight.
_MAX_VIRTUAL = 60_000
_SWEEPS = 12


class Link(NamedTuple):
    """One link between two nodes, real or virtual, of different layers."""

    source: int
    target: int
    flags: int
    arrow: bool
    nlabels: int


class Layers(NamedTuple):
    """The layers of a graph, with virtual nodes numbered after its own.

    Attributes
    ----------
    order : list of list of int
        The nodes of each layer, left to right.
    layer : list of int
        The layer of each node.
    links : list of Link
        The edges, cut at the layers.
    """

    order: list[list[int]]
    layer: list[int]
    links: list[Link]


def assign(nnodes: int, edges: Sequence[Edge]) -> Layers:
    """Put the nodes of a directed acyclic graph with at least one edge into ordered layers."""
    layer = _fold_wide_layers(_layers(nnodes, edges), nnodes)
    links, layer = _insert_virtual(nnodes, edges, layer)
    return Layers(_order(nnodes, layer, links), layer, links)


def _layers(nnodes: int, edges: Sequence[Edge]) -> list[int]:
    """Longest path from an entry; then entries move down to just above their first successor."""
    targets: list[list[int]] = [[] for _ in range(nnodes)]
    waiting = [0] * nnodes
    for source, target, _ in edges:
        targets[source].append(target)
        waiting[target] += 1
    entries = ready = [node for node in range(nnodes) if not waiting[node]]
    layer = [0] * nnodes
    while ready:
        released = []
        for node in ready:
            for target in targets[node]:
                layer[target] = max(layer[target], layer[node] + 1)
                waiting[target] -= 1
                if not waiting[target]:
                    released.append(target)
        ready = released
    for node in entries:
        if targets[node]:
            layer[node] = min(layer[target] for target in targets[node]) - 1
    return layer


def _fold_wide_layers(layer: list[int], nnodes: int) -> list[int]:
    """Spread a layer of too many nodes over several rows, in list order like words of a text."""
    limit = max(24, math.isqrt(nnodes - 1) + 1)
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for node, number in enumerate(layer):
        rows[number].append(node)
    folded = layer[:]
    first = 0
    for row in rows:
        count = -(-len(row) // limit) if row else 0
        for place_, node in enumerate(row):
            folded[node] = first + place_ * count // len(row)
        first += count
    return folded


def _insert_virtual(
    nnodes: int, edges: Sequence[Edge], layer: list[int]
) -> tuple[list[Link], list[int]]:
    """Cut edges that pass layers at shared virtual nodes; return the links and all layers."""
    outdegree, indegree = [0] * nnodes, [0] * nnodes
    for source, target, _ in edges:
        outdegree[source] += 1
        indegree[target] += 1
    if sum(layer[target] - layer[source] - 1 for source, target, _ in edges) > 20 * _MAX_VIRTUAL:
        return [Link(s, t, flags, True, 1) for s, t, flags in edges], layer
    layer = layer[:]
    virtual: dict[tuple[bool, int, int, int], int] = {}
    links: dict[tuple[int, int, int], Link] = {}
    for source, target, flags in edges:
        from_source = outdegree[source] >= indegree[target]
        owner = source if from_source else target
        path = [source]
        for number in range(layer[source] + 1, layer[target]):
            key = (from_source, owner, flags, number)
            if key not in virtual:
                virtual[key] = len(layer)
                layer.append(number)
            path.append(virtual[key])
        path.append(target)
        own = len(path) - 2 if from_source else 0
        for i, (a, b) in enumerate(pairwise(path)):
            if (a, b, flags) not in links or i == own:
                links[a, b, flags] = Link(a, b, flags, b == target, int(i == own))
    if len(virtual) > _MAX_VIRTUAL:
        return [Link(s, t, flags, True, 1) for s, t, flags in edges], layer[:nnodes]
    return list(links.values()), layer


def _neighbours(count: int, links: list[Link]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for link in links:
        above[link.target].append(link.source)
        below[link.source].append(link.target)
    return above, below


def _order(nnodes: int, layer: list[int], links: list[Link]) -> list[list[int]]:
    """Order the nodes of each layer by barycentre sweeps; keep the order with fewest crossings."""
    above, below = _neighbours(len(layer), links)
    order: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for node in range(nnodes):
        order[layer[node]].append(node)
    passing: list[list[int]] = [[] for _ in order]
    for node in range(nnodes, len(layer)):
        passing[layer[node]].append(node)
    for row, virtual in zip(order, passing, strict=True):
        # In the middle: the trunk of a fan that fills several rows runs straight down.
        row[len(row) // 2 : len(row) // 2] = virtual
    best, best_crossings = [row[:] for row in order], _crossings(order, below, layer)
    sweeps = _SWEEPS if len(links) < 30_000 else 2
    for sweep in range(sweeps):
        if not best_crossings:
            break
        down = sweep % 2 == 0
        position = [0.0] * len(layer)
        for row in order:
            _number(row, position)
        for row in order if down else reversed(order):
            near = above if down else below
            key = {
                node: sum(position[n] for n in near[node]) / len(near[node])
                if near[node]
                else position[node]
                for node in row
            }
            row.sort(key=key.__getitem__)
            _number(row, position)
        crossings = _crossings(order, below, layer)
        if crossings < best_crossings:
            best, best_crossings = [row[:] for row in order], crossings
    return best


def _number(row: list[int], position: list[float]) -> None:
    """Spread a layer over 0..1, so that layers of unlike sizes compare."""
    for i, node in enumerate(row):
        position[node] = (i + 0.5) / len(row)


def _crossings(order: list[list[int]], below: list[list[int]], layer: list[int]) -> int:
    """Count crossings of links between adjacent layers."""
    place_ = [0] * len(layer)
    for row in order:
        for i, node in enumerate(row):
            place_[node] = i
    total = 0
    for row in order:
        ends: list[int] = []
        for node in row:
            found = sorted(place_[t] for t in below[node] if layer[t] == layer[node] + 1)
            total += sum(len(ends) - bisect_right(ends, end) for end in found)
            for end in found:
                insort(ends, end)
    return total
