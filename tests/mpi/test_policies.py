"""Tasks with a policy: run where and how it says, or refused when they are made."""

from __future__ import annotations

import os
from typing import Any

import pytest

import alamo_mpi
from alamo_mpi import Batch, Policy

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cpus() -> set[int]:
    return os.sched_getaffinity(0)


def test_a_host_by_its_name(batch: Batch) -> None:
    for host in sorted(set(alamo_mpi.init().world.hosts[-batch.num_workers :])):
        policy = Policy(host=host)
        tasks = [batch.function(os.uname, policy=policy) for _ in range(4)]
        programs = [batch.process(["uname", "-n"], policy=policy) for _ in range(2)]
        batch.compile([*tasks, *programs]).run()
        names = {task.result.get().nodename for task in tasks}
        assert {program.stdout.get().strip() for program in programs} == names
        assert len(names) == 1


def test_cpus_for_one_task_alone(batch: Batch) -> None:
    free = batch.function(cpus).run()
    one = min(free)
    policy = Policy(cpu_affinity=[one])
    tasks = [batch.function(cpus, policy=policy), batch.function(cpus)] * 1
    program = batch.process(["grep", "Cpus_allowed_list", "/proc/self/status"], policy=policy)
    after = batch.process(["grep", "Cpus_allowed_list", "/proc/self/status"])
    batch.compile([*tasks, program, after]).run()
    assert [task.result.get() for task in tasks] == [{one}, free]
    assert program.stdout.get().split() == ["Cpus_allowed_list:", str(one)]
    assert after.stdout.get().split() != ["Cpus_allowed_list:", str(one)] or len(free) == 1


def product_threads() -> set[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info()}


def test_threads_of_functions_and_programs(batch: Batch) -> None:
    pytest.importorskip("threadpoolctl", exc_type=ImportError)
    assert batch.function(product_threads, policy=Policy(threads=1)).run() == {1}
    program = batch.process(["env"], policy=Policy(threads=3), env={"OMP_NUM_THREADS": "9"})
    program.run()
    lines = program.stdout.get().split()
    assert {f"{name}=3" for name in THREADS} <= set(lines)


def test_errors_and_names_are_those_of_the_function(batch: Batch) -> None:
    task = batch.function(int, "no number", policy=Policy(cpu_affinity=[min(cpus())]))
    assert "'int'" in repr(task)
    task.start()
    with pytest.raises(ValueError, match="no number") as caught:
        task.result.get()
    assert f"Task {task.uid} 'int' failed on rank" in str(caught.value.__cause__)


def test_results_travel_between_tasks_with_policies(batch: Batch) -> None:
    policy = Policy(host=alamo_mpi.init().world.hosts[-1])
    first = batch.function(pow, 2, 10, policy=policy)
    second = batch.function(pow, first, 2, policy=policy)
    batch.compile([first, second]).run()
    assert second.result.get() == 1 << 20


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        (Policy(host="no-such-host"), ValueError, "No worker of this batch has host"),
        (Policy(cpu_affinity=[1 << 20]), ValueError, "has a CPU 1048576"),
        (Policy(gpus=99), ValueError, "has 99 GPUs"),
        (Policy(gpu_affinity=["no such"]), ValueError, "has the GPUs no such"),
        (Policy(placement="spread"), ValueError, "for the processes of a job"),
        (Policy(launch="spawn"), ValueError, "for the processes of a job"),
        ({"host": "here"}, TypeError, "policy must be a Policy"),
    ],
)
def test_what_is_refused_when_the_task_is_made(
    batch: Batch, policy: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        batch.function(len, "abc", policy=policy)
    with pytest.raises(error, match=text):
        batch.process("true", policy=policy)


@pytest.mark.parametrize("launch", ["auto", "ranks"])
def test_the_ranks_of_a_job_keep_to_their_cpus_and_threads(batch: Batch, launch: str) -> None:
    pytest.importorskip("threadpoolctl")
    wanted = {min(cpus())}
    policy = Policy(cpu_affinity=wanted, threads=3, launch=launch)
    job = batch.job(lambda *_: (cpus(), os.environ["OMP_NUM_THREADS"]), policy=policy)
    assert job.run() == [(wanted, "3")]
    assert batch.function(cpus).run() == cpus()


def test_threads_without_the_means(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alamo_mpi.placed.can_limit_threads", lambda: False)
    with pytest.raises(ValueError, match="pip install threadpoolctl"):
        batch.function(len, "abc", policy=Policy(threads=2))
    assert batch.process("true", policy=Policy(threads=2)).run() == 0
