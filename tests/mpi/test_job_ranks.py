"""Jobs without processes: a callable on the workers themselves, with a communicator of theirs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import Batch, CancelledError, JobError, Policy
from tests.mpi.gates import LIMIT_S, Gate, on_each_worker

RANKS: Any = Policy(launch="ranks")
LONG_S = 4 * LIMIT_S


def rank_and_sum(comm: Any, offset: int) -> tuple[int, int, int]:
    print("here is", comm.rank)
    print("there is", comm.rank, file=sys.stderr)
    return comm.rank, comm.allreduce(comm.rank + offset), os.getpid()


def raises_on(comm: Any, culprit: int) -> None:
    if comm.rank == culprit:
        raise LookupError("nothing here")
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        sum(range(100))


def test_values_and_lines_come_by_rank(batch: Batch, nworkers: int) -> None:
    job = batch.job(rank_and_sum, (10,), nworkers, policy=RANKS)
    values = job.run(LIMIT_S)
    total = 10 * nworkers + sum(range(nworkers))
    assert [value[:2] for value in values] == [(rank, total) for rank in range(nworkers)]
    assert len({pid for _, _, pid in values}) == nworkers
    assert job.stdout.get() == "".join(f"[{r}] here is {r}\n" for r in range(nworkers))
    assert job.stderr.get() == "".join(f"[{r}] there is {r}\n" for r in range(nworkers))


def test_the_ranks_are_the_workers(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    workers = on_each_worker(batch, tmp_path, os.getpid)
    values = batch.job(rank_and_sum, (0,), nworkers, policy=RANKS).run(LIMIT_S)
    assert {pid for _, _, pid in values} == set(workers)


def test_jobs_of_all_widths_mixed_with_tasks(batch: Batch, nworkers: int) -> None:
    tasks = []
    for at in range(40):
        tasks.append(batch.job(rank_and_sum, (at,), 1 + at % nworkers, policy=RANKS))
        tasks.append(batch.function(len, tasks[-1]))
    batch.compile(tasks).run(LIMIT_S)
    for at, task in enumerate(tasks[::2]):
        width = 1 + at % nworkers
        total = at * width + sum(range(width))
        assert [value[:2] for value in task.result.get()] == [(r, total) for r in range(width)]
    assert [task.result.get() for task in tasks[1::2]] == [1 + at % nworkers for at in range(40)]


def test_one_that_raises_ends_those_that_are_not_inside_mpi(batch: Batch, nworkers: int) -> None:
    for culprit in {0, nworkers - 1}:
        job = batch.job(raises_on, (culprit,), nworkers, policy=RANKS)
        with pytest.raises(JobError, match="LookupError: nothing here") as caught:
            job.run(LIMIT_S)
        assert caught.value.rank == culprit
        assert isinstance(caught.value.exception, LookupError)
    assert len(batch.job(rank_and_sum, (1,), nworkers, policy=RANKS).run(LIMIT_S)) == nworkers


def test_one_whose_time_is_over(batch: Batch, nworkers: int, alone: bool) -> None:
    if alone:
        pytest.skip("in a world of one rank nobody is there to look at the clock")
    job = batch.job(raises_on, (-1,), nworkers, policy=RANKS, timeout=0.1)
    with pytest.raises(JobError, match=r"timeout of 0\.1 s"):
        job.run(LIMIT_S)


def passes(comm: Any, gate: Gate) -> None:
    gate.pass_through()


def test_terminate_ends_all_ranks(gate: Gate, nworkers: int, alone: bool) -> None:
    if alone:
        pytest.skip("a task on the program's own thread cannot be interrupted")
    batch = Batch()
    job = batch.job(passes, (gate,), nworkers, policy=RANKS)
    job.start()
    gate.arrived(nworkers)
    batch.terminate()
    with pytest.raises(CancelledError):
        job.result.get()


def test_what_cannot_travel_names_the_job(batch: Batch, nworkers: int) -> None:
    def unpicklable(comm: Any) -> Any:
        return (each for each in "abc")

    with pytest.raises(Exception, match="pickle"):
        batch.job(unpicklable, (), nworkers, policy=RANKS).run(LIMIT_S)
