"""Where a worker keeps its site for jobs, which is made when the first one comes.

Most programs have no jobs, and what starts and watches processes takes long to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from alamo_mpi.core.jobmessages import Dismiss, Enlist, Join, Part, SpawnTurn
from alamo_mpi.mpi.world import World
from alamo_mpi.runtime.spool import Output

if TYPE_CHECKING:
    from alamo_mpi.runtime.execute import Work
    from alamo_mpi.runtime.jobsite import JobSite

__all__ = ["JobPlace"]

_OF_JOBS = (Dismiss, Enlist, Join, Part, SpawnTurn)


class JobPlace:
    """Stands for the `JobSite` of a worker; parameters as there."""

    def __init__(
        self,
        world: World,
        send: Callable[[int, Any], None],
        poll: Callable[[], bool],
        take_output: Callable[[], tuple[Output, Output]],
        stderr: int = 2,
    ) -> None:
        self._parts = world, send, poll, take_output, stderr
        self._site: JobSite | None = None
        #: Interrupts what runs in a place of this worker; set by the worker.
        self.give_up: Callable[[Work], None] = _nobody

    @property
    def site(self) -> JobSite:
        """The site; made at the first use, which is when a message of a job has come."""
        if self._site is None:
            from alamo_mpi.runtime.jobsite import JobSite

            self._site = JobSite(*self._parts)
            self._site.interrupt = self.give_up
        return self._site

    @property
    def has_work(self) -> bool:
        """Whether a rank of a job that another worker leads is here to be run."""
        return self._site is not None and bool(self._site.members)

    def lead(self, work: Work) -> None:
        """Note what this worker runs from now on, if it is a job."""
        if work.run.gang:
            self.site.lead(work)

    def interrupt(self, jobs: Iterable[int]) -> None:
        """Give up the rank of one of these jobs, if there is one here."""
        if self._site is not None:
            for work in self._site.members.of(jobs):
                self.give_up(work)

    def dispatch(self, source: int, message: Any) -> bool:
        """Take in a message, if it is about jobs; on any thread, starts and ends processes."""
        return isinstance(message, _OF_JOBS) and self.site.dispatch(source, message)

    def lose(self, rank: int) -> None:
        """End what is here of the jobs that a lost worker has led; it may wait for 1 s."""
        if self._site is not None:
            self._site.lose(rank)

    def watch(self) -> None:
        """Look after a job without processes; on the thread that polls beside it."""
        if self._site is not None:
            self._site.watch()

    def close(self) -> None:
        """End what is left of all jobs."""
        if self._site is not None:
            self._site.close()


def _nobody(work: Work) -> None:
    """Interrupt nobody."""
