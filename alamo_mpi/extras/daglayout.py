"""Where the nodes and edges of a DAG go in a picture; pure geometry, lengths in inches.

The method is Sugiyama's: layers (`daglayers`), then coordinates near the neighbours' mean as far as
order and distances allow.  One thing is added: a graph much taller than wide is cut into columns
that are read like a newspaper's.

References
----------
K. Sugiyama, S. Tagawa, M. Toda, Methods for visual understanding of hierarchical system
structures, IEEE Transactions on Systems, Man, and Cybernetics 11 (1981) 109-125.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from alamo_mpi.extras.daglayers import Edge, Link, assign

__all__ = ["Layout", "Segment", "Sizes", "place"]

#: Width over height that a wrapped picture aims at, and height over width that is worth wrapping.
_ASPECT = 1.5
_TOO_TALL = 2.2
#: Links that may lead from one column to the next.
_MAX_LANES = 40


class Sizes(NamedTuple):
    """Lengths in inches that the layout keeps to.

    Attributes
    ----------
    widths : sequence of float
        Width of each node.
    height : float
        Height of every node's box.
    gap_x, gap_y : float
        Least distance between neighbours in a layer, and between layers that an edge joins.
    """

    widths: Sequence[float]
    height: float
    gap_x: float = 0.22
    gap_y: float = 0.5


class Segment(NamedTuple):
    """A piece of an edge between two layers, shared by all edges that run through it.

    Attributes
    ----------
    points : list of (float, float)
        Two points, or more where the segment leads to the next column.
    flags : int
        Hazards of the edges.
    arrow : bool
        Whether it ends at a node.
    nlabels : int
        1 if exactly one edge runs through here and should be labelled here, else 0.
    """

    points: list[tuple[float, float]]
    flags: int
    arrow: bool
    nlabels: int


class Layout(NamedTuple):
    """Positions in inches; y grows downwards.

    Attributes
    ----------
    x, y : list of float
        Centres of the nodes.
    segments : list of Segment
        All edges, cut at the layers.
    columns : list of (float, float)
        Left and right end of each column; one if the graph was not wrapped.
    width, height : float
        Extent of everything.
    """

    x: list[float]
    y: list[float]
    segments: list[Segment]
    columns: list[tuple[float, float]]
    width: float
    height: float


def place(nnodes: int, edges: Sequence[Edge], sizes: Sizes) -> Layout:
    """Lay out a directed acyclic graph from top to bottom.

    Parameters
    ----------
    nnodes : int
        Number of nodes.
    edges : sequence of (int, int, int)
        Predecessor, successor, hazard flags.
    sizes : Sizes
        Of the nodes and gaps.

    Returns
    -------
    Layout
        Where everything goes.

    Notes
    -----
    Deterministic; a second or two for 1,000 nodes with 3,000 edges.
    """
    joined = sorted({node for source, target, _ in edges for node in (source, target)})
    new_number = {node: i for i, node in enumerate(joined)}
    within = [(new_number[s], new_number[t], flags) for s, t, flags in edges]
    own_sizes = sizes._replace(widths=[sizes.widths[node] for node in joined])
    layout = _place_joined(len(joined), within, own_sizes)
    x, y = [0.0] * nnodes, [0.0] * nnodes
    for node, node_x, node_y in zip(joined, layout.x, layout.y, strict=True):
        x[node], y[node] = node_x, node_y
    alone = [node for node in range(nnodes) if node not in new_number]
    width, height = _place_alone(alone, sizes, layout, x, y)
    return layout._replace(x=x, y=y, width=width, height=height)


def _place_joined(nnodes: int, edges: Sequence[Edge], sizes: Sizes) -> Layout:
    """Lay out the nodes that have edges."""
    if not edges:
        return Layout([], [], [], [(0.0, 0.0)], 0.0, 0.0)
    order, layer, links = assign(nnodes, edges)
    widths = [*sizes.widths, *([0.0] * (len(layer) - nnodes))]
    x = _coordinates(order, links, widths, sizes.gap_x)
    gaps = _gaps(order, links, layer, x, sizes)
    return _columns(nnodes, _Drawn(order, links, layer, x, gaps, widths), sizes)


def _place_alone(
    alone: list[int], sizes: Sizes, layout: Layout, x: list[float], y: list[float]
) -> tuple[float, float]:
    """Set tasks without any edge below the rest like the words of a text; return the extent."""
    if not alone:
        return layout.width, layout.height
    pitch = max(sizes.widths[node] for node in alone) + sizes.gap_x
    row_height = sizes.height + sizes.gap_x
    per_row = max(
        int(layout.width / pitch), math.ceil(math.sqrt(len(alone) * row_height / pitch * _ASPECT))
    )
    top = layout.height + (sizes.gap_y if layout.height else 0.0) + sizes.height / 2
    for i, node in enumerate(alone):
        x[node] = (i % per_row + 0.5) * pitch
        y[node] = top + i // per_row * row_height
    width = max(layout.width, min(len(alone), per_row) * pitch)
    return width, y[alone[-1]] + sizes.height / 2


@dataclass
class _Drawn:
    """What is known before the picture is cut into columns."""

    order: list[list[int]]
    links: list[Link]
    layer: list[int]
    x: list[float]
    gaps: list[float]
    widths: list[float]


def _coordinates(
    order: list[list[int]], links: list[Link], widths: list[float], gap: float
) -> list[float]:
    """Pull every node to the mean of its neighbours as far as order and distances allow."""
    x = [0.0] * len(widths)
    offsets: list[list[float]] = []
    for row in order:
        offset = [0.0]
        for left, right in pairwise(row):
            apart = gap if widths[left] or widths[right] else gap / 4
            offset.append(offset[-1] + apart + (widths[left] + widths[right]) / 2)
        offsets.append(offset)
        for node, start in zip(row, offset, strict=True):
            x[node] = start - offset[-1] / 2
    above, below = _pulls(links, widths)
    around = [up + down for up, down in zip(above, below, strict=True)]
    for sweep in range(12):
        near = around if sweep >= 8 else (above, below)[sweep % 2]
        rows = range(len(order)) if sweep % 2 == 0 else range(len(order) - 1, -1, -1)
        for number in rows:
            row, offset = order[number], offsets[number]
            wanted, weights = [], []
            for node, start in zip(row, offset, strict=True):
                weight = sum(pull for _, pull in near[node])
                if weight:
                    # The slight pull to the middle keeps loose parts from drifting away.
                    goal = 0.98 * sum(x[n] * pull for n, pull in near[node]) / weight
                else:
                    goal = 0.9 * x[node]
                wanted.append(goal - start)
                weights.append(weight or 0.02)
            for node, start, free in zip(row, offset, _isotonic(wanted, weights), strict=True):
                x[node] = free + start
    return x


def _pulls(
    links: list[Link], widths: list[float]
) -> tuple[list[list[tuple[int, float]]], list[list[tuple[int, float]]]]:
    """Return each node's neighbours above and below, with how strongly they pull.

    The branches of a fan share one unit, so that they do not bend its trunk.
    """
    count = len(widths)
    degree_above, degree_below = [0] * count, [0] * count
    for link in links:
        degree_above[link.target] += 1
        degree_below[link.source] += 1
    above: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    below: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for link in links:
        trunk = not widths[link.source] and not widths[link.target]
        shared = max(degree_below[link.source], degree_above[link.target])
        pull = 40.0 if trunk else 1.0 / shared
        above[link.target].append((link.source, pull))
        below[link.source].append((link.target, pull))
    return above, below


def _isotonic(wanted: list[float], weights: list[float]) -> list[float]:
    """Return the ascending sequence nearest to `wanted` in weighted least squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted, weights, strict=True):
        count = 1
        while blocks and blocks[-1][0] > value:
            other, other_weight, other_count = blocks.pop()
            total = weight + other_weight
            value = (value * weight + other * other_weight) / total
            weight, count = total, count + other_count
        blocks.append((value, weight, count))
    return [value for value, _, count in blocks for _ in range(count)]


def _gaps(
    order: list[list[int]], links: list[Link], layer: list[int], x: list[float], sizes: Sizes
) -> list[float]:
    """Distance below each layer: more where links run far sideways, little where there are none."""
    runs: list[list[float]] = [[] for _ in order]
    for link in links:
        runs[layer[link.source]].append(abs(x[link.source] - x[link.target]))
    gaps = []
    for run in runs:
        run.sort()
        far = run[len(run) * 9 // 10] if run else 0.0
        gaps.append(min(5 * sizes.gap_y, max(sizes.gap_y, 0.09 * far)) if run else sizes.gap_x)
    return gaps


def _columns(nnodes: int, drawn: _Drawn, sizes: Sizes) -> Layout:
    """Give every layer its column and height, and every link its points."""
    order, x, widths = drawn.order, drawn.x, drawn.widths
    left = [min(x[node] - widths[node] / 2 for node in row) for row in order]
    right = [max(x[node] + widths[node] / 2 for node in row) for row in order]
    crossing = [0] * len(order)
    for link in drawn.links:
        for number in range(drawn.layer[link.source], drawn.layer[link.target]):
            crossing[number] += 1
    starts = _cuts(left, right, drawn.gaps, sizes, crossing)
    y_of, column_of = [0.0] * len(order), [0] * len(order)
    columns: list[tuple[float, float]] = []
    cursor = bottom = 0.0
    for column, (first, stop) in enumerate(zip(starts, [*starts[1:], len(order)], strict=True)):
        shift = cursor - min(left[first:stop])
        y = sizes.height / 2
        for number in range(first, stop):
            y_of[number], column_of[number] = y, column
            bottom = max(bottom, y + sizes.height / 2)
            y += sizes.height + drawn.gaps[number]
            for node in order[number]:
                x[node] += shift
        columns.append((cursor, max(right[first:stop]) + shift))
        cursor = columns[-1][1] + _gutter(crossing[stop - 1])
    y_all = [y_of[number] for number in drawn.layer]
    segments = _segments(nnodes, drawn, y_all, column_of, columns, sizes)
    return Layout(x[:nnodes], y_all[:nnodes], segments, columns, columns[-1][1], bottom)


def _gutter(nlinks: int) -> float:
    return 0.7 + 0.08 * min(nlinks, _MAX_LANES)


def _cuts(
    left: list[float], right: list[float], gaps: list[float], sizes: Sizes, crossing: list[int]
) -> list[int]:
    """First layers of the columns: one column unless the graph is far taller than wide."""
    height = sum(gaps) + len(gaps) * sizes.height
    width = max(right) - min(left)
    if len(gaps) < 16 or height < _TOO_TALL * width:
        return [0]
    best, best_error = [0], math.inf
    for count in range(1, min(80, len(gaps) // 6) + 1):
        length = len(gaps) / count
        starts = [0]
        for column in range(1, count):
            ideal = round(column * length)
            reach = int(length / 8)
            choices = range(ideal - reach, ideal + reach + 1)
            starts.append(min(choices, key=lambda k: (crossing[k - 1], abs(k - ideal))))
        if any(crossing[k - 1] > _MAX_LANES for k in starts[1:]):
            continue
        stops = [*starts[1:], len(gaps)]
        total = sum(
            max(right[a:b]) - min(left[a:b]) + _gutter(crossing[b - 1])
            for a, b in zip(starts, stops, strict=True)
        )
        tallest = max(
            sum(gaps[a:b]) + (b - a) * sizes.height for a, b in zip(starts, stops, strict=True)
        )
        error = abs(math.log(total / tallest / _ASPECT))
        if error < best_error:
            best, best_error = starts, error
    return best


def _segments(
    nnodes: int,
    drawn: _Drawn,
    y: list[float],
    column_of: list[int],
    columns: list[tuple[float, float]],
    sizes: Sizes,
) -> list[Segment]:
    segments = []
    lanes = [0] * len(columns)
    half = sizes.height / 2
    for source, target, flags, arrow, nlabels in drawn.links:
        start = (drawn.x[source], y[source] + (half if drawn.widths[source] > half else 0.0))
        stop = (drawn.x[target], y[target] - (half if drawn.widths[target] > half else 0.0))
        column = column_of[drawn.layer[source]]
        points = [start, stop]
        if column_of[drawn.layer[target]] != column:
            lane = columns[column][1] + 0.3 + 0.08 * lanes[column]
            depth = 0.14 + 0.04 * (lanes[column] % 8)
            lanes[column] += 1
            points = [
                start,
                (start[0], start[1] + depth),
                (lane, start[1] + depth),
                (lane, stop[1] - depth),
                (stop[0], stop[1] - depth),
                stop,
            ]
        segments.append(Segment(points, flags, arrow, nlabels))
    return segments
