"""Jobs: tasks that are programs of several processes, made by `Batch.job`."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from alamo_mpi.core.launch import LAUNCHES
from alamo_mpi.errors import TaskStateError
from alamo_mpi.handle import AsyncDict
from alamo_mpi.mpi.announced import survives
from alamo_mpi.placed import check_can_limit, hosts_of, ranks_for
from alamo_mpi.retrying import RetryOn
from alamo_mpi.runtime.confined import Confined, Limits
from alamo_mpi.task import Accesses, Task, _Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alamo_mpi.batch import Batch
    from alamo_mpi.core.policy import Policy

__all__ = ["_Job", "job", "spreads_of", "widths_of"]


class _Wanted(NamedTuple):
    """Arguments of `job`, as the user gave them."""

    num_procs: int
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str | None] | None
    launch: str
    timeout: float | None
    check: bool
    #: What of its policy is done on the workers, rather than by choosing them.
    limits: Limits | None


class _Job(_Function):
    """A program of several processes, or a callable on several ranks."""

    __slots__ = ("_hosts", "_ranks", "_width")

    def __init__(
        self,
        batch: Batch,
        target: str | os.PathLike[str] | Callable[..., Any],
        arguments: tuple[Any, ...],
        wanted: _Wanted,
        callback: tuple[Callable[..., Any] | None, tuple[Any, ...]],
        reads: Accesses = None,
        writes: Accesses = None,
    ) -> None:
        target = _checked_target(target)
        num_procs, cwd, env, launch, timeout, check, limits = wanted
        width = operator.index(num_procs)
        if width < 1:
            raise ValueError(f"num_procs must be 1 or more, not {num_procs}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        _check_launch(launch, target, plain=cwd is None and not env)
        directory = None if cwd is None else os.path.abspath(os.fspath(cwd))
        Task.__init__(self, batch, *callback, reads, writes)
        from alamo_mpi.runtime.jobcall import JobCall, Terms  # most programs have no jobs

        if launch == "ranks" and callable(target) and limits is not None:
            check_can_limit(limits)
            target, limits = Confined(target, limits), None
        variables = _checked_env(env)
        terms = Terms(self._uid, directory, variables, launch, timeout, bool(check), limits)
        self._function = JobCall(target, terms)
        self._arguments = arguments
        self._results_of = ()
        self._retry = None
        self._timeout = None  # its own limit is the hub's affair
        self._isolated = False  # its ranks are, in their own way
        self._width = width
        self._ranks: frozenset[int] | None = None
        #: If it is spread, the hosts, each as the workers there that it may have.
        self._hosts: tuple[frozenset[int], ...] = ()


def job(
    self: Batch,
    target: str | os.PathLike[str] | Callable[..., Any],
    args: Iterable[Any] = (),
    num_procs: int = 1,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
    policy: Policy | None = None,
    callback_func: Callable[..., Any] | None = None,
    callback_args: tuple[Any, ...] = (),
    reads: Accesses = None,
    writes: Accesses = None,
    *,
    timeout: float | None = None,
    check: bool = False,
    retries: int = 0,
    retry_delay: float = 0.0,
    retry_on: RetryOn = None,
    idempotent: bool = False,
) -> _Job:
    """Create a task that runs an MPI program, or a callable on several ranks.

    Parameters
    ----------
    target : str, path or callable
        A program, MPI or not, looked for on ``PATH`` if it is a bare name; or anything that
        cloudpickle can pickle, which is called once in each process.
    args : iterable
        Arguments of the program, turned into text, or of the callable.  A `Task` of this batch
        or its `Task.result` stands for that task's result.
    num_procs : int
        Number of processes, which have an ``MPI_COMM_WORLD`` of their own.  While the job runs,
        it takes as many workers of this batch, and these do nothing else.
    cwd : str or path, optional
        Where the processes start; by default where the workers are.
    env : mapping, optional
        Variables to add to the workers' environment; None as a value removes one.
    policy : Policy, optional
        How and where the processes are started; see ``docs/jobs.md``.
    callback_func : callable, optional
        Called in this process after the job's success, with its result and `callback_args`.
    callback_args : tuple
        Further arguments of the callback.
    reads, writes : DataAccess or iterable of DataAccess, optional
        What the job accesses.
    timeout : float, optional
        Seconds after which the job is ended, and fails.
    check : bool
        Whether an exit status other than 0 is an error, `subprocess.CalledProcessError`.
    retries, retry_delay, retry_on, idempotent
        As for `function`; time-outs are `JobTimeoutError`, ``retry_on=JobError`` is any end but
        the program's own.

    Returns
    -------
    Task
        Not started.  Its result is a list by rank: of exit statuses as `Popen.returncode`, or
        of what the callable returned.  ``stdout`` and ``stderr`` hold the lines of all ranks,
        each with its rank in front, as in ``[1] text``.

    Raises
    ------
    TaskStateError
        For ``launch="ranks"`` or ``"spawn"`` in a program that goes on when a worker is lost,
        ``alamo-mpi run --survive``.
    TypeError, ValueError
        If an argument makes no sense.

    Notes
    -----
    Local.  ``result.get()`` raises `JobError` when the job did not end by its program's own
    will: a rank crashed, called ``MPI_Abort``, raised, could not be started, or left others
    waiting for it for ever; or the time was over.  The other ranks are then ended.
    """
    arguments = (args,) if isinstance(args, (str, bytes)) else tuple(args)
    launch = "auto" if policy is None else policy.launch
    # A program can be shown any GPU of its host; a worker has its own.
    ranks = ranks_for(self, policy, masks=launch != "ranks")
    wanted = _Wanted(num_procs, cwd, env, launch, timeout, check, Limits.of(policy))
    task = _Job(self, target, arguments, wanted, (callback_func, callback_args), reads, writes)
    task._ranks = ranks
    if policy is not None and policy.placement == "spread":
        task._hosts = hosts_of(self, ranks)
    task._results_of = [
        (at, self._producer(each))
        for at, each in enumerate(arguments)
        if isinstance(each, (Task, AsyncDict))
    ]
    task._try_again(retries, retry_delay, retry_on, idempotent)
    return task


def widths_of(tasks: Sequence[Task], nworkers: int) -> dict[int, int]:
    """Return the jobs among tasks that are started together, and how many workers each takes.

    Raises
    ------
    TaskStateError
        If one needs more than there are.
    """
    if _Job not in set(map(type, tasks)):
        return {}
    widths = {index: task._width for index, task in enumerate(tasks) if isinstance(task, _Job)}
    for index, width in widths.items():
        allowed = tasks[index]._ranks  # type: ignore[attr-defined]
        most = nworkers if allowed is None else len(allowed)
        if width > most:
            which = "its batch has" if allowed is None else "its policy allows"
            raise TaskStateError(
                f"{tasks[index]._title()} needs {width} workers at once, and {which} {most}: start "
                "the program with more ranks, or the job with fewer processes.",
                uid=tasks[index].uid,
            )
    return widths


def spreads_of(tasks: Sequence[Task]) -> dict[int, tuple[frozenset[int], ...]]:
    """Return the jobs among tasks that are to be spread, and over which hosts."""
    if _Job not in set(map(type, tasks)):
        return {}
    jobs = ((index, task) for index, task in enumerate(tasks) if isinstance(task, _Job))
    return {index: task._hosts for index, task in jobs if task._hosts}


def _checked_target(target: Any) -> str | Callable[..., Any]:
    if isinstance(target, (str, os.PathLike)):
        path = os.fspath(target)
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError(f"target must be the path of a program, not {target!r}")
        return path
    if not callable(target):
        raise TypeError(f"target must be the path of a program or a callable, not {target!r}")
    found: Callable[..., Any] = target
    return found


def _checked_env(env: Mapping[str, str | None] | None) -> dict[str, str | None]:
    checked = dict(env or {})
    for name, value in checked.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str)):
            raise TypeError(f"env takes names and values of type str, not {name!r}: {value!r}")
        if "=" in name or "\0" in name + (value or ""):
            raise ValueError(f"env cannot hold {name!r}: {value!r}")
    return checked


def _check_launch(launch: str, target: str | Callable[..., Any], *, plain: bool) -> None:
    if launch not in LAUNCHES:
        raise ValueError(f"launch must be one of {', '.join(LAUNCHES)}, not {launch!r}")
    if launch in ("ranks", "spawn") and survives():
        raise TaskStateError(
            f"launch={launch!r} ties a job to its workers by MPI, where nothing wakes those that "
            "wait for one that is lost, and this program goes on without it (--survive): leave "
            "launch at 'auto', or start the program without --survive."
        )
    if launch == "ranks" and isinstance(target, str):
        raise ValueError(
            f"launch='ranks' runs a callable on the workers themselves; {target!r} is a program "
            "of its own: leave launch at 'auto'."
        )
    if launch == "ranks" and not plain:
        raise ValueError(
            "launch='ranks' runs on workers that other tasks share, so cwd and env cannot be set: "
            "set them in the callable, or leave launch at 'auto'."
        )
    if launch == "pmi" and callable(target) and _speaks_no_pmi1():
        raise ValueError(
            "launch='pmi' starts programs of MPICH and its relatives, and the mpi4py in use is "
            "Open MPI's: each process of this callable would find a world of its own. Leave "
            "launch at 'auto'."
        )


def _speaks_no_pmi1() -> bool:
    from alamo_mpi.mpi.library import family_of_library

    return family_of_library() == "Open MPI"
