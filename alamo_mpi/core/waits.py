"""Who waits for whom, and whether that goes round in a circle.

A task *waits* when its function does, through a client: for tasks, or for the end of a batch.  Such
a wait has no end before all that it names has ended.  What is named ends only after what it comes
after; and a task among those that waits itself ends only after its own wait.  So a task that comes
to itself that way waits for ever, and all on the way with it.

A job keeps its workers while it waits.  So a task for which no others are left cannot start before
such a job has ended, and one that was suspended on such a worker cannot go on; if all jobs that
keep what they need wait for such tasks, none of them ever ends: they are *starved*.

Only waits of tasks without a time limit are known here.  What else a task may wait for (a key of a
dictionary, an item of a queue, a lock, a client that has to close a batch) somebody could bring
about who is not known to, so that is never called a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import FIRST_FINAL

__all__ = ["Node", "Waits", "Want"]

#: A task: its program, and its index there.
Node = tuple[Program, int]


class Want(NamedTuple):
    """What a task waits for: all of these tasks."""

    #: Gives the programs; of a batch they change while it is waited for.
    programs: Callable[[], Sequence[Program]]
    #: Which task of the one program; None for all tasks.
    only: int | None
    #: What to call it.
    name: str


class Waits:
    """The tasks that wait, by id."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Node, Want]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, uid: int, node: Node, want: Want) -> list[tuple[int, Want]]:
        """Note that a task waits, unless that closes a circle.

        Returns
        -------
        list of (int, Want)
            The circle, from this task on: each waits for something that ends only after the next,
            the last for something that ends only after the first.  Empty if there is none, and
            only then the wait is noted.
        """
        self._forget_ended()
        if _is_final(*node):
            return []
        circle = self._circle(uid, node, want)
        if not circle:
            self._waiting[uid] = node, want
        return circle

    def starved(
        self, uid: int, chunks: Sequence[Chunk], workers: Callable[[Program], frozenset[int]]
    ) -> list[tuple[int, Want]]:
        """Return the waits that have no end as jobs keep all workers, if that of a task is one.

        Parameters
        ----------
        uid
            The task; its wait was noted.
        chunks
            All that are on workers.
        workers
            Gives the workers of the batch of a program.

        Notes
        -----
        Whoever waits is taken to be stuck, and struck off when all that has to end before can: it
        runs, or can start, on workers that no stuck job keeps.  Who is left at the end is stuck.
        """
        gangs = {chunk.at(chunk.done): chunk for chunk in chunks if chunk.gang}
        if not any(node in gangs for node, _ in self._waiting.values()):
            return []
        where = {
            (program, index): chunk.rank
            for chunk in chunks
            for program, indices, _ in chunk.span(chunk.done, chunk.size)
            for index in indices
        }
        needs = {each: _unfinished(want) for each, (_, want) in self._waiting.items()}
        stuck = {each: node for each, (node, _) in self._waiting.items()}
        while True:
            kept = {rank for node in stuck.values() if node in gangs for rank in gangs[node].gang}
            nodes = set(stuck.values())

            def ends(node: Node, kept: set[int] = kept, nodes: set[Node] = nodes) -> bool:
                if node in nodes or node in where:
                    return node not in nodes and (node in gangs or where[node] not in kept)
                program, index = node
                allowed = program.pins.get(index, workers(program))
                return len(allowed - kept) >= program.widths.get(index, 1)

            free = [each for each in stuck if all(map(ends, needs[each]))]
            for each in free:
                del stuck[each]
            if not free or uid not in stuck:
                break
        return [(each, self._waiting[each][1]) for each in stuck] if uid in stuck else []

    def end(self, uid: int) -> None:
        """Note that a task waits no more; it may not have been noted."""
        self._waiting.pop(uid, None)

    def _forget_ended(self) -> None:
        over = [uid for uid, (node, _) in self._waiting.items() if _is_final(*node)]
        for uid in over:
            del self._waiting[uid]

    def _circle(self, uid: int, node: Node, want: Want) -> list[tuple[int, Want]]:
        """Look for a way from a task to itself: depth first, each task once."""
        waiting = {**self._waiting, uid: (node, want)}
        seen = {uid}
        path = [(uid, want)]
        branches = [self._after(want, waiting)]
        while branches:
            following = next(branches[-1], None)
            if following is None:
                branches.pop()
                path.pop()
            elif following == uid:
                return path
            elif following not in seen:
                seen.add(following)
                then = waiting[following][1]
                path.append((following, then))
                branches.append(self._after(then, waiting))
        return []

    @staticmethod
    def _after(want: Want, waiting: dict[int, tuple[Node, Want]]) -> Iterator[int]:
        """Yield the tasks that wait themselves, of those that have to end before a wait is over."""
        before: dict[Program, set[int] | None] = {}
        for program in want.programs():
            _add(before, program, want.only)
        for uid, ((program, index), _) in waiting.items():
            # One that was given up waits no longer than until it hears of that.
            if program in before and not program.gives_up(index):
                some = before[program]
                if some is None or index in some:
                    yield uid


def _add(before: dict[Program, set[int] | None], program: Program, index: int | None) -> None:
    """Add a task, or all of a program, and what has to end before."""
    todo: list[tuple[Program, int | None]] = [(program, index)]
    while todo:
        program, index = todo.pop()
        known = before.get(program, set())
        if known is None or not program.remaining:
            continue
        fresh = None if index is None else _predecessors(program, index) - known
        before[program] = None if fresh is None else known | fresh
        for reader, producer, source in program.externals:
            if (fresh is None or reader in fresh) and not _is_final(producer, source):
                todo.append((producer, source))


def _unfinished(want: Want) -> list[Node]:
    """Return all tasks that have to end before a wait is over."""
    before: dict[Program, set[int] | None] = {}
    for program in want.programs():
        _add(before, program, want.only)
    return [
        (program, index)
        for program, some in before.items()
        for index in (range(program.ntasks) if some is None else some)
        if index < program.ntasks and not _is_final(program, index)
    ]


def _predecessors(program: Program, index: int) -> set[int]:
    """Return a task that is not final and all that have to end before it, join nodes included."""
    if _is_final(program, index):
        return set()
    graph, found = program.graph, {index}
    if graph is None or not graph.nedges:
        return found
    sources: dict[int, list[int]] = {}
    for node in range(graph.nnodes):
        if program.states[node] < FIRST_FINAL:
            for edge in range(graph.succ_start[node], graph.succ_start[node + 1]):
                sources.setdefault(graph.succ[edge], []).append(node)
    todo = [index]
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in found:
                found.add(source)
                todo.append(source)
    return found


def _is_final(program: Program, index: int) -> bool:
    return program.states[index] >= FIRST_FINAL
