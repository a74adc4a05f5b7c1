"""Policies in batches that tasks make, or get: as in those of the main program."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import alamo_mpi
from alamo_mpi import Batch, JobError, Policy, TaskStateError
from tests.mpi.gates import LIMIT_S


def cpus() -> set[int]:
    return os.sched_getaffinity(0)


def nested(use: Callable[..., Any], *arguments: Any) -> Any:
    """Call something with a batch of this task's own."""
    with Batch() as inner:
        return use(inner, *arguments)


def nodes(batch: Batch, policy: Any) -> set[str]:
    """Return where functions and programs run."""
    tasks = [batch.function(os.uname, policy=policy) for _ in range(4)]
    programs = [batch.process(["uname", "-n"], policy=policy) for _ in range(2)]
    batch.compile([*tasks, *programs]).run(LIMIT_S)
    names = {task.result.get().nodename for task in tasks}
    return names | {program.stdout.get().strip() for program in programs}


def test_a_host_by_its_name(batch: Batch) -> None:
    for host in sorted(set(alamo_mpi.init().world.hosts[-batch.num_workers :])):
        expected = nodes(batch, Policy(host=host))
        assert len(expected) == 1
        assert batch.function(nested, nodes, Policy(host=host)).run(LIMIT_S) == expected
        # One that was given by the main program is a client of that batch.
        assert batch.function(nodes, batch, Policy(host=host)).run(LIMIT_S) == expected


def affinities(batch: Batch, policy: Any) -> list[set[int]]:
    return [batch.function(cpus, policy=each).run(LIMIT_S) for each in (policy, None)]


def test_cpus_for_one_task_alone(batch: Batch) -> None:
    free = batch.function(cpus).run(LIMIT_S)
    policy = Policy(cpu_affinity=[min(free)])
    assert batch.function(nested, affinities, policy).run(LIMIT_S) == [{min(free)}, free]


@pytest.mark.parametrize("wanted", [Policy(gpus=99), Policy(gpu_affinity=["no such"])])
@pytest.mark.parametrize("what", ["function", "process", "job"])
def test_what_is_refused_when_the_task_is_made(batch: Batch, wanted: Any, what: str) -> None:
    def makes(inner: Batch) -> None:
        getattr(inner, what)("true" if what != "function" else len, policy=wanted)

    with pytest.raises(ValueError, match="No worker of this batch has"):
        batch.function(nested, makes).run(LIMIT_S)


def spread_and_packed(batch: Batch, width: int) -> list[list[str]]:
    def here(comm: Any) -> str:
        return os.uname().nodename

    policies = [Policy(launch="ranks", placement=each) for each in ("spread", "packed")]
    return [batch.job(here, (), width, policy=each).run(LIMIT_S) for each in policies]


def test_ranks_of_a_job_are_spread_over_the_hosts(batch: Batch, nworkers: int) -> None:
    expected = spread_and_packed(batch, nworkers)
    assert batch.function(nested, spread_and_packed, nworkers).run(LIMIT_S) == expected


def test_a_job_that_its_policy_leaves_too_few_workers(batch: Batch, nworkers: int) -> None:
    host = alamo_mpi.init().world.hosts[-1]

    def too_wide(inner: Batch) -> None:
        policy = Policy(launch="ranks", host=host)
        inner.job(lambda comm: None, (), nworkers + 1, policy=policy).start()

    with pytest.raises(TaskStateError, match="workers at once"):
        batch.function(nested, too_wide).run(LIMIT_S)


def test_a_job_with_a_policy_fails_as_any(batch: Batch) -> None:
    def raises(comm: Any) -> None:
        raise LookupError("nothing here")

    def fails(inner: Batch) -> None:
        policy = Policy(launch="ranks", cpu_affinity=[min(cpus())])
        inner.job(raises, (), 1, policy=policy).run(LIMIT_S)

    with pytest.raises(JobError, match="LookupError: nothing here"):
        batch.function(nested, fails).run(LIMIT_S)
