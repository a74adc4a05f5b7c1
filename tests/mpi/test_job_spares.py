"""The spare of a worker: the process that stands for its ranks of one job after another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alamo_mpi import Batch, JobError, Policy
from alamo_mpi.mpi.launcher import find_launcher
from alamo_mpi.runtime.jobsite import here
from tests.mpi.gates import LIMIT_S, on_each_worker, wait_until

PMI = Policy(launch="pmi")
SHELL = ("-c", "echo $PPID; pwd; echo $WHAT")


def spare() -> int:
    """Return the number of this worker's spare.

    Whoever leads a job may be heard later than rank 0, which has heard of the job's end from it.
    """
    wait_until(lambda: here()._spare is not None, "for a spare")
    kept = here()._spare
    assert kept is not None
    return kept.pid


def open_in_spare() -> tuple[int, int]:
    """Return how many descriptors the spare has open, and on how many CPUs it may run."""
    pid = spare()
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.sched_getaffinity(pid))


def kill_spare() -> None:
    os.kill(spare(), signal.SIGKILL)


def parents(batch: Batch, nworkers: int) -> set[int]:
    """Return what has started the ranks of a job."""
    job = batch.job("sh", SHELL, nworkers, policy=PMI)
    assert job.run(LIMIT_S) == [0] * nworkers
    lines = [line.split()[1] for line in job.stdout.get().splitlines() if len(line.split()) > 1]
    return set(map(int, filter(str.isdigit, lines)))


def test_the_next_job_takes_what_the_one_before_has_left(
    batch: Batch, tmp_path: Path, nworkers: int
) -> None:
    first = parents(batch, nworkers)
    assert len(first) == nworkers
    spares: Sequence[int] = on_each_worker(batch, tmp_path, spare)
    assert set(spares) == first
    assert parents(batch, nworkers) == first


def test_nothing_of_a_job_reaches_the_next(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    """Neither its folder, variables and CPUs nor a descriptor, however it has ended."""
    parents(batch, nworkers)
    before = on_each_worker(batch, tmp_path, open_in_spare)
    one_cpu = Policy(launch="pmi", cpu_affinity=[min(os.sched_getaffinity(0))])
    for _ in range(5):
        batch.job("pwd", (), nworkers, cwd="/", env={"WHAT": "set"}, policy=one_cpu).run(LIMIT_S)
        with pytest.raises(JobError):
            batch.job("sh", ("-c", "kill -SEGV $$"), nworkers, policy=PMI).run(LIMIT_S)
        with pytest.raises(JobError):
            batch.job("/no/such/program", (), nworkers, policy=PMI).run(LIMIT_S)
        with pytest.raises(JobError):
            batch.job("sleep", ("600",), nworkers, timeout=0.1, policy=PMI).run(LIMIT_S)
    job = batch.job("sh", SHELL, nworkers, policy=PMI)
    job.run(LIMIT_S)
    said = [line.partition("] ")[2] for line in job.stdout.get().splitlines()]
    assert said.count(os.getcwd()) == nworkers, said
    assert said.count("") == nworkers, said  # $WHAT
    after = on_each_worker(batch, tmp_path, open_in_spare)
    assert sorted(after) == sorted(before)


@pytest.mark.skipif(find_launcher().family != "MPICH", reason="Open MPI's have a launcher between")
def test_a_callable_leaves_it_as_well(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    first = parents(batch, nworkers)
    on_each_worker(batch, tmp_path, spare)
    calls = batch.job(os.getppid, (), nworkers)
    assert set(calls.run(LIMIT_S)) == first
    on_each_worker(batch, tmp_path, spare)
    assert parents(batch, nworkers) == first


def stop_spare() -> None:
    os.kill(spare(), signal.SIGSTOP)


@pytest.mark.parametrize(("harm", "times"), [(kill_spare, 5), (stop_spare, 1)])
def test_a_spare_that_was_harmed_is_replaced(
    batch: Batch, tmp_path: Path, nworkers: int, harm: Callable[[], None], times: int
) -> None:
    """Also by what comes at once, when it seems to live."""
    for _ in range(times):
        first = parents(batch, nworkers)
        on_each_worker(batch, tmp_path, harm)
        assert not parents(batch, nworkers) & first
