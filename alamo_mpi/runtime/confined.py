"""A function task that runs with a part of its worker only, as its policy asks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alamo_mpi.runtime.environment import changed
from alamo_mpi.runtime.functions import name_of

if TYPE_CHECKING:
    from alamo_mpi.core.policy import Policy

__all__ = ["THREAD_VARIABLES", "Confined", "Limits", "can_limit_threads", "variables_of"]

#: What numerical libraries read for their number of threads, when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class Limits(NamedTuple):
    """What of a policy is done on the worker, rather than by choosing the worker."""

    cpus: tuple[int, ...] | None
    threads: int | None
    ngpus: int | None
    gpus: tuple[str, ...] | None

    @classmethod
    def of(cls, policy: Policy | None) -> Limits | None:
        """Return the limits in a policy; None if there are none."""
        if policy is None:
            return None
        cpus = None if policy.cpu_affinity is None else tuple(policy.cpu_affinity)
        gpus = None if policy.gpu_affinity is None else tuple(map(str, policy.gpu_affinity))
        limits = cls(cpus, policy.threads, policy.gpus, gpus)
        return limits if any(each is not None for each in limits) else None


def variables_of(limits: Limits | None, own: Callable[[], Sequence[str]]) -> dict[str, str]:
    """Return what is set for a program that is to keep to limits; `own`: its worker's GPUs."""
    variables: dict[str, str] = {}
    if limits is None:
        return variables
    if limits.threads is not None:
        variables.update(dict.fromkeys(THREAD_VARIABLES, str(limits.threads)))
    gpus = limits.gpus if limits.ngpus is None else own()[: limits.ngpus]
    if gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return variables


def can_limit_threads() -> bool:
    """Tell whether the number of threads of libraries that are loaded can be changed."""
    from importlib.util import find_spec

    return find_spec("threadpoolctl") is not None


class Confined:
    """A function, and the limits that it is called under.

    Parameters
    ----------
    function
        Anything that can be called.
    limits
        Of these, CPUs and threads; its GPUs a function has from its worker.
    """

    def __init__(self, function: Callable[..., Any], limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self.__name__ = name_of(function)

    def __call__(self, *args: Any) -> Any:
        """Call the function on the thread that tasks run on."""
        with _on_cpus(self._limits.cpus), _with_threads(self._limits.threads):
            return self._function(*args)


@contextlib.contextmanager
def _on_cpus(cpus: tuple[int, ...] | None) -> Iterator[None]:
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        got = os.sched_getaffinity(0)
        if got != set(cpus):
            raise OSError(
                f"the policy asks for the CPUs {', '.join(map(str, cpus))}, of which this worker "
                f"gets {', '.join(map(str, sorted(got)))} only: its container or batch job has "
                "no others"
            )
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _with_threads(threads: int | None) -> Iterator[None]:
    if threads is None:
        yield
        return
    import numpy  # noqa: F401 - so that its library is loaded, and can be limited and freed
    from threadpoolctl import threadpool_limits

    # A library that the task itself loads reads these, and keeps to them.
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    with changed(variables), threadpool_limits(threads):
        yield
