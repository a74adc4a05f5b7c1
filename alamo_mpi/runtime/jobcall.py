"""A job as the function that its leading worker runs: start the ranks, wait, judge.

To the scheduler and to all that carries results a job is a task like any other, which happens to
have taken more workers than the one it runs on.  So what a task can do, a job can: take results
of others as arguments, be one, fail, be interrupted, and have its output captured.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from alamo_mpi.core.messages import Failure
from alamo_mpi.core.pmi import shared_memory
from alamo_mpi.core.silence import SETTING, silence_s
from alamo_mpi.errors import JobError, WorkerDiedError
from alamo_mpi.mpi.announced import survives
from alamo_mpi.runtime import jobrunner
from alamo_mpi.runtime.confined import Limits, variables_of
from alamo_mpi.runtime.device import mask, shared
from alamo_mpi.runtime.execute import Work
from alamo_mpi.runtime.functions import name_of
from alamo_mpi.runtime.joberror import Blame, raised_by
from alamo_mpi.runtime.jobhub import Hub, Part
from alamo_mpi.runtime.jobtarget import Travelling, packed
from alamo_mpi.runtime.packing import dumps, loads
from alamo_mpi.runtime.runners import Interruption

if TYPE_CHECKING:  # these start MPI, which a process that is no rank and declares a job must not
    from alamo_mpi.runtime.jobsite import JobSite

__all__ = ["JobCall", "Terms"]

#: Seconds that the news of a loss take, once it can be known.
_NEWS_S = 1.0
_NAP_S = 0.01


class Terms(NamedTuple):
    """How a job is to be run, apart from what."""

    uid: int
    cwd: str | None
    #: Variables to set, or to remove (None).
    env: dict[str, str | None]
    launch: str
    timeout_s: float | None
    check: bool
    #: For processes: what each of them is to keep to.
    limits: Limits | None


class JobCall:
    """Called on the leading worker with the job's arguments.

    Parameters
    ----------
    target
        Path of an executable, or a callable.
    terms
        How it is to be run.
    """

    def __init__(self, target: str | Callable[..., Any], terms: Terms) -> None:
        self._target = target
        self._terms = terms
        # What errors, pictures and telemetry call the task.
        name = os.path.basename(target) if isinstance(target, str) else name_of(target)
        self.__name__ = name
        #: A callable as it has come to this worker.
        self._came: Travelling | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with a callable pickled apart, so that the leader can hand it on as it is."""
        if isinstance(self._target, str):
            return JobCall, (self._target, self._terms)
        return _arrived, (self._came or packed(self._target), self._terms)

    def __call__(self, *arguments: Any) -> list[Any]:
        """Run the job; blocks until it has ended, and leaves nothing of it behind."""
        from alamo_mpi.runtime.joblaunch import START_S, launcher_of
        from alamo_mpi.runtime.jobsite import here

        site = here()
        work, terms = site.work, self._terms
        assert work is not None
        if terms.launch == "ranks":
            return self._on_ranks(site, work, arguments)
        gang, job = work.run.gang, _number(work, terms.uid)
        site.job = job
        hosts = [site.world.hosts[rank] for rank in gang]
        launcher = launcher_of(terms.launch, site, job)

        def problem() -> str | None:
            # In a world of one rank this may not be the main thread, which signals go to.
            if work.position in work.given_up:
                raise Interruption
            self._check_gang(site, gang)
            return launcher.problem()

        hub = Hub(self._parts(site, gang, arguments), hosts, launcher.mode)
        try:
            launcher.start(hub, gang, hosts)
            hub.run(terms.timeout_s, problem)
        finally:
            hub.drain(lambda: launcher.finished, START_S)
            hub.close()
            launcher.close()
            site.dismiss(gang, job, shared_memory(hub.space), hub.orphans)
        if survives() and hub.unheard_of:
            self._await_loss(site, gang)
        return self._judge(hub, site, gang, launcher.said)

    def _on_ranks(self, site: JobSite, work: Work, arguments: Sequence[Any]) -> list[Any]:
        from alamo_mpi.runtime.jobranks import RanksCall, run_on_ranks

        assert callable(self._target)
        terms = self._terms
        came = self._came or packed(self._target)
        call = RanksCall(terms.uid, self.__name__, self._target, came, arguments, terms.timeout_s)
        return run_on_ranks(site, work.run.gang, _number(work, terms.uid), call)

    def _parts(self, site: JobSite, gang: Sequence[int], arguments: Sequence[Any]) -> list[Part]:
        """Return what each rank runs; not every launcher gives it its worker's environment."""
        part, limits = self._part(arguments), self._terms.limits
        gpus = shared(site.world.hosts, site.world.told)
        parts = []
        for rank in gang:
            seen = mask(gpus[rank]) if gpus[rank] else {}
            seen |= variables_of(limits, partial(gpus.__getitem__, rank))
            parts.append(part._replace(env={**seen, **part.env}))
        return parts

    def _part(self, arguments: Sequence[Any]) -> Part:
        terms = self._terms
        cpus = None if terms.limits is None else terms.limits.cpus
        if isinstance(self._target, str):
            argv = [self._target, *map(str, arguments)]
            return Part(argv, terms.env, terms.cwd, cpus, None)
        call = pickle.dumps((sys.path, dumps((self._target, arguments))), 5)
        return Part([sys.executable, jobrunner.__file__], terms.env, terms.cwd, cpus, call)

    # A lost worker ------------------------------------------------------------------------------

    def _check_gang(self, site: JobSite, gang: Sequence[int]) -> None:
        """Raise if a worker of the gang was lost, in a program that goes on without it."""
        for rank in gang:
            if rank in site.world.lost:
                host = site.world.hosts[rank]
                raise WorkerDiedError(
                    f"Job {self._terms.uid} {self.__name__!r} was ended: rank {rank} (host {host}) "
                    "was lost, the worker of one of its ranks. Start it again if that is safe.",
                    uid=self._terms.uid,
                    task_name=self.__name__,
                    rank=rank,
                    host=host,
                )

    def _await_loss(self, site: JobSite, gang: Sequence[int]) -> None:
        """Wait for news of the workers where ranks went silent: often these are lost as well.

        What watched over a rank vanishes with its host, and that is seen here before its loss is
        known.  The news come by the thread that polls.
        """
        limit_s = silence_s(os.environ.get(SETTING, "")) + _NEWS_S
        until = time.monotonic() + (_NEWS_S if site.world.one_node else limit_s)
        while time.monotonic() < until:
            self._check_gang(site, gang)
            time.sleep(_NAP_S)

    # The end ------------------------------------------------------------------------------------

    def _judge(self, hub: Hub, site: JobSite, gang: Sequence[int], said: str) -> list[Any]:
        state = hub.state
        statuses = [0 if status is None else status for status in state.statuses]
        if not isinstance(self._target, str):
            for rank, status in enumerate(statuses):
                if status or rank not in hub.values:
                    state.fail(rank, f"exited with status {status} and returned nothing", status)
        if state.fault is not None:
            raise self._error(hub, site, gang, said)
        if not isinstance(self._target, str):
            return [loads(hub.values[rank]) for rank in range(len(gang))]
        if self._terms.check and any(statuses):
            status = next(filter(None, statuses))
            raise subprocess.CalledProcessError(status, self._target)
        return statuses

    def _error(self, hub: Hub, site: JobSite, gang: Sequence[int], said: str) -> JobError:
        fault = hub.state.fault
        assert fault is not None
        rank, terms = fault.rank, self._terms
        host = site.world.hosts[gang[max(rank, 0)]]
        exception: BaseException | None = None
        if rank in hub.problems:
            exception = OSError(*hub.problems[rank])
        elif isinstance(fields := hub.values.get(rank), tuple):
            exception = raised_by(Failure(*fields), self.__name__, terms.uid, rank, host)
        tail = hub.output.tail(rank) if rank >= 0 else ""
        blame = Blame(terms.uid, self.__name__, len(gang), host, fault, exception, tail, said)
        return blame.error()


def _arrived(came: Travelling, terms: Terms) -> JobCall:
    """Return the call of a callable that was pickled elsewhere."""
    call = JobCall(came.unpacked(), terms)
    call._came = came
    return call


def _number(work: Work, uid: int) -> int:
    """Return the number of a job: what is said of an earlier attempt at it is not of this one.

    Chunks of two batches may have one number; tasks have not, but a task that is tried again.
    """
    return work.run.chunk << 64 | uid
