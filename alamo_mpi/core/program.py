"""One started task, single or compiled, as the scheduler sees it: a graph and its states."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.placement import ReadySet
from alamo_mpi.core.retry import Retry
from alamo_mpi.core.states import State

__all__ = ["DEPTH_SHIFT", "NO_TASKS", "Program"]

#: Numbers of programs stay below ``1 << DEPTH_SHIFT``.
DEPTH_SHIFT = 48

#: Shared, like `_NO_NODES`: what a single task has of its own, the garbage collector visits, and
#: with a hundred thousand of them that is a third of their cost.
NO_TASKS: frozenset[int] = frozenset()
_NO_NODES = array("i")
_RAW = int(Hazard.RAW)


class Program:
    """The tasks that one `Task.start` submitted, with what the scheduler knows of each.

    Parameters
    ----------
    pid
        Number of the program; of one depth, smaller numbers came first and are served first.
    kinds
        Function id of each task, or one id when all tasks call the same function.
    ntasks
        Number of tasks.
    graph
        Dependencies among them; None when there are none.
    externals
        ``(task, producer's program, producer)`` for arguments that are results of tasks started
        earlier.
    record
        Whether to keep when each task became ready.
    depth
        How many tasks deep its submitter is nested; deeper programs are served first.
    widths
        Task -> number of workers that it takes at once, for those that are jobs.
    pins
        Task -> the workers that may run it, for those that not all may.
    spreads
        Task -> the hosts over which its workers are to be spread, each as the workers there that
        it may have; for such jobs.

    Notes
    -----
    A program without any dependency keeps no counters and no successors; its states are one
    `bytearray`, so that a million independent tasks cost a megabyte here.
    """

    __slots__ = (
        "cancelled",
        "depth",
        "doomed",
        "externals",
        "graph",
        "homes",
        "kinds",
        "ntasks",
        "order",
        "owner",
        "pid",
        "pins",
        "queued",
        "ready",
        "ready_at",
        "remaining",
        "resident",
        "retry",
        "spreads",
        "states",
        "tried",
        "waiting",
        "watchers",
        "widths",
        "withdrawn",
    )

    def __init__(
        self,
        pid: int,
        kinds: int | Sequence[int],
        ntasks: int,
        graph: Graph | None = None,
        externals: Sequence[tuple[int, Program, int]] = (),
        *,
        record: bool = False,
        depth: int = 0,
        widths: Mapping[int, int] | None = None,
        pins: Mapping[int, frozenset[int]] | None = None,
        spreads: Mapping[int, tuple[frozenset[int], ...]] | None = None,
    ) -> None:
        self.pid = pid
        self.depth = depth
        #: Smaller comes first; its low bits are the number.
        self.order = pid - (depth << DEPTH_SHIFT)
        #: Whether it was given up: what comes back of it from workers is not run.
        self.cancelled = False
        #: Tasks that were given up though the program was not.
        self.withdrawn = NO_TASKS
        self.kinds = kinds
        self.ntasks = ntasks
        self.widths: Mapping[int, int] = widths or {}
        self.pins: Mapping[int, frozenset[int]] = pins or {}
        self.spreads: Mapping[int, tuple[frozenset[int], ...]] = spreads or {}
        if graph is None and (externals or widths or pins):
            graph = Graph.independent(ntasks)
        self.graph = graph
        self.externals = externals
        #: For whoever submitted it, to find its own view again; the scheduler never looks at it.
        self.owner: Callable[[], object] | None = None
        #: Number of tasks in no final state.
        self.remaining = ntasks
        #: Task -> the task at the root, for tasks that a failure reached (RAW).
        self.doomed: dict[int, tuple[Program, int]] = {}
        #: Task -> size of its largest input that stayed on a worker, and that worker's rank.
        self.homes: dict[int, tuple[int, int]] = {}
        #: Whether what a task writes stays in its worker's memory, so that whoever reads it is
        #: best run there too; set by whoever submits it.
        self.resident = False
        #: Task -> tasks of other programs that take its result as an argument.
        self.watchers: dict[int, list[tuple[Program, int]]] = {}
        #: Task -> time at which it became ready; None if nobody asked, or all were from the start.
        self.ready_at: dict[int, float] | None = {} if record and graph is not None else None
        #: Task -> on what terms it is tried again; set by whoever submits it.
        self.retry: Mapping[int, Retry] = {}
        #: Task -> ranks on which its attempts have failed, of those that are tried again.
        self.tried: dict[int, list[int]] = {}
        #: Whether the scheduler has this program in its queue of programs with ready tasks.
        self.queued = False
        if graph is None:
            self.states = bytearray([State.READY]) * ntasks
            #: Number of unfinished predecessors of each node.
            self.waiting = _NO_NODES
            self.ready = ReadySet(ntasks, fresh=True)
        else:
            self.states = bytearray(graph.nnodes)
            self.waiting = array("i", graph.indegree)
            levels = graph.bottom_levels() if graph.nedges else None
            self.ready = ReadySet(ntasks, levels)

    def gives_up(self, index: int) -> bool:
        """Tell whether a task was cancelled, by itself or with all others."""
        return self.cancelled or index in self.withdrawn

    def prefer(self, index: int, nbytes: int, rank: int) -> None:
        """Note that an input of a task lies on a rank; the largest one decides."""
        if nbytes > self.homes.get(index, (0, 0))[0]:
            self.homes[index] = nbytes, rank

    def prefer_readers(self, index: int, rank: int) -> None:
        """Note that what the readers of a task's output read lies on a rank, size unknown."""
        graph = self.graph
        if graph is not None:
            for edge in range(graph.succ_start[index], graph.succ_start[index + 1]):
                if graph.hazard[edge] & _RAW:
                    self.prefer(graph.succ[edge], 1, rank)

    def home(self, index: int) -> int | None:
        """Return the rank that a task is best run on, if there is one."""
        return self.homes[index][1] if index in self.homes else None

    def stands_alone(self, index: int) -> bool:
        """Tell whether a task shares no chunk with others: a job, or not for every worker."""
        return index in self.widths or index in self.pins

    def kind(self, index: int) -> int:
        """Return the function id of a task."""
        kinds = self.kinds
        return kinds if isinstance(kinds, int) else kinds[index]
