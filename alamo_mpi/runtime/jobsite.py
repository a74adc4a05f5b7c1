"""A worker as a place where ranks of jobs run: what it starts for them, and sees the end of.

The worker that leads a job asks the others of its gang by `Enlist` to start what runs a rank; each
does that itself, so that the process has its worker's host, cores and GPUs.  `Dismiss` ends it.

A moment later the worker starts a spare for its next rank, which waits until it is told: so a
Python need be started only for the first job, and for one that follows another at once, which
would wait for the spare as long.  Started with `Dismiss`, each host's spares would take the
processors for 20 ms from what runs next.  The spare ends with its worker.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from alamo_mpi.core.jobmessages import Dismiss, Enlist, Join, Part, SpawnTurn
from alamo_mpi.core.launch import scrubbed
from alamo_mpi.errors import InternalError
from alamo_mpi.mpi.groups import communicator_of
from alamo_mpi.mpi.world import Communicator, World
from alamo_mpi.runtime import jobwrapper
from alamo_mpi.runtime.execute import Work
from alamo_mpi.runtime.jobranks import Leading, Members
from alamo_mpi.runtime.spool import Output

__all__ = ["WRAPPER", "JobSite", "here"]

#: Plain, without site packages and without what the user's variables say: there in 20 ms.  Imported
#: and not run as a file, it need not be compiled each time.  Its rank follows.
WRAPPER = (
    sys.executable,
    "-S",
    "-I",
    "-c",
    f"import sys; sys.path.append({os.path.dirname(jobwrapper.__file__)!r}); "
    "import jobwrapper; jobwrapper.main()",
)

#: Seconds that a wrapper has to end when its job is over, before it is ended.
_LEAVE_S = 1.0
_LEAVE_NAP_S = 5e-4
#: A spare is started when no job has begun or ended here for so many seconds.
_QUIET_S = 0.005

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
        self._started: dict[int, list[subprocess.Popen[bytes]]] = {}
        self._files: dict[int, list[str]] = {}
        #: Who leads a job that this worker has started something for, and the job's `shared`.
        self._leaders: dict[int, tuple[int, tuple[str, ...]]] = {}
        self._spare: subprocess.Popen[bytes] | None = None
        #: When to start a spare, if one is to be.
        self._spare_due: float | None = None
        #: Held to start one: the main thread looks when it is idle, the service thread beside it.
        self._starting = threading.Lock()
        #: Interrupts user code of this worker; set by whoever makes the site.
        self.interrupt: Callable[[Work], None] = lambda work: None
        _here = self

    def lead(self, work: Work) -> None:
        """Note what this worker runs from now on, which is a job."""
        self.work = work
        self._put_off_spare()

    def dispatch(self, source: int, message: Any) -> bool:
        """Take in a message, if it is about jobs; on any thread, starts and ends processes."""
        if isinstance(message, Enlist):
            self._enlist(source, message)
        elif isinstance(message, Dismiss):
            if self._dismiss(message.job):
                self._spare_due = time.monotonic() + _QUIET_S
                if self.world.size == 1:
                    self._start_spare()  # nobody would look later
            _unlink_shared(message.shared)
            for group in message.orphans:
                with contextlib.suppress(OSError):
                    os.killpg(group, signal.SIGKILL)
        elif isinstance(message, SpawnTurn):
            # A turn may come after its job has stopped waiting for it.
            if self.job == message.job:
                self.turn.set()
        elif isinstance(message, Join):
            self._put_off_spare()
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

    def look_ahead(self) -> None:
        """Start a spare if it is time to; on any thread that polls."""
        due = self._spare_due
        if due is not None and time.monotonic() > due:
            self._start_spare()

    def _start_spare(self) -> None:
        with self._starting:
            # The other thread may have been here meanwhile.
            due, self._spare_due = self._spare_due, None
            if due is not None and self._spare is None:
                with contextlib.suppress(OSError):
                    self._spare = _start()

    def _put_off_spare(self) -> None:
        if self._spare_due is not None:
            self._spare_due = time.monotonic() + _QUIET_S

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
        # What cannot be started does not connect to the hub, which says so when its time is over;
        # but it is this very Python that is started.
        with contextlib.suppress(OSError):
            self._spare_due = None
            process, self._spare = self._spare, None
            if process is None or process.poll() is not None:
                process = _start()
            self._started.setdefault(message.job, []).append(process)
            environ = {**scrubbed(os.environ), **message.env}
            assert process.stdin is not None
            with process.stdin as pipe:
                pipe.write(marshal.dumps((message.rank, os.getcwd(), environ)))

    def _dismiss(self, job: int) -> bool:
        """End what is left of a job; return whether it had a process of this worker."""
        self._leaders.pop(job, None)
        comm = self._communicators.pop(job, None)
        if comm is not None:
            comm.Free()
        for path in self._files.pop(job, ()):
            with contextlib.suppress(OSError):
                os.unlink(path)
        started = self._started.pop(job, [])
        for process in started:
            _await_end(process)
        return bool(started)

    def close(self) -> None:
        """End what is left of all jobs; communicators of failed ones go with MPI."""
        self._communicators.clear()
        for job in {*self._started, *self._files}:
            self._dismiss(job)
        if self._spare is not None:
            assert self._spare.stdin is not None
            self._spare.stdin.close()
            _await_end(self._spare)
            self._spare = None


def _start() -> subprocess.Popen[bytes]:
    """Start a wrapper that waits to be told its rank."""
    return subprocess.Popen(
        [*WRAPPER, jobwrapper.SPARE],
        env=scrubbed(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is the program's to handle, and what it ends, it tells.
        start_new_session=True,
    )


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a wrapper that has been told to go; not by Popen.wait, which soon naps too long."""
    until = time.monotonic() + _LEAVE_S
    while process.poll() is None:
        if time.monotonic() > until:
            process.kill()
        time.sleep(_LEAVE_NAP_S)


def _unlink_shared(beginnings: tuple[str, ...]) -> None:
    if not beginnings:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(_SHARED_MEMORY):
            if name.startswith(beginnings):
                with contextlib.suppress(OSError):  # another worker of this host was quicker
                    os.unlink(os.path.join(_SHARED_MEMORY, name))
