"""Programs, jobs and tasks of tasks that are tried again, and what records and pictures show."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from alamo_mpi import Batch, CancelledError, JobError, JobTimeoutError
from tests.mpi.gates import LIMIT_S, Gate
from tests.mpi.tries import LONG_S, OwnError, attempts, driven, falters, nth

# ---- processes and jobs -------------------------------------------------------------------------


def counting(folder: Path, rest: str) -> list[str]:
    """Return a program that counts its attempts in a folder, then does the rest."""
    return ["sh", "-c", f"n=$(ls {folder} | wc -l); touch {folder}/$n; {rest}"]


def test_a_program_with_a_status(batch: Batch, tmp_path: Path) -> None:
    program = counting(tmp_path, "exit $((2 - n))")
    failed = subprocess.CalledProcessError
    task = batch.process(program, check=True, retries=3, retry_on=failed)
    assert task.run(LIMIT_S) == 0
    codes = [getattr(each.error, "returncode", 0) for each in attempts(task)]
    assert codes == [2, 1, 0]


def test_a_status_that_is_no_error_or_not_named(batch: Batch, tmp_path: Path) -> None:
    failed = subprocess.CalledProcessError
    assert batch.process(counting(tmp_path, "exit 3"), retries=3, retry_on=failed).run(LIMIT_S) == 3
    with pytest.raises(failed):
        batch.process(counting(tmp_path, "exit 3"), check=True, retries=3).run(LIMIT_S)
    assert len(os.listdir(tmp_path)) == 2


def test_a_program_out_of_time(batch: Batch, tmp_path: Path) -> None:
    program = counting(tmp_path, f"[ $n -gt 0 ] || exec sleep {LONG_S:g}")
    task = batch.process(program, timeout=1.0, retries=2)
    assert task.run(LIMIT_S) == 0
    kinds = {type(each.error) for each in attempts(task)[:-1]}
    assert kinds == {subprocess.TimeoutExpired}


def test_a_job_out_of_time(batch: Batch, tmp_path: Path) -> None:
    """Once a program has begun its first attempt it waits; its second ends."""
    program = counting(tmp_path, f"[ $n -gt 0 ] || exec sleep {LONG_S:g}")
    task = batch.job(program[0], program[1:], timeout=5.0, retries=20)
    assert task.run(4 * LIMIT_S) == [0]
    found = attempts(task)
    assert len(found) > 1
    assert {type(each.error) for each in found[:-1]} == {JobTimeoutError}
    assert isinstance(found[0].error, JobError)
    assert isinstance(found[0].error, TimeoutError)


def ends_by_a_signal(folder: Path) -> int:
    number = nth(folder)
    if number == 1:
        os.kill(os.getpid(), 9)
    return number


def test_a_job_that_a_rank_of_dies(batch: Batch, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="SIGKILL"):
        batch.job(ends_by_a_signal, (tmp_path,), retries=2).run(LIMIT_S)
    (tmp_path / "1").unlink()
    task = batch.job(ends_by_a_signal, (tmp_path,), retries=2, retry_on=JobError)
    assert task.run(LIMIT_S) == [2]


# ---- clients, records, pictures -----------------------------------------------------------------


def as_a_client(batch: Batch, folder: Path) -> tuple[int, list[tuple[int, str]], int]:
    """Try a task of a batch's copy again, and one for which there is no success."""
    lost = folder / "lost"
    lost.mkdir()
    good = batch.function(falters, folder, 2, retries=2, retry_on=OwnError)
    bad = batch.function(falters, lost, 9, retries=1, retry_delay=0.01, retry_on=OwnError)
    good.start()
    bad.start()
    bad.wait(LIMIT_S)
    result = good.result.get(timeout=LIMIT_S)
    found = attempts(good)
    assert isinstance(found[0].error, OwnError)
    return result, [(each.number, str(each.error)) for each in found], len(attempts(bad))


def test_a_copy_of_the_batch_in_a_task(batch: Batch, tmp_path: Path) -> None:
    result, found, nbad = batch.function(as_a_client, batch, tmp_path).run(LIMIT_S)
    assert result == 3
    assert found == [(1, "attempt 1"), (2, "attempt 2"), (3, "None")]
    assert nbad == 2


def held_by_a_client(batch: Batch, folder: Path) -> str:
    """Wait until the first attempt is known to have failed, and give the task up."""
    task = batch.function(falters, folder, 1, retries=1, retry_delay=LONG_S, retry_on=OwnError)
    task.start()
    driven(batch, lambda: len(attempts(task)) == 1)
    task.cancel()
    try:
        task.result.get(timeout=LIMIT_S)
    except CancelledError:
        return str(attempts(task)[0].error)
    return "not cancelled"


def test_a_client_sees_attempts_as_they_end(batch: Batch, tmp_path: Path) -> None:
    assert batch.function(held_by_a_client, batch, tmp_path).run(LIMIT_S) == "attempt 1"


def test_telemetry_has_each_attempt(recorded: Batch, tmp_path: Path) -> None:
    task = recorded.function(falters, tmp_path, 2, retries=2, retry_delay=0.05, retry_on=OwnError)
    task.run(LIMIT_S)
    rows = recorded.telemetry().rows()
    assert [row["attempt"] for row in rows] == [1, 2, 3]
    assert [row["status"] for row in rows] == ["retried", "retried", "done"]
    assert {row["uid"] for row in rows} == {task.uid}
    readies = [float(row["ready"]) for row in rows]
    # Ready anew after its back-off, so that the wait for a worker is told apart from that.
    assert readies[2] - readies[1] >= 0.05


def test_the_picture_says_how_often(batch: Batch, tmp_path: Path) -> None:
    tries, file = tmp_path / "tries", tmp_path / "dag.dot"
    tries.mkdir()
    tasks = [
        batch.function(falters, tries, 1, retries=1, retry_on=OwnError),
        batch.function(abs, 1),
    ]
    compiled = batch.compile(tasks)
    compiled.run(LIMIT_S)
    compiled.dump_dag(file)
    assert f"{tasks[0].uid} falters, attempt 2" in file.read_text()
    assert "abs, attempt" not in file.read_text()


def fails_at_a_gate(gate: Gate, folder: Path) -> int:
    gate.pass_through()
    return falters(folder, 1)


def test_cancelled_during_an_attempt_that_then_fails(
    batch: Batch, tmp_path: Path, gate: Gate, alone: bool
) -> None:
    """There is no other attempt."""
    if alone:
        pytest.skip("one rank: the task would run on the thread that waits for it")
    task = batch.function(fails_at_a_gate, gate, tmp_path, retries=3, retry_on=Exception)
    task.start()
    gate.arrived()
    task.cancel()
    gate.open()
    task.wait(LIMIT_S)
    with pytest.raises(CancelledError):
        task.result.get()
    assert len(attempts(task)) <= 1
