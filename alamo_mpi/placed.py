"""Tasks with a `Policy`: which workers may run them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alamo_mpi.runtime.confined import Confined, Limits, can_limit_threads
from alamo_mpi.task import Accesses, Task, _Function

if TYPE_CHECKING:
    from alamo_mpi.batch import Batch
    from alamo_mpi.core.policy import Policy

__all__ = [
    "_Placed",
    "check_can_limit",
    "hosts_of",
    "pins_of",
    "ranks_for",
    "refuse_what_is_for_jobs",
]


class _Placed(_Function):
    """A call of a function, where and how a policy says."""

    __slots__ = ("_ranks",)

    def __init__(
        self,
        batch: Batch,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        callback_func: Callable[..., Any] | None,
        callback_args: tuple[Any, ...],
        reads: Accesses,
        writes: Accesses,
        policy: Policy,
    ) -> None:
        self._ranks = ranks_for(batch, policy, masks=False)
        refuse_what_is_for_jobs(policy)
        limits = Limits.of(policy)
        if limits is not None:
            check_can_limit(limits)
            function = Confined(function, limits)
        _Function.__init__(
            self, batch, function, arguments, callback_func, callback_args, reads, writes
        )


def ranks_for(batch: Batch, policy: Policy | None, *, masks: bool) -> frozenset[int] | None:
    """Return the workers of a batch that may run a task; None for all of them.

    Raises
    ------
    TypeError, ValueError
        If it is no policy, or none of them can honour it.
    """
    if policy is None:
        return None
    from alamo_mpi.core.policy import Policy, eligible  # loaded where there is one

    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    asked = policy.host, policy.cpu_affinity, policy.gpus, policy.gpu_affinity
    if all(each is None for each in asked):
        return None  # what the workers have may have to be asked for
    means = batch._manager.means_of(batch._live)
    # A task of a batch that is over is never run; its start says so.
    return eligible(policy, means, masks=masks) if means else None


def check_can_limit(limits: Limits) -> None:
    """Refuse what cannot be done to a function on a worker.

    Raises
    ------
    ValueError
    """
    if limits.threads is not None and not can_limit_threads():
        raise ValueError(
            "threads= of a function that runs on a worker needs threadpoolctl (pip install "
            "threadpoolctl): the libraries of a worker have read their number of threads long "
            "before. A process task has it in its environment."
        )


def hosts_of(batch: Batch, ranks: frozenset[int] | None) -> tuple[frozenset[int], ...]:
    """Return the hosts of a batch, each as those of these workers (None: all) that are there."""
    means = batch._manager.means_of(batch._live)
    hosts: dict[str, set[int]] = {}
    for rank in means if ranks is None else ranks:
        hosts.setdefault(means[rank].host, set()).add(rank)
    return tuple(map(frozenset, hosts.values()))


def refuse_what_is_for_jobs(policy: Policy | None) -> None:
    """Refuse what has a meaning only where there are several processes."""
    if policy is not None and (policy.placement is not None or policy.launch != "auto"):
        raise ValueError(
            "placement and launch of a Policy are for the processes of a job: leave them out for "
            "a task that runs on one worker"
        )


def pins_of(tasks: Sequence[Task]) -> dict[int, frozenset[int]]:
    """Return the tasks, of those started together, that not every worker may run, and who may."""
    if set(map(type, tasks)) == {_Function}:
        return {}
    ranks = {index: getattr(task, "_ranks", None) for index, task in enumerate(tasks)}
    # Equal sets as one object: where that goes by message, it is pickled once.
    alike: dict[frozenset[int], frozenset[int]] = {}
    pinned = ((index, allowed) for index, allowed in ranks.items() if allowed is not None)
    return {index: alike.setdefault(allowed, allowed) for index, allowed in pinned}
