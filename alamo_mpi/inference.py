"""The dependency graph of a list of tasks, from what the tasks declare that they read and write.

`infer` gives every channel and file a number, a *resource*, and hands the numbers to
`alamo_mpi.core.hazards`.  `explain` goes the way back for one edge, for messages.
"""

from __future__ import annotations

import gc
import itertools
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from alamo_mpi.core.access import CommunicationObject, DataAccess, Hazard, Mode
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import USUAL, AccessList, infer_edges
from alamo_mpi.runtime.paths import Directory, FileTable

__all__ = ["explain", "infer"]


def infer(
    accesses: Sequence[Sequence[DataAccess]], values: Iterable[tuple[int, int]] = ()
) -> Graph:
    """Return the dependency graph of tasks that are listed in the order of a sequential program.

    Parameters
    ----------
    accesses : sequence of sequence of DataAccess
        The accesses of each task.
    values : iterable of (int, int)
        Pairs (producer, consumer) of list positions: the producer's result is an argument of the
        consumer.

    Returns
    -------
    Graph
        Acyclic; all its edges point to later tasks of the list.

    Raises
    ------
    ValueError
        If a producer does not come before its consumer.
    IndexError
        If a pair of `values` is outside the list.

    Notes
    -----
    Local.  Linear in the number of accesses: 2 to 4 s for two million.  Paths are looked up in the
    file system as `alamo_mpi.runtime.paths` says.  The garbage collector is paused meanwhile.
    """
    wanted = _value_keys(values, len(accesses))
    if not wanted and not any(accesses):
        return Graph.independent(len(accesses))
    with _collector_paused():
        program = _Numbering().number(accesses)
        program.values = wanted
        return Graph.from_predecessors(len(accesses), *infer_edges(program))


def explain(
    graph: Graph, accesses: Sequence[Sequence[DataAccess]], pred: int, succ: int
) -> str | None:
    """Say why one task waits for another, as in "it reads /data/a (RAW)".

    Parameters
    ----------
    graph : Graph
        What `infer` made of `accesses`.
    accesses : sequence of sequence of DataAccess
        The accesses of each task.
    pred, succ : int
        The earlier and the later task; the sentence is about the later one.

    Returns
    -------
    str or None
        None if there is no edge between the two, directly or through join nodes.

    Notes
    -----
    Nothing is kept for this: the accesses of both tasks are compared anew.  Of several reasons
    RAW comes first.
    """
    hazards = _edge_hazards(graph, pred, succ)
    if hazards & Hazard.VALUE:
        return f"it takes the result of task {pred} as an argument (RAW)"
    for hazard, first, then in (
        (Hazard.RAW, Mode.WRITE, Mode.READ),
        (Hazard.WAW, Mode.WRITE, Mode.WRITE),
        (Hazard.WAR, Mode.READ, Mode.WRITE),
        (Hazard.RAR, Mode.READ, Mode.READ),
    ):
        if hazards & hazard:
            shared = _shared_channel(accesses[pred], first, accesses[succ], then)
            if shared is not None:
                return f"it {then.name.lower()}s {shared} ({hazard.name})"
    return None


class _Channels(defaultdict[Hashable, int]):
    """The resources among the channels of one communication object, made when first looked up.

    Being a ``defaultdict`` it makes them without running Python code for each of a million.
    """

    __slots__ = ("whole",)

    def __init__(self, new_resource: Callable[[], int]) -> None:
        super().__init__(new_resource)
        #: The resource that stands for the whole object, if it is accessed as such.
        self.whole: int | None = None


class _Numbering:
    """Gives each channel and file of a program its resource number."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self.new_resource = self._count.__next__
        self._files = FileTable(self.new_resource)
        self._objects: dict[CommunicationObject, _Channels] = {}
        # By address, since all objects live as long as the accesses: looking up a
        # CommunicationObject by value calls its Python-level __hash__ for each access.
        self._by_address: dict[int, _Channels | Directory] = {}

    def number(self, accesses: Sequence[Sequence[DataAccess]]) -> AccessList:
        """Return the accesses in terms of resources."""
        program = AccessList()
        reads, writes = program.reads, program.writes
        add_read, add_write = reads.append, writes.append
        end_reads, end_writes = program.read_stop.append, program.write_stop.append
        known: object = None
        table: _Channels | Directory = _Channels(self.new_resource)
        for task in accesses:
            for access in task:
                channels = access.channels
                add = add_write if access.mode else add_read
                if channels:
                    if access.obj is not known:
                        known, table = access.obj, self._table(access.obj)
                    for channel in channels:
                        add(table[channel])  # type: ignore[index]
                else:
                    add(self._whole(access.obj))
            end_reads(len(reads))
            end_writes(len(writes))
        program.nresources = next(self._count)
        self._relate(program)
        return program

    def resources(self, access: DataAccess) -> list[int]:
        """Return the resources of one access."""
        if not access.channels:
            return [self._whole(access.obj)]
        table = self._table(access.obj)
        return [table[channel] for channel in access.channels]  # type: ignore[index]

    def _table(self, obj: str | CommunicationObject) -> _Channels | Directory:
        table = self._by_address.get(id(obj))
        if table is None:
            table = self._files.directory(obj) if isinstance(obj, str) else self._channels(obj)
            self._by_address[id(obj)] = table
        return table

    def _channels(self, obj: CommunicationObject) -> _Channels:
        table = self._objects.get(obj)
        if table is None:
            table = self._objects[obj] = _Channels(self.new_resource)
        return table

    def _whole(self, obj: str | CommunicationObject) -> int:
        if isinstance(obj, str):
            return self._files.resource(obj)
        table = self._table(obj)
        assert isinstance(table, _Channels)
        if table.whole is None:
            table.whole = self.new_resource()
        return table.whole

    def coverings(self) -> Iterator[tuple[int, int]]:
        """Iterate over (resource, nearest accessed resource that covers it)."""
        yield from self._files.coverings()
        for table in self._objects.values():
            if table.whole is not None:
                for resource in table.values():
                    yield resource, table.whole

    def _relate(self, program: AccessList) -> None:
        """Enter which resource covers which, and what unusual domains order."""
        for resource, cover in self.coverings():
            if not program.parent:
                program.parent = array("i", [-1]) * program.nresources
            program.parent[resource] = cover
        for obj, table in self._objects.items():
            hazards = int(obj.domain.hazards)
            if hazards != USUAL:
                if not program.ordered:
                    program.ordered = bytearray([USUAL]) * program.nresources
                for resource in table.values():
                    program.ordered[resource] = hazards
                if table.whole is not None:
                    program.ordered[table.whole] = hazards


def _value_keys(values: Iterable[tuple[int, int]], ntasks: int) -> array[int]:
    """Return ``consumer * ntasks + producer`` for each pair, ascending."""
    keys = array("q")
    ascending = True
    last = -1
    for producer, consumer in values:
        if not (0 <= producer < ntasks and 0 <= consumer < ntasks):
            raise IndexError(f"({producer}, {consumer}) is not a pair of the {ntasks} tasks.")
        if producer >= consumer:
            raise ValueError(
                f"Task {consumer} of the list takes the result of task {producer}, which does not "
                "come before it: reorder the list so that each task follows those whose results "
                "it takes."
            )
        key = consumer * ntasks + producer
        ascending = ascending and key > last
        last = key
        keys.append(key)
    return keys if ascending else array("q", sorted(keys))


def _edge_hazards(graph: Graph, pred: int, succ: int) -> Hazard:
    """Return the hazards between two tasks, join nodes seen through; none if there is no edge."""
    found = Hazard(0)
    nodes = [pred]
    seen = {pred}
    for node in nodes:  # grows while it is read
        for edge in range(graph.succ_start[node], graph.succ_start[node + 1]):
            target = graph.succ[edge]
            if target == succ:
                found |= Hazard(graph.hazard[edge])
            elif target >= graph.ntasks and target not in seen:
                seen.add(target)
                nodes.append(target)
    return found


def _shared_channel(
    before: Sequence[DataAccess], first: Mode, after: Sequence[DataAccess], then: Mode
) -> str | None:
    """Return a name of what `before` accesses in mode `first` and `after` in mode `then`."""
    numbering = _Numbering()
    mine = {r for a in before if a.mode == first for r in numbering.resources(a)}
    named: dict[int, str] = {}
    for access in after:
        if access.mode == then:
            for place, resource in enumerate(numbering.resources(access)):
                named.setdefault(resource, _name(access, place))
    parent = dict(numbering.coverings())
    for resource, name in named.items():
        if mine & _upwards(resource, parent):
            return name
    for resource in mine:
        for above in _upwards(resource, parent):
            if above in named:
                return named[above]
    return None


def _upwards(resource: int, parent: dict[int, int]) -> set[int]:
    """Return a resource and all that cover it."""
    found = {resource}
    while resource in parent:
        resource = parent[resource]
        found.add(resource)
    return found


def _name(access: DataAccess, place: int) -> str:
    """Return what the user calls the channel at `place` of an access."""
    if isinstance(access.obj, str):
        return os.path.join(access.obj, *map(str, access.channels[place : place + 1]))
    whole = f"communication object {access.obj.identity!r}"
    return f"channel {access.channels[place]!r} of {whole}" if access.channels else whole


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cyclic garbage collector from walking millions of tasks meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
