"""Hazards among resources that lie below one another, or whose domain is an unusual one.

Each resource in use is a node that points to its parent: ``/d <- /d/s <- /d/s/f``.  An access at a
node has to be ordered against accesses at the node itself, above it and below it.

Look *up*: a node keeps what was accessed at itself; an access walks the few nodes above its own.
Look *down*: a walk would cost a whole directory each time, so every access is also entered in the
lists ``below`` of the nodes above it, one list for each hazard, and an access reads its node's own.

What is kept depends on whether the accesses of one mode are ordered among themselves.  Where they
are (writes with WAW, reads with RAR), the latest one comes after all others that it covers, so
only the latest is remembered at a node, and any entry of a list older than the latest access above
it, or at the entry's own node, is skipped.  Where they are not, all are kept.

A list that is read again and again would give a product of edges (m reads of a whole object, then
n writes of its channels).  So entries get an edge of their own the first time; the second time all
entries seen before are put behind one *join node*, which takes their place:

::

    first access           r1 r2 r3 -> w1                           3 edges
    second                 (r1 r2 r3) -> join -> w2                 3 + 1 edges
    third, after r4        join -> w3, r4 -> w3                     2 edges

Every entry is thus read at most twice, and what is left of a list, a join node and one entry, at
most once by each access: linear.  A list belongs to one hazard, and so do its join nodes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from alamo_mpi.core.access import Hazard

__all__ = ["Joins", "Trees"]

_RAW, _WAR, _WAW, _RAR = map(int, (Hazard.RAW, Hazard.WAR, Hazard.WAW, Hazard.RAR))


class Joins:
    """The join nodes made so far, numbered from `first`, with their incoming edges."""

    __slots__ = ("degree", "first", "hazard", "pred")

    def __init__(self, first: int) -> None:
        self.first = first
        self.degree = array("i")
        self.pred = array("i")
        self.hazard = bytearray()

    def make(self, preds: Sequence[int], hazard: int) -> int:
        """Return a new join node after `preds`."""
        self.degree.append(len(preds))
        self.pred.extend(preds)
        self.hazard.extend(bytes([hazard]) * len(preds))
        return self.first + len(self.degree) - 1


class _Waiting:
    """Accesses of one mode, oldest first, that later ones must come after for one hazard."""

    __slots__ = ("fresh", "hazard", "join", "joined_until", "once")

    def __init__(self, hazard: int) -> None:
        self.hazard = hazard
        #: The join node that stands for the oldest entries, or -1.
        self.join = -1
        #: The youngest task behind `join`.
        self.joined_until = -1
        #: Entries that have had an edge of their own, ascending.
        self.once: list[int] = []
        #: Entries that have not, ascending and younger.
        self.fresh: list[int] = []

    def add(self, task: int) -> None:
        """Enter an access of `task`."""
        if not self.fresh or self.fresh[-1] != task:
            self.fresh.append(task)

    def take(self, after: int, found: dict[int, int], joins: Joins) -> None:
        """Put the entries younger than task `after` among the predecessors `found`."""
        once, fresh, hazard = self.once, self.fresh, self.hazard
        if len(once) > 1 and once[-2] > after and once[0] != once[-1]:
            preds = list(dict.fromkeys(once if self.join < 0 else [self.join, *once]))
            self.join, self.joined_until = joins.make(preds, hazard), once[-1]
            once.clear()
        if self.joined_until > after:
            found[self.join] = found.get(self.join, 0) | hazard
        if once and once[-1] > after:
            found[once[-1]] = found.get(once[-1], 0) | hazard
        if fresh:
            for task in fresh[bisect_right(fresh, after) :]:
                found[task] = found.get(task, 0) | hazard
            once += fresh
            fresh.clear()


class _Below(_Waiting):
    """The accesses at the nodes below `owner`; each remembers its node, until a join takes it."""

    __slots__ = ("by_read", "by_write", "nodes", "once_nodes", "owner")

    def __init__(self, hazard: int, owner: _Node) -> None:
        super().__init__(hazard)
        self.owner = owner
        #: The nodes of the entries `fresh` and `once`.
        self.nodes: list[_Node] = []
        self.once_nodes: list[_Node] = []
        ordered = owner.ordered
        #: Whether a later write, or a later read, at or above an entry's node makes it redundant.
        #: For RAW only a write does: readers do not stand in for what they have read.
        self.by_write = bool(ordered & _WAW) and hazard != _RAR
        self.by_read = {
            _RAW: False,
            _WAR: bool(ordered & _RAR),
            _WAW: ordered & (_RAW | _WAR) == _RAW | _WAR,
            _RAR: True,
        }[hazard]

    def take(self, after: int, found: dict[int, int], joins: Joins) -> None:
        """Put the entries younger than task `after` among `found`; forget the others.

        Only the owner takes, and its `after` never falls, so what is skipped once is done with.
        At most one entry of `once` survives a call uncollapsed, so looking at all costs little.
        """
        if self.joined_until <= after:
            self.join = self.joined_until = -1
        self.once, once_nodes = self._live(self.once, self.once_nodes, after)
        self.fresh, nodes = self._live(self.fresh, self.nodes, after)
        self.nodes = []
        super().take(after, found, joins)
        collapsed = len(self.once) == len(nodes)
        self.once_nodes = nodes if collapsed else once_nodes + nodes

    def _live(
        self, tasks: list[int], nodes: list[_Node], after: int
    ) -> tuple[list[int], list[_Node]]:
        """Return the entries that are younger than `after` and that no younger one covers."""
        live = [
            (task, node)
            for task, node in zip(tasks, nodes, strict=True)
            if task > after and not self._covered(task, node)
        ]
        return [task for task, _ in live], [node for _, node in live]

    def _covered(self, task: int, node: _Node) -> bool:
        """Whether a younger entry, at `node` or between it and the owner, stands for this one."""
        above: _Node | None = node
        while above is not None and above is not self.owner:
            if (self.by_write and above.last_write > task) or (
                self.by_read and above.last_read > task
            ):
                return True
            above = above.parent
        return False


class _Node:
    """What is remembered of one resource."""

    __slots__ = ("below", "last_read", "last_write", "ordered", "parent", "reads", "writes")

    def __init__(self, ordered: int, parent: _Node | None) -> None:
        #: Hazards that the domain orders.
        self.ordered = ordered
        self.parent = parent
        self.last_read = -1
        self.last_write = -1
        #: Reads that wait for a write, kept where reads are not ordered among themselves.
        self.reads: _Waiting | None = None
        #: Writes that wait for a read, kept where writes are not ordered among themselves.
        self.writes: _Waiting | None = None
        #: By hazard, what was accessed below; empty for a node with nothing below.
        self.below: dict[int, _Below] = {}

    def latest(self) -> tuple[int, int]:
        """Return the latest read and the latest write at this node or above it."""
        last_read, last_write = self.last_read, self.last_write
        above = self.parent
        while above is not None:
            if above.last_read > last_read:
                last_read = above.last_read
            if above.last_write > last_write:
                last_write = above.last_write
            above = above.parent
        return last_read, last_write

    def take_read(self, found: dict[int, int], joins: Joins) -> None:
        """Put among `found` what a read here must come after."""
        ordered = self.ordered
        last_read, last_write = self.latest()
        if ordered & _RAW:
            if not ordered & _WAW:
                self._take_writes(found, joins)
            elif last_write >= 0:
                found[last_write] = found.get(last_write, 0) | _RAW
            if self.below:
                self.below[_RAW].take(last_write if ordered & _WAW else -1, found, joins)
        if ordered & _RAR:
            if last_read >= 0:
                found[last_read] = found.get(last_read, 0) | _RAR
            if self.below:
                self.below[_RAR].take(last_read, found, joins)

    def take_write(self, found: dict[int, int], joins: Joins) -> None:
        """Put among `found` what a write here must come after."""
        ordered = self.ordered
        last_read, last_write = self.latest()
        if ordered & _WAR:
            # Where writes are ordered, the latest one comes after the reads before it.
            done = last_write if ordered & _WAW else -1
            if not ordered & _RAR:
                self._take_reads(done, found, joins)
            elif last_read > done:
                found[last_read] = found.get(last_read, 0) | _WAR
                done = last_read
            if self.below:
                self.below[_WAR].take(done, found, joins)
        if ordered & _WAW:
            done = last_write
            if ordered & _RAW and ordered & _WAR and last_read > last_write:
                done = last_read  # that read comes after the write, and this one after that read
            elif last_write >= 0:
                found[last_write] = found.get(last_write, 0) | _WAW
            if self.below:
                self.below[_WAW].take(done, found, joins)

    def _take_reads(self, after: int, found: dict[int, int], joins: Joins) -> None:
        node: _Node | None = self
        while node is not None:
            if node.reads is not None:
                node.reads.take(after, found, joins)
            node = node.parent

    def _take_writes(self, found: dict[int, int], joins: Joins) -> None:
        node: _Node | None = self
        while node is not None:
            if node.writes is not None:
                node.writes.take(-1, found, joins)
            node = node.parent

    def enter_read(self, task: int) -> None:
        """Remember a read of `task` here."""
        ordered = self.ordered
        self.last_read = task
        if ordered & _WAR and not ordered & _RAR:
            if self.reads is None:
                self.reads = _Waiting(_WAR)
            self.reads.add(task)
        self._enter_above(task, ordered & (_WAR | _RAR))

    def enter_write(self, task: int) -> None:
        """Remember a write of `task` here."""
        ordered = self.ordered
        self.last_write = task
        if ordered & _WAW:
            self.reads = None  # all of them come before this write
        elif ordered & _RAW:
            if self.writes is None:
                self.writes = _Waiting(_RAW)
            self.writes.add(task)
        self._enter_above(task, ordered & (_RAW | _WAW))

    def _enter_above(self, task: int, hazards: int) -> None:
        above = self.parent
        while above is not None:
            for hazard, waiting in above.below.items():
                if hazards & hazard:
                    waiting.fresh.append(task)
                    waiting.nodes.append(self)
            above = above.parent


class Trees:
    """All nodes of a program, made when first accessed.

    Parameters
    ----------
    ntasks : int
        Number of tasks; join nodes are numbered from here.
    parent : array of int
        The resource above each one, or -1.
    ordered : bytearray
        The hazards that each resource's domain orders.  A whole tree has one domain.
    usual : int
        The hazards of the domain whose resources need no node unless they have relatives.

    Attributes
    ----------
    joins : Joins
        The join nodes made.
    """

    __slots__ = ("_nodes", "_ordered", "_parent", "_usual", "joins")

    def __init__(self, ntasks: int, parent: array[int], ordered: bytearray, usual: int) -> None:
        self._parent = parent
        self._ordered = ordered
        self._nodes: dict[int, _Node] = {}
        self.joins = Joins(ntasks)
        self._usual = usual

    def marks(self, mark: int) -> array[int]:
        """Return `mark` for each resource that belongs here, and -1 for the others."""
        usual = self._usual
        found = array("i", [-1]) * len(self._parent)
        for resource, (above, flags) in enumerate(zip(self._parent, self._ordered, strict=True)):
            if flags != usual:
                found[resource] = mark
            if above >= 0:
                found[resource] = found[above] = mark
        return found

    def enter(
        self, task: int, reads: Sequence[int], writes: Sequence[int], found: dict[int, int]
    ) -> None:
        """Put among `found` what `task` must come after; then remember its accesses.

        Parameters
        ----------
        task : int
            Greater than in every call before.
        reads, writes : sequence of int
            Members that it reads and writes.
        found : dict of int to int
            Predecessors and the `Hazard` flags of their edges; added to.
        """
        read_nodes = [self._node(resource) for resource in reads]
        write_nodes = [self._node(resource) for resource in writes]
        for node in read_nodes:
            node.take_read(found, self.joins)
        for node in write_nodes:
            node.take_write(found, self.joins)
        for node in read_nodes:
            node.enter_read(task)
        for node in write_nodes:
            node.enter_write(task)

    def _node(self, resource: int) -> _Node:
        """Return the node of `resource`, made with those above it if it is new."""
        node = self._nodes.get(resource)
        if node is None:
            above = self._parent[resource]
            parent = None if above < 0 else self._node(above)
            node = self._nodes[resource] = _Node(self._ordered[resource], parent)
            if parent is not None and not parent.below:
                parent.below = {
                    hazard: _Below(hazard, parent)
                    for hazard in (_RAW, _WAR, _WAW, _RAR)
                    if parent.ordered & hazard
                }
        return node
