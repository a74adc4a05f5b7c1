"""Tasks with a `Policy`: which workers may run them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alamo_mpi.core.policy import Policy, eligible
from alamo_mpi.runtime.confined import Confined, Limits, can_limit_threads
from alamo_mpi.task import Accesses, Task, _Function

if TYPE_CHECKING:
    from alamo_mpi.batch import Batch

__all__ = ["_Placed", "pins_of", "ranks_for", "refuse_what_is_for_jobs"]


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
        if policy.threads is not None and not can_limit_threads():
            raise ValueError(
                "threads= of a function task needs threadpoolctl (pip install threadpoolctl): the "
                "libraries of a worker have read their number of threads long before. A process "
                "task has it in its environment."
            )
        limits = Limits.of(policy)
        if limits is not None:
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
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    seats = batch._manager.seats
    return eligible(policy, {rank: seats[rank] for rank in batch._live.ranks}, masks=masks)


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
    return {index: allowed for index, allowed in ranks.items() if allowed is not None}
