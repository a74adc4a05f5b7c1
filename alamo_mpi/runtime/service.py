"""What `Batch`, `Task` and `AsyncDict` need of whoever gives them workers.

There is a `Manager` on rank 0 and, on every other rank, a `RemoteService` that speaks with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # every attached process imports this, also one without batches
    from alamo_mpi.core.gpus import Means
    from alamo_mpi.core.lifecycle import Lifecycle
    from alamo_mpi.core.record import TaskRecord
    from alamo_mpi.runtime.outcome import Outcomes, Wanted
    from alamo_mpi.runtime.prepare import Preparer
    from alamo_mpi.runtime.submission import Submission

__all__ = ["BatchHandle", "BatchService", "BatchState", "current", "offer"]

#: What a pickled batch is: its number, its number of workers, and whether it records.
BatchState = tuple[int, int, bool]


class BatchHandle(Protocol):
    """One batch as its clients in this process see it."""

    @property
    def number(self) -> int:
        """Number of the batch in its program."""

    @property
    def num_workers(self) -> int:
        """Number of its workers."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its workers, as far as they are known here."""

    @property
    def lifecycle(self) -> Lifecycle:
        """Its clients, as far as they are known here."""

    @property
    def submissions(self) -> Mapping[int, Submission]:
        """Its starts that are not over, as far as they are known here."""

    @property
    def unfinished(self) -> int:
        """Number of tasks in no final state, as far as they are known here."""


class BatchService(Protocol):
    """Gives workers to batches, and takes their tasks.

    Attributes
    ----------
    preparer : Preparer
        Makes submissions of tasks.
    outcomes : Outcomes
        Gives what came back of tasks.
    uids : iterator of int
        Ids of tasks, unique in the program.
    one_node : bool
        Whether no worker is nearer to any data than another, as far as is known here.
    """

    preparer: Preparer
    outcomes: Outcomes
    uids: Iterator[int]

    @property
    def one_node(self) -> bool:
        """See above."""

    def open_batch(
        self, num_workers: int | None, log_level: int, *, record: bool
    ) -> tuple[Any, Any]:
        """Open a batch; return its handle and its first client."""

    def join_in(self, state: BatchState) -> tuple[Any, Any]:
        """Become a further client of a batch; return its handle and the client."""

    def means_of(self, live: Any) -> Mapping[int, Means]:
        """Return what each worker of a batch has, for the policies of tasks; none if it is over."""

    def share(self, live: Any) -> BatchState:
        """Return what to pickle of a batch; others may come to it from now on."""

    def submit(self, live: Any, submission: Submission) -> None:
        """Start tasks; returns at once."""

    def drive(
        self, done: Callable[[], bool], timeout: float | None = None, on: Wanted | None = None
    ) -> bool:
        """Wait until `done`, and make that come about; return whether it is.

        `on` says what a wait without end is for; a task may then get a `DeadlockError`.
        """

    def in_callback(self, submission: Submission | None = None) -> bool:
        """Tell whether this thread runs a callback, of this submission if given."""

    def close(self, live: Any, client: Any) -> None:
        """Note that a client submits nothing more."""

    def await_end(self, live: Any, timeout: float) -> bool:
        """Wait until the batch is over; return whether it is."""

    def terminate(self, live: Any) -> bool:
        """Cancel what waits, interrupt what runs; return whether all of it has ended."""

    def cancel(self, live: Any, submission: Submission, tasks: list[int] | None) -> None:
        """Give up tasks of a start, or all of it; returns at once."""

    def cancel_all(self, live: Any) -> None:
        """Give up all that was started in a batch so far; returns at once."""

    def leave(self, live: Any, client: Any) -> None:
        """Note that nobody holds a client any more; only notes, as finalizers may."""

    def records(self, live: Any) -> list[TaskRecord] | None:
        """Return the record of a batch's tasks; None if it keeps none."""


_offered: Callable[[], BatchService] | None = None


def offer(make: Callable[[], BatchService] | None) -> None:
    """Say how batches made in this process, which has no manager, get their service."""
    global _offered
    _offered = make


def current() -> BatchService | None:
    """Return the service that was offered, if any was."""
    return None if _offered is None else _offered()
