"""The record of one batch's tasks, gathered on rank 0 while they run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alamo_mpi.core.messages import Progress
from alamo_mpi.core.record import TaskRecord
from alamo_mpi.core.states import State
from alamo_mpi.runtime.packing import nbytes_of

if TYPE_CHECKING:
    from alamo_mpi.runtime.submission import Submission, Tried

__all__ = ["Recorder"]


class Recorder:
    """Keep one `TaskRecord` for each task; memory grows with the number of tasks."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        #: Adds to the manager's clock to give seconds since the epoch.
        self._wall = time.time() - time.perf_counter()
        self.records: list[TaskRecord] = []

    def ended(
        self,
        submission: Submission,
        indices: Sequence[int],
        offset: int,
        rank: int,
        message: Progress,
    ) -> None:
        """Record tasks that a worker has reported."""
        spans = message.spans or []
        for at, index in enumerate(indices, offset):
            started, ended = spans[at]
            kept = submission.kept.get(index)
            out = kept[1] if kept is not None else nbytes_of(submission.results[index])
            into = _nbytes_in(submission.arguments[index])
            self._add(submission, index, started, ended, rank, into, out)

    def retried(self, submission: Submission, index: int, attempt: Tried) -> None:
        """Record an attempt that has failed and that another one follows."""
        _, started, ended, _ = attempt
        into = _nbytes_in(submission.arguments[index])
        self._add(submission, index, started, ended, attempt.rank, into, 0, status="retried")

    def not_run(self, submission: Submission, index: int) -> None:
        """Record a task that was skipped or cancelled."""
        now = time.time()
        self._add(submission, index, now, now, -1, 0, 0)

    def _add(
        self,
        submission: Submission,
        index: int,
        started: float,
        ended: float,
        rank: int,
        into: int,
        out: int,
        status: str | None = None,
    ) -> None:
        program = submission.program
        ready = submission.submitted
        if program.ready_at is not None:
            ready = program.ready_at.get(index, ready)
        self.records.append(
            TaskRecord(
                uid=submission.uids[index],
                name=submission.names[index],
                submitted=submission.submitted + self._wall,
                # Clocks of hosts differ by a little; a task was ready before it started.
                ready=min(ready + self._wall, started),
                started=started,
                ended=ended,
                rank=rank,
                host=self._hosts[rank] if rank >= 0 else "",
                bytes_in=into,
                bytes_out=out,
                status=status or State(program.states[index]).name.lower(),
                attempt=len(submission.attempts.get(index, ())) or 1,
            )
        )


def _nbytes_in(arguments: Any) -> int:
    return 8 * len(arguments) if type(arguments) is tuple else nbytes_of(arguments)
