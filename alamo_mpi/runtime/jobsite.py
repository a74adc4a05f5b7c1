"""A worker as a place where ranks of jobs run: what it starts for them, and sees the end of.

The worker that leads a job asks the others of its gang by `Enlist` to start what runs a rank; each
does that itself, so that the process has its worker's host, cores and GPUs.  `Dismiss` ends it.

What it has started for a job that is over stays as the spare for its next one (`Spare`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from alamo_mpi.core.jobmessages import Dismiss, Enlist, Join, Part, SpawnTurn
from alamo_mpi.errors import InternalError
from alamo_mpi.mpi.groups import communicator_of
from alamo_mpi.mpi.world import Communicator, World
from alamo_mpi.runtime.execute import Work
from alamo_mpi.runtime.jobranks import Leading, Members
from alamo_mpi.runtime.jobspare import Spare
from alamo_mpi.runtime.spool import Output

__all__ = ["JobSite", "here"]

_SHARED_MEMORY = "/dev/shm"

_here: JobSite | None = None


def here() -> JobSite:
    """Return the site of this worker; local."""
    if _here is None:
        raise InternalError("a job is led by a process that is no worker")
    return _here


class JobSite:
    """What one worker has to do with jobs.

    Parameters
    ----------
    world
        The ranks of the program.
    send
        ``send(rank, message)``, returns at once.
    poll
        Receives messages and dispatches them.
    take_output
        Takes what was written since the last time, out of the capture.
    stderr
        Descriptor of this process's true stderr.

    Attributes
    ----------
    members : Members
        Ranks of jobs without processes that run on this worker.
    leading : Leading or None
        The job without processes that this worker leads.
    turn : threading.Event
        Set while this rank has the program's one turn to spawn.
    work : Work
        The chunk that this worker runs; that of a job names the workers that it has taken.
    job : int
        The job that this worker leads, or led last; a job's number is the uid of its task.
    """

    def __init__(
        self,
        world: World,
        send: Callable[[int, Any], None],
        poll: Callable[[], bool],
        take_output: Callable[[], tuple[Output, Output]],
        stderr: int = 2,
    ) -> None:
        global _here
        self.world = world
        self.work: Work | None = None
        self.job = -1
        self.send = send
        self.poll = poll
        self.take_output = take_output
        self._stderr = stderr
        self.members = Members()
        self.leading: Leading | None = None
        self.turn = threading.Event()
        self._communicators: dict[int, Communicator] = {}
        self._started: dict[int, list[Spare]] = {}
        self._files: dict[int, list[str]] = {}
        #: Who leads a job that this worker has started something for, and the job's `shared`.
        self._leaders: dict[int, tuple[int, tuple[str, ...]]] = {}
        self._spare: Spare | None = None
        #: Held to take the spare, or to give it back: the main thread may, and the service thread.
        self._keeping = threading.Lock()
        #: Interrupts user code of this worker; set by whoever makes the site.
        self.interrupt: Callable[[Work], None] = lambda work: None
        _here = self

    def lead(self, work: Work) -> None:
        """Note what this worker runs from now on, which is a job."""
        self.work = work

    def dispatch(self, source: int, message: Any) -> bool:
        """Take in a message, if it is about jobs; on any thread, starts and ends processes."""
        if isinstance(message, Enlist):
            self._enlist(source, message)
        elif isinstance(message, Dismiss):
            self._dismiss(message.job)
            _unlink_shared(message.shared)
            for group in message.orphans:
                with contextlib.suppress(OSError):
                    os.killpg(group, signal.SIGKILL)
        elif isinstance(message, SpawnTurn):
            # A turn may come after its job has stopped waiting for it.
            if self.job == message.job:
                self.turn.set()
        elif isinstance(message, Join):
            self.members.join(source, message)
        elif isinstance(message, Part):
            # One that ends after its job was given up is no news.
            if self.leading is not None and self.leading.job == message.job:
                self.leading.take(message)
        else:
            return False
        return True

    def watch(self) -> None:
        """Look after a job without processes; on the thread that polls beside it."""
        if self.leading is not None:
            self.leading.watch()

    def communicator(self, gang: Sequence[int], job: int) -> Communicator:
        """Make the communicator of a gang; collective over it, ended by `dismiss`."""
        comm = self._communicators[job] = communicator_of(self.world, gang, job)
        return comm

    def give_up(self, why: str) -> NoReturn:
        """End the whole program, and say why."""
        # The capture holds descriptor 2 at the moment.
        os.write(self._stderr, f"{why}\n".encode(errors="replace"))
        self.world.abort(1)

    def tell(self, rank: int, message: Enlist | Dismiss) -> None:
        """Have a worker of the gang, this one too, take in a message."""
        if rank == self.world.rank:
            self.dispatch(rank, message)
        else:
            self.send(rank, message)

    def dismiss(
        self, gang: Sequence[int], job: int, shared: tuple[str, ...], orphans: Mapping[int, int]
    ) -> None:
        """End what is left of a job on its workers; orphans are process groups by job rank."""
        for rank, worker in enumerate(gang):
            mine = (orphans[rank],) if rank in orphans else ()
            if worker in self.world.lost and (other := self._neighbour(worker)) is not None:
                worker = other
            self.tell(worker, Dismiss(job, shared, mine))

    def _neighbour(self, rank: int) -> int | None:
        """Return a worker that is left on the host of another, None if there is none."""
        hosts, lost = self.world.hosts, self.world.lost
        left = (r for r in range(1, len(hosts)) if hosts[r] == hosts[rank] and r not in lost)
        return next(left, None)

    def lose(self, rank: int) -> None:
        """End what this worker has started for jobs that a lost one has led; it may wait 1 s."""
        for job, (leader, shared) in list(self._leaders.items()):
            if leader == rank:
                self._dismiss(job)
                _unlink_shared(shared)

    def _enlist(self, source: int, message: Enlist) -> None:
        if source in self.world.lost:  # it would wait here for a `Dismiss`
            return
        self._leaders[message.job] = source, message.shared
        if message.path:
            self._files.setdefault(message.job, []).append(message.path)
            # Where hosts share the folder, another one's worker was quicker.  One that cannot be
            # written is missed by whoever should read it, and the hub says so.
            with contextlib.suppress(OSError):
                fd = os.open(message.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(fd, "w") as file:
                    file.write(message.content)
        if message.rank < 0:
            return
        # What cannot be started does not connect to the hub, which says so when its time is over.
        with contextlib.suppress(OSError):
            with self._keeping:
                spare, self._spare = self._spare, None
            if spare is None or not spare.stand_for(message.rank, message.env):
                spare = Spare()
                spare.stand_for(message.rank, message.env)
            self._started.setdefault(message.job, []).append(spare)

    def _dismiss(self, job: int) -> None:
        """End what is left of a job."""
        self._leaders.pop(job, None)
        comm = self._communicators.pop(job, None)
        if comm is not None:
            comm.Free()
        for path in self._files.pop(job, ()):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for spare in self._started.pop(job, ()):
            kept = False
            if spare.is_over():
                with self._keeping:
                    kept = self._spare is None
                    if kept:
                        self._spare = spare
            if not kept:
                spare.end()

    def close(self) -> None:
        """End what is left of all jobs; communicators of failed ones go with MPI."""
        self._communicators.clear()
        for job in {*self._started, *self._files}:
            self._dismiss(job)
        if self._spare is not None:
            self._spare.end()
            self._spare = None


def _unlink_shared(beginnings: tuple[str, ...]) -> None:
    if not beginnings:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(_SHARED_MEMORY):
            if name.startswith(beginnings):
                with contextlib.suppress(OSError):  # another worker of this host was quicker
                    os.unlink(os.path.join(_SHARED_MEMORY, name))
