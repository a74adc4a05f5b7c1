"""Policy: where a task runs, and with how much of the worker that runs it.

A policy is a demand, not a wish: it is checked when it is made, and again when a task is made with
it, against the *means* of its workers, that is what each of them has.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alamo_mpi.core.gpus import Means
from alamo_mpi.core.launch import LAUNCHES

__all__ = ["Policy", "eligible"]

_PLACEMENTS = ("spread", "packed")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Where and how a task runs: honoured, or refused when the task is made or started.

    Parameters
    ----------
    host : str, optional
        Run on this host only; its name, with or without the domain.
    placement : "spread" or "packed", optional
        Jobs: on as many hosts as there are, for which it waits; or on neighbours where there is a
        choice, which is what they do by themselves.
    cpu_affinity : sequence of int, optional
        The CPUs, by their numbers on the host, that the task, or each rank of a job, may use.
    gpu_affinity : sequence of int or str, optional
        The GPUs, by their numbers on the host or names.
    gpus : int, optional
        Number of GPUs that the task, or each rank of a job, must have.
    threads : int, optional
        Number of threads of OpenMP and of numerical libraries.
    launch : "auto", "spawn", "srun", "pmi", "mpiexec" or "ranks"
        Jobs: how the processes are started.

    Raises
    ------
    TypeError, ValueError
        For values that can be honoured nowhere.

    Notes
    -----
    Local; the same policy can serve any number of tasks.  See ``docs/processes.md`` for what each
    kind of task makes of it.
    """

    host: str | None = None
    placement: str | None = None
    cpu_affinity: Sequence[int] | None = None
    gpu_affinity: Sequence[int | str] | None = None
    gpus: int | None = None
    threads: int | None = None
    launch: str = "auto"

    def __post_init__(self) -> None:
        if self.host is not None and (not isinstance(self.host, str) or not self.host):
            raise TypeError(f"host must be the name of a host, not {self.host!r}")
        if self.placement is not None and self.placement not in _PLACEMENTS:
            raise ValueError(f"placement must be 'spread' or 'packed', not {self.placement!r}")
        if self.launch not in LAUNCHES:
            raise ValueError(f"launch must be one of {', '.join(LAUNCHES)}, not {self.launch!r}")
        for name in ("gpus", "threads"):
            self._set(name, _positive(name, getattr(self, name)))
        self._set("cpu_affinity", _numbers("cpu_affinity", self.cpu_affinity))
        self._set("gpu_affinity", _names("gpu_affinity", self.gpu_affinity))
        if self.gpus is not None and self.gpu_affinity is not None:
            raise ValueError("gpus= says how many GPUs and gpu_affinity= says which: give one")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _positive(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, not {number}")
    return number


def _numbers(name: str, values: Iterable[Any] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    try:
        numbers = tuple(sorted({operator.index(value) for value in values}))
    except TypeError:
        raise TypeError(f"{name} must be a list of numbers, not {values!r}") from None
    if not numbers or numbers[0] < 0:
        raise ValueError(f"{name} must hold numbers from 0 on, at least one, not {values!r}")
    return numbers


def _names(name: str, values: Iterable[Any] | None) -> tuple[str, ...] | None:
    if values is None:
        return None
    if isinstance(values, (str, int)):
        raise TypeError(f"{name} must be a list of GPUs, not {values!r}")
    names = tuple(dict.fromkeys(str(value) for value in values))
    if not names:
        raise ValueError(f"{name} must name one GPU at least")
    return names


def eligible(policy: Policy, means: Mapping[int, Means], *, masks: bool) -> frozenset[int] | None:
    """Return the workers that can honour a policy; None if all can.

    Parameters
    ----------
    policy
        What is asked for.
    means
        Rank -> what that worker has.
    masks
        Whether the task can be shown any GPU of its host, as a program can; else it has those of
        its worker.

    Raises
    ------
    ValueError
        If no worker can, saying what there is.
    """
    left = dict(means)
    if policy.host is not None:
        left = {r: s for r, s in left.items() if _is_host(policy.host, s.host)}
        _expect(left, f"host {policy.host!r}", _hosts(means))
    if policy.cpu_affinity is not None:
        last = policy.cpu_affinity[-1]
        most = max(each.ncpus for each in left.values())
        left = {r: s for r, s in left.items() if last < s.ncpus}
        _expect(left, f"a CPU {last}", f"the CPUs of its hosts are 0 to {most - 1} at most")
    if policy.gpus is not None:
        most = max(len(each.gpus) for each in left.values())
        left = {r: s for r, s in left.items() if len(s.gpus) >= (policy.gpus or 0)}
        _expect(left, f"{policy.gpus} GPUs", f"its workers have {most} at most")
    if policy.gpu_affinity is not None:
        wanted = set(map(str, policy.gpu_affinity))
        there = sorted({gpu for each in left.values() for gpu in each.host_gpus})
        left = {r: s for r, s in left.items() if wanted <= set(s.host_gpus if masks else s.gpus)}
        what = f"the GPUs {', '.join(sorted(wanted))}"
        _expect(left, what, f"there are {', '.join(there) or 'none'} on its hosts")
    return None if len(left) == len(means) else frozenset(left)


def _is_host(wanted: str, host: str) -> bool:
    return wanted == host or wanted == host.partition(".")[0] or wanted.partition(".")[0] == host


def _hosts(means: Mapping[int, Means]) -> str:
    return f"its workers are on {', '.join(sorted({each.host for each in means.values()}))}"


def _expect(left: Mapping[int, Means], what: str, instead: str) -> None:
    if not left:
        raise ValueError(f"No worker of this batch has {what}: {instead}.")
