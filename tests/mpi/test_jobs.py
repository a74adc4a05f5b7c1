"""Jobs: programs of several processes as tasks, how they end, and that nothing of them is left."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A callable's ranks import this file: MPI must be started before its library is asked for a name.
from mpi4py import MPI

import alamo_mpi
from alamo_mpi import (
    Batch,
    CancelledError,
    DependencyError,
    JobError,
    LaunchError,
    Policy,
    TaskStateError,
)
from alamo_mpi.mpi.library import family_of_library
from tests.mpi.gates import LIMIT_S, wait_until
from tests.support import programs
from tests.support.leftovers import leaked_files, shared_files

MPICH = family_of_library() == "MPICH" and MPI.Is_initialized()
LAUNCHES = ["pmi", "mpiexec"] if MPICH else ["mpiexec"]
if MPICH and "MPI_LOCALRANKID" in os.environ:  # under its launcher
    LAUNCHES.append("spawn")

#: How the processes of a callable, which have the MPI of mpi4py, start quickest.
CALLABLES = LAUNCHES[0]

#: UCX warns on stdout where a spawned program ends.
QUIET = {"UCX_LOG_LEVEL": "error"}

needs_compiler = pytest.mark.skipif(bool(programs.why_not()), reason=programs.why_not())
needs_two = pytest.mark.skipif(
    "__import__('alamo_mpi').init().world.size < 3", reason="needs two workers"
)


@pytest.fixture(scope="session")
def job_rank(tmp_path_factory: pytest.TempPathFactory) -> str:
    return programs.compiled("job_rank", str(tmp_path_factory.mktemp("programs")))


@pytest.fixture
def width(nworkers: int) -> int:
    return min(nworkers, 2)


def by(launch: str) -> Any:
    return Policy(launch=launch)


def rank_and_sum(offset: int) -> tuple[int, int]:
    world = MPI.COMM_WORLD
    print(f"here is {world.rank}")
    print(f"there is {world.rank}", file=sys.stderr)
    return world.rank, world.allreduce(world.rank + offset)


def fails_while_others_wait(culprit: int) -> None:
    if culprit == MPI.COMM_WORLD.rank:
        raise LookupError("nothing here")
    MPI.COMM_WORLD.Barrier()


def writes_its_pid(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(4 * LIMIT_S)


def alive(folder: Path) -> list[str]:
    """Return the processes that files are named after, zombies left out."""
    found = []
    for path in folder.iterdir():
        try:
            state = Path("/proc", path.name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [path.name] if state != "Z" else []
    return found


# ---- what a job gives back ----------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_program_has_its_own_world_and_its_statuses_and_lines_come_by_rank(
    batch: Batch, job_rank: str, width: int, launch: str
) -> None:
    job = batch.job(job_rank, ("hello",), width, env=QUIET, policy=by(launch))
    assert job.run(LIMIT_S) == [0] * width
    total = sum(range(width))
    lines = [f"[{r}] rank {r} of {width}, sum {total}" for r in range(width)]
    assert sorted(job.stdout.get().splitlines()) == lines
    assert sorted(job.stderr.get().splitlines()) == [f"[{r}] note from {r}" for r in range(width)]


@pytest.mark.slow
@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_callable_returns_a_value_by_rank(batch: Batch, width: int, launch: str) -> None:
    job = batch.job(rank_and_sum, (10,), width, env=QUIET, policy=by(launch))
    total = 10 * width + sum(range(width))
    assert job.run(LIMIT_S) == [(rank, total) for rank in range(width)]
    assert sorted(job.stdout.get().splitlines()) == [f"[{r}] here is {r}" for r in range(width)]
    assert sorted(job.stderr.get().splitlines()) == [f"[{r}] there is {r}" for r in range(width)]


def test_a_program_without_mpi_is_a_job_too(batch: Batch, nworkers: int) -> None:
    job = batch.job("sh", ["-c", "echo one; echo two; exit $0", 3], nworkers, policy=by("pmi"))
    assert job.run(LIMIT_S) == [3] * nworkers
    lines = job.stdout.get().splitlines()
    for rank in range(nworkers):
        assert [line for line in lines if line.startswith(f"[{rank}]")] == [
            f"[{rank}] one",
            f"[{rank}] two",
        ]


def test_check_makes_a_status_an_error(batch: Batch) -> None:
    job = batch.job("sh", ["-c", "exit 3"], policy=by("pmi"), check=True)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        job.run(LIMIT_S)
    assert caught.value.returncode == 3


def test_environment_and_working_directory(batch: Batch, tmp_path: Path) -> None:
    code = "pwd; echo ${JOB_TEST-unset} ${HOME-unset}"
    env = {"JOB_TEST": "a b", "HOME": None}
    job = batch.job("sh", ["-c", code], cwd=tmp_path, env=env, policy=by("pmi"))
    assert job.run(LIMIT_S) == [0]
    assert job.stdout.get() == f"[0] {tmp_path}\n[0] a b unset\n"


def test_jobs_depend_on_functions_and_the_other_way_round(batch: Batch, nworkers: int) -> None:
    if not MPICH and len(set(alamo_mpi.init().world.hosts)) > 1:
        pytest.skip("Open MPI's launcher needs ssh between hosts, and the test bed has none")
    number = batch.function(lambda: 7)
    job = batch.job(lambda x: (x, os.getpid()), (number,), nworkers, policy=by(CALLABLES))
    count = batch.function(lambda values: [x for x, _ in values], job)
    batch.compile([number, job, count]).run(LIMIT_S)
    assert count.result.get() == [7] * nworkers
    assert len({pid for _, pid in job.result.get()}) == nworkers


def test_the_callback_gets_the_list(batch: Batch) -> None:
    got: list[Any] = []
    job = batch.job(
        "true", policy=by("pmi"), callback_func=lambda *a: got.append(a), callback_args=(1,)
    )
    job.run(LIMIT_S)
    assert got == [([0], 1)]


def test_much_output_and_a_line_without_end_arrive_whole(batch: Batch) -> None:
    code = "import sys; sys.stdout.write('x' * 200_000 + '\\n' + 'end')"
    job = batch.job(sys.executable, ["-S", "-c", code], policy=by("pmi"))
    assert job.run(LIMIT_S) == [0]
    assert job.stdout.get() == "[0] " + "x" * 200_000 + "\n[0] end\n"


# ---- how a job fails ----------------------------------------------------------------------------


@needs_compiler
@needs_two
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "what", "status", "told"),
    [
        *((launch, ("crash", 1), -11, "crashing 1") for launch in LAUNCHES),
        *((launch, ("abort", 9, 1), 9, "") for launch in LAUNCHES),
        # They are given a second; that rule is the same for all launches.
        (LAUNCHES[0], ("leave", 3, 1), 3, "leaving 1"),
        (LAUNCHES[-1], ("early", 4, 1), 4, "leaving early"),
    ],
    ids=lambda value: str(value[0] if isinstance(value, tuple) else value),
)
def test_a_rank_that_leaves_the_others_fails_the_job(
    batch: Batch, job_rank: str, launch: str, what: tuple[Any, ...], status: int, told: str
) -> None:
    job = batch.job(job_rank, what, 2, policy=by(launch))
    with pytest.raises(JobError) as caught:
        job.run(LIMIT_S)
    error = caught.value
    if not MPICH and what[0] == "abort":
        return  # its launcher ends all ranks at once, and does not tell us for whose sake
    assert (error.rank, error.status) == (1, status)
    assert error.signal == ("SIGSEGV" if status < 0 else None)
    assert told in error.stderr
    assert told in str(error)
    assert error.host in str(error)
    assert batch.function(pow, 2, 3).run(LIMIT_S) == 8  # the batch goes on


@pytest.mark.slow
@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_callable_that_raises_while_others_wait(batch: Batch, width: int, launch: str) -> None:
    culprit = width - 1
    job = batch.job(fails_while_others_wait, (culprit,), width, policy=by(launch))
    with pytest.raises(JobError, match="LookupError: nothing here") as caught:
        job.run(LIMIT_S)
    assert caught.value.rank == culprit
    assert isinstance(caught.value.exception, LookupError)


@pytest.mark.skipif("spawn" in LAUNCHES, reason="Spawn works here")
def test_spawn_is_refused_where_it_would_hang(batch: Batch) -> None:
    with pytest.raises(LaunchError, match="leave launch at 'auto'"):
        batch.job("true", policy=by("spawn")).run(LIMIT_S)


@pytest.mark.slow
@pytest.mark.skipif("spawn" not in LAUNCHES, reason="needs MPICH's launcher")
def test_spawned_jobs_take_turns_and_need_no_mpi(batch: Batch, nworkers: int) -> None:
    """Several at once: one Spawn at a time, with programs that never call MPI_Init."""
    before = shared_files()
    jobs = [batch.job("echo", (at,), policy=by("spawn")) for at in range(nworkers + 1)]
    for job in jobs:
        job.start()
    assert [job.result.get() for job in jobs] == [[0]] * len(jobs)
    assert not leaked_files(before)  # of the MPI that stands in for each
    assert [job.stdout.get() for job in jobs] == [f"[0] {at}\n" for at in range(len(jobs))]


def unfit(folder: Path, kind: str) -> str:
    path = folder / "program"
    if kind == "missing":
        return str(path)
    path.write_bytes(b"\0not a program" if kind == "wrong format" else b"#!/bin/sh\n")
    path.chmod(0o755 if kind == "wrong format" else 0o644)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", FileNotFoundError),
        ("not executable", PermissionError),
        ("wrong format", OSError),
    ],
)
def test_a_program_that_cannot_be_started(
    batch: Batch, tmp_path: Path, kind: str, error: type[OSError]
) -> None:
    with pytest.raises(JobError, match="could not be started") as caught:
        batch.job(unfit(tmp_path, kind), num_procs=1, policy=by("pmi")).run(LIMIT_S)
    assert isinstance(caught.value.exception, error)
    assert pickle.loads(pickle.dumps(caught.value)).rank == caught.value.rank


def test_a_missing_working_directory(batch: Batch, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such folder"):
        batch.job("true", cwd=tmp_path / "no such folder", policy=by("pmi")).run(LIMIT_S)


@pytest.mark.slow
def test_a_job_that_is_not_over_in_time_is_ended(
    batch: Batch, tmp_path: Path, nworkers: int
) -> None:
    job = batch.job(writes_its_pid, (tmp_path,), nworkers, policy=by(CALLABLES), timeout=1.0)
    with pytest.raises(JobError, match=r"timeout of 1 s") as caught:
        job.run(LIMIT_S)
    assert caught.value.rank is None
    assert not alive(tmp_path)


def test_a_failed_job_stops_those_who_need_its_result(batch: Batch) -> None:
    job = batch.job("/no/such/program", policy=by("pmi"))
    after = batch.function(len, job)
    with pytest.raises(JobError):
        batch.compile([job, after]).run(LIMIT_S)
    with pytest.raises(DependencyError):
        after.result.get()


@pytest.mark.slow
def test_terminate_ends_all_processes_of_a_job(tmp_path: Path, nworkers: int) -> None:
    batch = Batch()
    job = batch.job(writes_its_pid, (tmp_path,), nworkers, policy=by(CALLABLES))
    late = batch.job("true", num_procs=nworkers)
    job.start()
    late.start()
    wait_until(lambda: len(list(tmp_path.iterdir())) == nworkers)
    batch.terminate()
    for cancelled in (job, late):
        with pytest.raises(CancelledError):
            cancelled.result.get()
    wait_until(lambda: not alive(tmp_path))


def background(folder: str) -> list[str]:
    return ["-c", f"(echo $$; sleep {4 * LIMIT_S}) & touch {folder}/$!"]


def test_what_a_program_leaves_in_the_background_is_ended(batch: Batch, tmp_path: Path) -> None:
    job = batch.job("sh", background(str(tmp_path)), policy=by("pmi"))
    assert job.run(LIMIT_S) == [0]
    wait_until(lambda: not alive(tmp_path))


# ---- who runs when ------------------------------------------------------------------------------


def notes(folder: str, name: str) -> None:
    begin = time.time()
    time.sleep(0.02)
    Path(folder, name).write_text(f"{begin} {time.time()}")


NOTES = "b=$(date +%s.%N); sleep 0.02; echo $b $(date +%s.%N) > $0/$1-$$"


def test_jobs_and_tasks_share_the_workers_and_are_never_too_many(
    batch: Batch, tmp_path: Path, nworkers: int
) -> None:
    """Every process writes down when it ran; at no moment were there more than workers."""
    tasks = []
    for at in range(4):
        width = 1 + at % nworkers
        tasks.append(batch.job("sh", ("-c", NOTES, tmp_path, at), width, policy=by("pmi")))
        tasks += [batch.function(notes, str(tmp_path), f"task{at}-{i}") for i in range(5)]
    batch.compile(tasks).run(LIMIT_S)
    spans = [[float(x) for x in path.read_text().split()] for path in tmp_path.iterdir()]
    assert len(spans) == sum(1 + at % nworkers for at in range(4)) + 20
    changes = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert most <= nworkers


def test_two_jobs_start_at_the_same_moment_and_others_follow(batch: Batch, nworkers: int) -> None:
    jobs = [batch.job("true", num_procs=max(nworkers // 2, 1), policy=by("pmi")) for _ in range(8)]
    for job in jobs:
        job.start()
    assert [job.result.get() for job in jobs] == [[0] * max(nworkers // 2, 1)] * 8


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda batch: batch.job("true", num_procs=0), ValueError),
        (lambda batch: batch.job("true", num_procs="2"), TypeError),
        (lambda batch: batch.job(""), ValueError),
        (lambda batch: batch.job(17), TypeError),
        (lambda batch: batch.job("true", timeout=0), ValueError),
        (lambda batch: batch.job("true", env={"A": 1}), TypeError),
        (lambda batch: batch.job("true", env={"A=B": "1"}), ValueError),
        (lambda batch: batch.job("true", policy=by("rsh")), ValueError),
        (lambda batch: batch.job("true", policy=by("ranks")), ValueError),
    ],
)
def test_arguments_that_make_no_sense(
    batch: Batch, make: Callable[[Batch], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make(batch)


@pytest.mark.skipif(MPICH, reason="MPICH's programs speak PMI-1; this is about those that do not")
def test_a_callable_that_would_find_a_world_of_one_rank(batch: Batch) -> None:
    with pytest.raises(ValueError, match="a world of its own"):
        batch.job(rank_and_sum, (1,), policy=by("pmi"))


def test_more_processes_than_workers(batch: Batch, nworkers: int) -> None:
    job = batch.job("true", num_procs=nworkers + 1)
    with pytest.raises(TaskStateError, match=f"needs {nworkers + 1} workers"):
        job.start()
