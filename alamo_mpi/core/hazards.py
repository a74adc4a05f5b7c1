"""From the accesses of a sequential program to the edges of its dependency graph.

The program is a list of tasks, each of which reads and writes *resources* (small integers).  A
resource may have a parent, whose accesses cover it: a channel lies below its object, a file below
its directories.  Two accesses conflict if their resources are equal or one lies above the other,
and if the hazard between them, earlier to later, is one that their domain orders.

What is guaranteed of the edges that come out:

1. Two tasks are connected by a path if and only if the transitive closure of all conflicts
   connects them: nothing is missed, and nothing is ordered without need.
2. A read has RAW edges from exactly the writers whose data it may see: those that no later write
   has covered.  They are direct, or pass through join nodes whose every edge is RAW.  (Only a join
   node that was made before one of its members was overwritten still contains that member.)
3. Their number is linear in the number of accesses times the depth of the tree of resources.

An edge that others imply is left out where that is known at once, unless it is RAW: of ``write,
read, write`` the two writes are ordered through the read.  RAW edges are all there, because a
failed writer must stop every reader itself: WAR, WAW and RAR edges order, but pass no failure on.

Theory of operation.  Tasks are taken in list order.  A resource of the usual domain without
relatives, nearly all of them, needs only its last writer and the readers since then (this module).
The others are kept as trees of nodes (`alamo_mpi.core.trees`).  A task first takes the edges of
all its accesses and only then is entered, so that it never waits for itself.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from alamo_mpi.core.access import Hazard
from alamo_mpi.core.trees import Trees

__all__ = ["AccessList", "Edges", "Hazard", "infer_edges"]


# Plain integers: arithmetic on members of an IntFlag is a hundred times slower.
_RAW, _WAR, _WAW, _VALUE = map(int, (Hazard.RAW, Hazard.WAR, Hazard.WAW, Hazard.VALUE))
#: Mark of a resource that `Trees` takes care of.
_IN_TREE = -2
#: The key of a value that nobody waits for: beyond all tasks.
_NEVER = 1 << 62
#: What the default communication domain orders.
USUAL = _RAW | _WAR | _WAW


class AccessList:
    """The accesses of a list of tasks to integer resources, task by task.

    Attributes
    ----------
    reads, writes : array of int
        Resources read and written, in task order.
    read_stop, write_stop : array of int
        Where each task's part of `reads` and `writes` ends; one entry a task.
    nresources : int
        Resources are ``0 .. nresources-1``.
    values : array of int
        ``consumer * ntasks + producer`` for each result that is an argument, ascending.
    ordered : bytearray
        `Hazard` flags that each resource's domain orders; empty if it is `USUAL` for all.
    parent : array of int
        The nearest accessed resource that covers each one, or -1; empty if there are none.
    """

    __slots__ = (
        "nresources",
        "ordered",
        "parent",
        "read_stop",
        "reads",
        "values",
        "write_stop",
        "writes",
    )

    def __init__(self) -> None:
        self.reads = array("i")
        self.read_stop = array("i")
        self.writes = array("i")
        self.write_stop = array("i")
        self.nresources = 0
        self.values = array("q")
        self.ordered = bytearray()
        self.parent = array("i")

    @property
    def ntasks(self) -> int:
        """Number of tasks."""
        return len(self.read_stop)


class Edges(NamedTuple):
    """Incoming edges, consumer by consumer: the tasks first, then the join nodes."""

    indegree: array[int]
    pred: array[int]
    hazard: bytearray


def _trees(accesses: AccessList) -> Trees | None:
    """Return the trees of the resources with relatives or an unusual domain, if there are any."""
    if not accesses.parent and not accesses.ordered:
        return None
    return Trees(
        accesses.ntasks,
        accesses.parent or array("i", [-1]) * accesses.nresources,
        accesses.ordered or bytearray([USUAL]) * accesses.nresources,
        USUAL,
    )


def infer_edges(accesses: AccessList) -> Edges:
    """Return the edges that order the conflicting accesses of a program.

    Parameters
    ----------
    accesses : AccessList
        The program; it is not changed.

    Returns
    -------
    Edges
        Distinct pairs; the flags of a pair hit by several hazards are united.

    Notes
    -----
    Time and size are linear in the number of accesses (times the depth of nested resources).
    The loop is one long function on purpose: it runs once per access of up to millions of tasks,
    where each function call would add a quarter to the whole.
    """
    trees = _trees(accesses)
    ntasks, reads, writes = accesses.ntasks, accesses.reads, accesses.writes
    indegree = array("i", bytes(4 * ntasks))
    pred, hazard = array("i"), bytearray()
    add_pred, add_flags = pred.append, hazard.append
    # The last writer of each resource; or -1; or _IN_TREE, so that the loop needs no test for it.
    writer = trees.marks(_IN_TREE) if trees else array("i", [-1]) * accesses.nresources
    reader = array("i", [-1]) * accesses.nresources  # the first one since that write
    readers: dict[int, list[int]] = {}  # the others since that write
    tree_reads: list[int] = []
    tree_writes: list[int] = []
    values = iter(accesses.values)
    value = next(values, _NEVER)
    next_value = value // ntasks if ntasks else _NEVER
    found: dict[int, int] = {}
    read_at = write_at = 0
    for task, (read_stop, write_stop) in enumerate(
        zip(accesses.read_stop, accesses.write_stop, strict=True)
    ):
        while read_at < read_stop:
            resource = reads[read_at]
            read_at += 1
            last = writer[resource]
            if last >= 0:
                found[last] = _RAW
            elif last == _IN_TREE:
                tree_reads.append(resource)
                continue
            first = reader[resource]
            if first < 0:
                reader[resource] = task
            elif first != task:
                others = readers.setdefault(resource, [])
                if not others or others[-1] != task:
                    others.append(task)
        while write_at < write_stop:
            resource = writes[write_at]
            write_at += 1
            last = writer[resource]
            if last == task:
                continue
            if last == _IN_TREE:
                tree_writes.append(resource)
                continue
            writer[resource] = task
            first = reader[resource]
            if first >= 0:
                reader[resource] = -1
                if first != task:
                    found[first] = found.get(first, 0) | _WAR
                    for other in readers.pop(resource, ()):
                        if other != task:
                            found[other] = found.get(other, 0) | _WAR
                    continue  # whoever comes after these readers comes after the last writer
            if last >= 0:
                found[last] = found.get(last, 0) | _WAW
        if trees and (tree_reads or tree_writes):
            trees.enter(task, tree_reads, tree_writes, found)
            tree_reads.clear()
            tree_writes.clear()
        while next_value == task:
            producer = value % ntasks
            found[producer] = found.get(producer, 0) | _RAW | _VALUE
            value = next(values, _NEVER)
            next_value = value // ntasks
        if found:
            indegree[task] = len(found)
            for node, flags in found.items():
                add_pred(node)
                add_flags(flags)
            found = {}
    if trees:
        indegree.extend(trees.joins.degree)
        pred.extend(trees.joins.pred)
        hazard.extend(trees.joins.hazard)
    return Edges(indegree, pred, hazard)
