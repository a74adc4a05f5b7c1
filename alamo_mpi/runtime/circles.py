"""The waits of tasks, on rank 0: what is told of them, and the error where they go in a circle.

All methods are called under the manager's lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from alamo_mpi.core.messages import Answer
from alamo_mpi.core.program import Program
from alamo_mpi.core.waits import Node, Waits, Want
from alamo_mpi.errors import DeadlockError
from alamo_mpi.runtime.outcome import Wanted
from alamo_mpi.runtime.roster import LiveBatch, Roster
from alamo_mpi.runtime.submission import Submission
from alamo_mpi.runtime.turn import Seat
from alamo_mpi.runtime.vigil import NOBODY, Vigil

__all__ = ["Circles"]


class Circles:
    """Every wait that was told, and what each is for.

    Parameters
    ----------
    roster
        The live batches.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._waits = Waits()

    def vigil(
        self,
        place: Seat | None,
        on: Wanted | None,
        lock: contextlib.AbstractContextManager[object],
    ) -> Vigil:
        """Return what tells of a wait in this process, of a task that has this place.

        Called without the manager's lock, unlike the others.
        """
        if place is None or on is None:
            return NOBODY
        uid = place.uid

        def begin() -> list[Answer]:
            with lock:
                self.begin(uid, *on)
            return []

        def end() -> None:
            with lock:
                self.end(uid)

        return Vigil(begin, end)

    def begin(self, uid: int, wanted: LiveBatch | Submission, index: int | None = None) -> None:
        """Note that a task waits: for the end of a batch, for a task of a start, or for all of it.

        Raises
        ------
        DeadlockError
            If that has no end, since what it waits for waits for it, or cannot start while jobs
            keep their workers and wait; then nothing is noted.
        """
        node = self._find(uid)
        if node is None:
            return  # it is over: whoever asks is a thread that it has left
        want = _end_of(wanted) if isinstance(wanted, LiveBatch) else _tasks_of(wanted, index)
        circle = self._waits.begin(uid, node, want)
        if circle:
            raise DeadlockError(self._told(circle), uid=uid)
        chunks = [
            chunk
            for live in self._roster.batches
            for chunk in live.scheduler.dispatch.chunks.values()
        ]
        starved = self._waits.starved(uid, chunks, self._workers_of)
        if starved:
            self._waits.end(uid)
            lines = [f"{self._name(each)} waits for {want.name}" for each, want in starved]
            raise DeadlockError(
                f"{self._title(uid)} would wait for ever: jobs keep their workers while they wait, "
                f"and none is left for what they wait for: {'; '.join(lines)}. Give the jobs fewer "
                "workers, or pass them the results of tasks as arguments.",
                uid=uid,
            )

    def _workers_of(self, program: Program) -> frozenset[int]:
        for root in self._roster.batches:
            if any(program.pid in live.submissions for live in (root, *root.children)):
                return frozenset(root.ranks)
        return frozenset()

    def end(self, uid: int) -> None:
        """Note that a task waits no more."""
        self._waits.end(uid)

    def _find(self, uid: int) -> Node | None:
        for root in self._roster.batches:
            for live in (root, *root.children):
                for submission in live.submissions.values():
                    if uid in submission.uids:
                        return submission.program, submission.index_of(uid)
        return None

    def _told(self, circle: Sequence[tuple[int, Want]]) -> str:
        lines = []
        for at, (uid, want) in enumerate(circle):
            after = self._name(circle[(at + 1) % len(circle)][0])
            behind = "" if want.name == after else f", which does not end before {after} has ended"
            lines.append(f"{self._name(uid)} waits for {want.name}{behind}")
        return (
            f"{self._title(circle[0][0])} would wait for ever: {'; '.join(lines)}. Let "
            "one of them return what the others need before it waits, or give a wait a timeout."
        )

    def _title(self, uid: int) -> str:
        return self._name(uid).replace("task", "Task", 1)

    def _name(self, uid: int) -> str:
        node = self._find(uid)
        owner = node[0].owner() if node is not None and node[0].owner is not None else None
        if node is None or not isinstance(owner, Submission):
            return f"task {uid}"
        return _name(owner, node[1])


def _end_of(live: LiveBatch) -> Want:
    def programs() -> list[Program]:
        batches = (live, *live.children)
        return [each.program for batch in batches for each in batch.submissions.values()]

    return Want(programs, None, f"the end of {live}")


def _tasks_of(submission: Submission, index: int | None) -> Want:
    program = submission.program
    if index is None and program.ntasks != 1:
        name = f"the {program.ntasks} tasks of a compiled task"
    else:
        name = _name(submission, index or 0)
    return Want(lambda: (program,), index, name)


def _name(submission: Submission, index: int) -> str:
    return f"task {submission.uids[index]} {submission.names[index]!r}"
