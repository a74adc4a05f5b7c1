"""The dependency graph of a compiled list of tasks, held in arrays of integers.

Nodes ``0 .. ntasks-1`` are the tasks in list order.  Nodes from `ntasks` on are *join nodes*: they
take no time and run nothing; ``predecessors -> join -> successors`` stands for the complete
bipartite set of edges between the two, with a sum of edges instead of a product.  All edges of a
join node carry one and the same hazard, so that what a hazard means for failure passes through it.

::

    succ_start   [0, 2, 3, 3]      successors of node v: succ[succ_start[v] : succ_start[v + 1]]
    succ         [1, 2, 2]         0 -> 1, 0 -> 2, 1 -> 2
    hazard       [RAW, WAW, RAW]   flags of the edge at the same place
    indegree     [0, 1, 2]         number of distinct predecessor nodes
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, count, repeat

from alamo_mpi.core.hazards import Hazard
from alamo_mpi.errors import InternalError

__all__ = ["Graph"]

#: Every combination of flags, so that reading an edge costs no construction of an enum member.
_HAZARDS = tuple(Hazard(flags) for flags in range(32))


class Graph:
    """A directed acyclic graph of tasks and join nodes, immutable after construction.

    Parameters
    ----------
    ntasks : int
        Number of tasks.
    indegree : array of int
        Number of predecessors of each node; its length is the number of nodes.
    succ_start : array of int
        Where each node's successors start in `succ`; one longer than `indegree`.
    succ : array of int
        The successors of all nodes, node by node.
    hazard : bytearray
        The `Hazard` flags of each edge, in the order of `succ`.

    Attributes
    ----------
    nnodes, nedges : int
        Number of nodes, join nodes included, and of edges.

    See Also
    --------
    from_predecessors, from_edges, independent : ways to make one.
    """

    __slots__ = ("hazard", "indegree", "nedges", "nnodes", "ntasks", "succ", "succ_start")

    def __init__(
        self,
        ntasks: int,
        indegree: array[int],
        succ_start: array[int],
        succ: array[int],
        hazard: bytearray,
    ) -> None:
        self.ntasks = ntasks
        self.nnodes = len(indegree)
        self.nedges = len(succ)
        self.indegree = indegree
        self.succ_start = succ_start
        self.succ = succ
        self.hazard = hazard

    @classmethod
    def independent(cls, ntasks: int) -> Graph:
        """Return the graph of `ntasks` tasks without an edge; some bytes a task, no loop."""
        nothing = bytes(8 * (ntasks + 1))
        return cls(
            ntasks,
            array("i", nothing[: 4 * ntasks]),
            array("q", nothing),
            array("i"),
            bytearray(),
        )

    @classmethod
    def from_predecessors(
        cls, ntasks: int, indegree: array[int], pred: array[int], hazard: bytearray
    ) -> Graph:
        """Return the graph whose edges are given consumer by consumer.

        Parameters
        ----------
        ntasks : int
            Number of tasks.
        indegree : array of int
            Number of predecessors of each node.
        pred : array of int
            The distinct predecessors of node 0, then those of node 1, and so on.
        hazard : bytearray
            The flags of these edges.

        Notes
        -----
        Transposes in two passes over the edges; successors of a node come out in node order.
        """
        outdegree = array("i", bytes(4 * len(indegree)))
        for source in pred:
            outdegree[source] += 1
        succ_start = array("q", accumulate(outdegree, initial=0))
        free = succ_start[:]
        succ = array("i", bytes(4 * len(pred)))
        flags = bytearray(len(pred))
        target_of_edge = chain.from_iterable(map(repeat, count(), indegree))
        for source, target, flag in zip(pred, target_of_edge, hazard, strict=True):
            place = free[source]
            free[source] = place + 1
            succ[place] = target
            flags[place] = flag
        return cls(ntasks, indegree, succ_start, succ, flags)

    @classmethod
    def from_edges(
        cls, ntasks: int, edges: Iterable[tuple[int, int, int]], nnodes: int | None = None
    ) -> Graph:
        """Return the graph of these edges; for small graphs and tests.

        Parameters
        ----------
        ntasks : int
            Number of tasks.
        edges : iterable of (int, int, int)
            Predecessor, successor and `Hazard` flags.  Flags of repeated pairs are united.
        nnodes : int, optional
            Number of nodes, if there are join nodes.
        """
        total = ntasks if nnodes is None else nnodes
        incoming: list[dict[int, int]] = [{} for _ in range(total)]
        for source, target, flags in edges:
            incoming[target][source] = incoming[target].get(source, 0) | flags
        return cls.from_predecessors(
            ntasks,
            array("i", [len(found) for found in incoming]),
            array("i", chain.from_iterable(incoming)),
            bytearray(chain.from_iterable(found.values() for found in incoming)),
        )

    def successors(self, node: int) -> array[int]:
        """Return a copy of the successors of `node`, in node order."""
        return self.succ[self.succ_start[node] : self.succ_start[node + 1]]

    def edges(self) -> Iterator[tuple[int, int, Hazard]]:
        """Iterate over all edges as (predecessor, successor, hazard flags)."""
        for node in range(self.nnodes):
            for edge in range(self.succ_start[node], self.succ_start[node + 1]):
                yield node, self.succ[edge], _HAZARDS[self.hazard[edge]]

    def topological_order(self) -> Sequence[int]:
        """Return the nodes so that each comes after its predecessors.

        Notes
        -----
        The list order of the tasks is one such order: without join nodes nothing is computed.
        With them the order is found by Kahn's algorithm in time linear in nodes and edges.

        Raises
        ------
        InternalError
            If there is a cycle.
        """
        if self.nnodes == self.ntasks:
            return range(self.ntasks)
        waiting = self.indegree[:]
        order = array("i", [node for node, degree in enumerate(waiting) if degree == 0])
        for node in order:  # grows while it is read
            for target in self.successors(node):
                waiting[target] -= 1
                if waiting[target] == 0:
                    order.append(target)
        if len(order) != self.nnodes:
            raise InternalError(
                f"The dependency graph has a cycle through {self.nnodes - len(order)} of its nodes."
            )
        return order

    def bottom_levels(self) -> array[int]:
        """Return, for each node, the most tasks on a path from one of its successors to an exit.

        Returns
        -------
        array of int, length nnodes
            0 for a task that nobody waits for.  Join nodes are not counted on a path; the level of
            a join node itself includes its best successor.

        Notes
        -----
        Scheduling by descending bottom level is the classical list-scheduling rule.
        """
        level = array("i", bytes(4 * self.nnodes))
        if not self.nedges:
            return level
        ntasks, start, succ = self.ntasks, self.succ_start, self.succ
        for node in reversed(self.topological_order()):
            best = 0
            for target in succ[start[node] : start[node + 1]]:
                below = level[target] + (target < ntasks)
                if below > best:
                    best = below
            level[node] = best
        return level

    def critical_path(self) -> list[int]:
        """Return the tasks of a longest path, first to last; among equals the earliest tasks."""
        if not self.ntasks:
            return []
        level = self.bottom_levels()
        node = max(range(self.ntasks), key=level.__getitem__)
        path = [node]
        while level[node]:
            node = next(
                target
                for target in self.successors(node)
                if level[target] + (target < self.ntasks) == level[node]
            )
            if node < self.ntasks:
                path.append(node)
        return path

    def check(self) -> None:
        """Verify that the arrays agree and that there is no cycle; linear in nodes and edges.

        Raises
        ------
        InternalError
            Naming the first contradiction.
        """
        self._check_shape()
        counted = array("i", bytes(4 * self.nnodes))
        for node in range(self.nnodes):
            targets = self.successors(node)
            if len(set(targets)) != len(targets):
                raise InternalError(f"Node {node} has a successor twice: {list(targets)}.")
            for target in targets:
                if not 0 <= target < self.nnodes:
                    raise InternalError(f"Node {node} has a successor {target} out of range.")
                if target <= node < self.ntasks and target < self.ntasks:
                    raise InternalError(f"Task {node} precedes task {target} against list order.")
                counted[target] += 1
        for node in range(self.nnodes):
            if counted[node] != self.indegree[node]:
                raise InternalError(
                    f"Node {node} has {counted[node]} predecessors "
                    f"but an in-degree of {self.indegree[node]}."
                )
        self.topological_order()

    def _check_shape(self) -> None:
        """Verify lengths and monotonicity of the arrays."""
        lengths = (len(self.indegree), len(self.succ_start) - 1, len(self.succ), len(self.hazard))
        if lengths != (self.nnodes, self.nnodes, self.nedges, self.nedges):
            raise InternalError(f"The arrays of the dependency graph have lengths {lengths}.")
        if not 0 <= self.ntasks <= self.nnodes:
            raise InternalError(f"{self.ntasks} tasks among {self.nnodes} nodes.")
        start = self.succ_start
        if start[0] != 0 or start[-1] != self.nedges:
            raise InternalError("The successor lists do not cover the edges.")
        for node in range(self.nnodes):
            if start[node] > start[node + 1]:
                raise InternalError(f"The successor list of node {node} has a negative length.")
        if not all(self.hazard):
            raise InternalError("An edge carries no hazard.")
