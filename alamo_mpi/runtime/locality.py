"""Where the data lies that tasks declare to read, for placement when there are several nodes.

What a task writes into a `DDict` stays in its worker's memory.  So a reader is best run where its
data is: known before the start for keys that are there already (looked up here, many at a time,
one-sidedly), and for the others when the task that writes them has ended (`Program.resident`).
On one node all memory is equally near, and nothing of this is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, repeat

from alamo_mpi.core.access import CommunicationObject, DataAccess, Mode
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.keyhash import hash_bytes
from alamo_mpi.core.many import locate_many
from alamo_mpi.core.program import Program
from alamo_mpi.runtime import pool

__all__ = ["Locality"]

#: Tasks whose data is looked up at a start: what is more is placed as it comes.
_MOST_TASKS = 4096


class Locality:
    """What placement can know about the data of a list of tasks; for worlds of several nodes.

    Parameters
    ----------
    ranks
        The workers that may run the tasks.
    accesses
        What each task declares.
    """

    def __init__(self, ranks: Sequence[int], accesses: Sequence[Sequence[DataAccess]]) -> None:
        self._pool = pool.current()
        self._ranks = ranks
        self._accesses = accesses
        self._resident = any(
            _dictionary(access) is not None for task in accesses for access in task
        )
        self._homes: dict[int, tuple[int, int]] = {}

    def graph(self, graph: Graph | None) -> Graph | None:
        """Look up what is there; return the graph that the tasks are to be submitted with."""
        if not self._resident:
            return graph
        first = [
            task for task in range(len(self._accesses)) if graph is None or not graph.indegree[task]
        ]
        self._look_up(first[:_MOST_TASKS])
        if graph is None and self._homes:
            return Graph.independent(len(self._accesses))
        return graph

    def note(self, program: Program) -> None:
        """Tell a program that was made with that graph, before it is submitted."""
        program.resident = self._resident
        for task, (nbytes, rank) in self._homes.items():
            program.prefer(task, nbytes, rank)

    def _look_up(self, tasks: Sequence[int]) -> None:
        """Find for each task the worker that is nearest to most of what it reads."""
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for task in tasks:
            for access in self._accesses[task]:
                uid = _dictionary(access)
                if uid is not None and access.mode == Mode.READ:
                    wanted.setdefault(uid, []).extend(
                        (task, key) for key in access.channels if isinstance(key, bytes)
                    )
        nbytes_on: dict[int, Counter[int]] = {}
        for uid, pairs in wanted.items():
            table = self._pool.tables.get(uid)
            if table is None:
                continue
            places = locate_many(table, [(hash_bytes(key), key) for _, key in pairs])
            for (task, _), place in zip(pairs, places, strict=True):
                if place is not None:
                    rank, nbytes = place
                    nbytes_on.setdefault(task, Counter())[rank] += nbytes
        turns: dict[int, Iterator[int]] = {}
        for task, counts in nbytes_on.items():
            rank, nbytes = counts.most_common(1)[0]
            worker = next(turns.setdefault(rank, self._near(rank)), None)
            if worker is not None:
                self._homes[task] = nbytes, worker

    def _near(self, rank: int) -> Iterator[int]:
        """Yield the rank itself or, if it is no worker here, those of its host in turn."""
        if rank in self._ranks:
            return repeat(rank)
        hosts = self._pool.hosts
        return cycle([each for each in self._ranks if hosts[each] == hosts[rank]])


def _dictionary(access: DataAccess) -> int | None:
    """Return the uid of the dictionary that is accessed, if it is one."""
    obj = access.obj
    if isinstance(obj, CommunicationObject) and type(obj.identity) is tuple:
        name, *rest = obj.identity
        if name == "DDict" and len(rest) == 1 and isinstance(rest[0], int):
            return rest[0]
    return None
