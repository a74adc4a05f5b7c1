"""Jobs without processes: a callable on the reserved workers, on a communicator of theirs.

The leader sends `Join` to the others; each makes the communicator with it and calls the callable
on its main thread, with the communicator in front of the arguments; the others answer by `Part`.

A rank that raises while others wait for it in MPI cannot be helped: nothing wakes them (MPICH has
no working ``MPI_Comm_revoke``).  Python code of the others is interrupted.  Where that does not
end them within `STUCK_S` the leader ends the program, and says whose exception it was: a clear end
instead of a hang.  A callable that must not do that belongs into processes of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alamo_mpi.core.jobmessages import Join, Part
from alamo_mpi.core.jobstate import Fault, out_of_time
from alamo_mpi.core.messages import Failure, Interrupt, Run
from alamo_mpi.errors import JobError
from alamo_mpi.mpi.world import Communicator
from alamo_mpi.runtime.backoff import Backoff
from alamo_mpi.runtime.execute import Work
from alamo_mpi.runtime.failures import describe
from alamo_mpi.runtime.joberror import Blame, raised_by
from alamo_mpi.runtime.joboutput import JobOutput
from alamo_mpi.runtime.jobtarget import Travelling
from alamo_mpi.runtime.packing import dumps, loads
from alamo_mpi.runtime.runners import Guard, Interruption

if TYPE_CHECKING:
    from alamo_mpi.runtime.jobsite import JobSite

__all__ = ["Leading", "Members", "RanksCall", "run_on_ranks"]

#: Seconds that ranks have to end once the job has failed, before the program is ended.
STUCK_S = 5.0


class RanksCall(NamedTuple):
    """What is called on each rank, and for how long at most."""

    uid: int
    name: str
    function: Callable[..., Any]
    #: The function again, for the others.
    came: Travelling
    arguments: Sequence[Any]
    timeout_s: float | None


class Leading:
    """A job on ranks that this worker leads; fed by whichever thread receives."""

    def __init__(self, site: JobSite, gang: tuple[int, ...], job: int, call: RanksCall) -> None:
        self._site = site
        self._gang = gang
        self.job = job
        self._call = call
        self._since = time.monotonic()
        self.parts: dict[int, Part] = {}
        self.fault: Fault | None = None
        self._failed_at = 0.0
        #: Whether user code of this job runs on this worker.
        self.inside = False

    @property
    def complete(self) -> bool:
        """Whether every rank has ended."""
        return len(self.parts) == len(self._gang)

    def take(self, part: Part) -> None:
        """Take in the end of one rank; a failure ends the others."""
        self.parts[part.rank] = part
        if part.failure is not None:
            self.fail(Fault(part.rank, "raised an exception"))

    def fail(self, fault: Fault) -> None:
        """Note the first failure, and interrupt whoever still runs."""
        if self.fault is not None:
            return
        self.fault, self._failed_at = fault, time.monotonic()
        self.interrupt()

    def interrupt(self) -> None:
        """Raise an exception in the user code of all ranks that run it."""
        for rank, worker in enumerate(self._gang):
            if rank and rank not in self.parts:
                self._site.send(worker, Interrupt({self.job: None}))
        if self.inside and self._site.work is not None:
            self._site.interrupt(self._site.work)

    def watch(self) -> None:
        """Notice that time is over, or that a failed job does not end; called now and then."""
        now, timeout_s = time.monotonic(), self._call.timeout_s
        if self.fault is None and timeout_s is not None and now > self._since + timeout_s:
            self.fail(out_of_time(timeout_s))
        if self.fault is not None and now > self._failed_at + STUCK_S and not self.complete:
            waiting = [self._gang[r] for r in range(len(self._gang)) if r not in self.parts]
            self._site.give_up(
                f"{self.error()}\nRanks {waiting} of the program wait for it inside MPI, which "
                f"nothing can interrupt, so the program ends. Without launch='ranks' a job has "
                f"processes of its own, and its failure ends nothing else."
            )

    def error(self) -> JobError:
        """Return the error of a job that has failed."""
        fault, call = self.fault, self._call
        assert fault is not None
        host = self._site.world.hosts[self._gang[max(fault.rank, 0)]]
        part = self.parts.get(fault.rank)
        exception, tail = None, ""
        if part is not None and part.failure is not None:
            failure = Failure(*part.failure)
            exception = raised_by(failure, call.name, call.uid, fault.rank, host)
            tail = part.stderr[-4096:].decode(errors="replace").strip()
        return Blame(call.uid, call.name, len(self._gang), host, fault, exception, tail).error()


def run_on_ranks(site: JobSite, gang: tuple[int, ...], job: int, call: RanksCall) -> list[Any]:
    """Run a callable on the workers of a gang; on its leader, whose main thread this is.

    Raises
    ------
    JobError
        If it raised on a rank, or did not end in time.
    """
    leading = site.leading = Leading(site, gang, job, call)
    arguments = dumps(tuple(call.arguments))
    for worker in gang[1:]:
        site.send(worker, Join(job, gang, *call.came, arguments))
    try:
        value = _lead(site, leading, gang, job, call)
        _gather(site, leading)
        if leading.fault is not None:
            raise leading.error()
        site.dismiss(gang, job, (), {})
        return [value, *(loads(leading.parts[rank].result[0]) for rank in range(1, len(gang)))]  # type: ignore[index]
    except Interruption:
        # From outside, as by Batch.terminate: the others have not heard of it.
        leading.fail(Fault(-1, "was interrupted"))
        raise
    finally:
        site.leading = None


def _lead(site: JobSite, leading: Leading, gang: tuple[int, ...], job: int, call: RanksCall) -> Any:
    value: Any = None
    failure: tuple[Any, ...] | None = None
    try:
        comm = site.communicator(gang, job)
        leading.inside = True
        value = call.function(comm, *call.arguments)
        leading.inside = False
    except Interruption:
        leading.inside = False
        if leading.fault is None:
            raise
        failure = ("", "interrupted", "", None, -1)
    except BaseException as error:
        leading.inside = False
        failure = tuple(describe(error, 1))
    out, err = site.take_output()
    leading.take(Part(job, 0, None if failure else (None,), failure, out[:], err[:]))
    return value


def _gather(site: JobSite, leading: Leading) -> None:
    """Wait for the other ranks, and write down what all of them wrote."""
    backoff = Backoff()
    while not leading.complete:
        if site.poll():
            backoff.reset()
        else:
            leading.watch()
            backoff.pause()
    output = JobOutput(len(leading.parts))
    for rank in sorted(leading.parts):
        output.add(rank, 1, leading.parts[rank].stdout)
        output.add(rank, 2, leading.parts[rank].stderr)
    output.finish()


class Members:
    """The ranks of jobs that other workers lead, on this one."""

    def __init__(self) -> None:
        #: Who leads, what is to be run, and the place in which it runs.
        self._joined: list[tuple[int, Join, Work]] = []
        self._running: tuple[int, Join, Work] | None = None

    def __bool__(self) -> bool:
        """Whether a rank waits to be run."""
        return bool(self._joined)

    def join(self, source: int, message: Join) -> None:
        """Note what is to be run."""
        self._joined.append((source, message, _work_of(message)))

    def of(self, jobs: Iterable[int]) -> list[Work]:
        """Return the ranks of these jobs that wait or run here."""
        wanted, running = set(jobs), self._running
        found = [each for each in self._joined if each[1].job in wanted]
        if running is not None and running[1].job in wanted:
            found.append(running)
        return [work for _, _, work in found]

    def begin(self, thread: int, guard: Guard | None) -> Work:
        """Take the rank that has waited longest, to be run on a thread; there must be one."""
        # Noted before it leaves the list: an interruption finds it in either place.
        self._running = self._joined[0]
        self._joined.pop(0)
        work = self._running[2]
        work.thread, work.guard, work.position = thread, guard, 0
        return work

    def run(self, site: JobSite, work: Work) -> None:
        """Run the rank that was begun, inside `capturing`."""
        assert self._running is not None
        leader, message, _ = self._running
        result, failure = None, None
        try:
            comm = site.communicator(message.gang, message.job)
            function = Travelling(message.function, message.lasting).unpacked()
            result = (_call(work, function, comm, loads(message.arguments)),)
        except BaseException as error:
            work.in_task = False
            failure = tuple(describe(error, 1))
        self._running = None
        while work.at_end:
            work.at_end.pop()()
        out, err = site.take_output()
        rank = message.gang.index(site.world.rank)
        site.send(leader, Part(message.job, rank, result, failure, out[:], err[:]))


def _call(
    work: Work, function: Callable[..., Any], comm: Communicator, arguments: Sequence[Any]
) -> bytes:
    work.in_task = True
    if work.position in work.given_up:
        raise Interruption
    values = (comm, *arguments)
    value = function(*values) if work.guard is None else work.guard.call(function, values, work)
    work.in_task = False
    return dumps(value)


def _work_of(message: Join) -> Work:
    """Return the place of a rank among what its worker runs: a chunk of one task."""
    run = Run(message.job, 0, [()], {}, {}, {}, {}, {}, {}, 0, False, 0, {}, message.gang)
    return Work(run)
