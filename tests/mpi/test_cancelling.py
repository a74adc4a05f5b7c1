"""cancel and timeout: one task is given up, those that read from it are skipped."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alamo_mpi import Batch, CancelledError, DependencyError, Task, TaskTimeoutError
from alamo_mpi.errors import TaskStateError
from tests.mpi.gates import LIMIT_S, Gate, on_each_worker, wait_until

#: A task that is not given up lasts so long, and fails its test.
LONG_S = 4 * LIMIT_S
#: A time-out of a task that would run on.
SOON_S = 0.02


def loops(flag: Path, seconds: float = LONG_S) -> str:
    flag.touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))
    return "at its end"


def naps(flag: Path) -> None:
    flag.touch()
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        time.sleep(1e-3)


def sleeps(flag: Path) -> None:
    flag.touch()
    time.sleep(LONG_S)


def cleans_up(flag: Path) -> None:
    try:
        loops(flag)
    finally:
        flag.with_name("cleaned").touch()


def swallows(flag: Path) -> str:
    try:
        loops(flag)
    except BaseException:
        return "all the same"
    return "late"


def square(x: int) -> int:
    return x * x


def started(task: Task, flag: Path) -> Task:
    task.start()
    wait_until(flag.exists, "for the task to start")
    return task


def is_cancelled(task: Task) -> None:
    with pytest.raises(CancelledError, match=f"Task {task.uid} .* was cancelled"):
        task.result.get(timeout=LIMIT_S)


@pytest.mark.parametrize("kind", [loops, naps])
def test_a_running_task(batch: Batch, tmp_path: Path, kind: Callable[..., None]) -> None:
    task = started(batch.function(kind, tmp_path / "flag"), tmp_path / "flag")
    task.cancel()
    is_cancelled(task)
    task.wait(LIMIT_S)
    assert batch.function(square, 3).run(LIMIT_S) == 9


def test_a_running_task_that_sleeps(batch: Batch, tmp_path: Path, alone: bool) -> None:
    if alone:
        pytest.skip("one rank: its tasks may run on a thread that no signal reaches")
    task = started(batch.function(sleeps, tmp_path / "flag"), tmp_path / "flag")
    task.cancel()
    is_cancelled(task)


def test_clean_up_of_a_cancelled_task_runs(batch: Batch, tmp_path: Path) -> None:
    task = started(batch.function(cleans_up, tmp_path / "flag"), tmp_path / "flag")
    task.cancel()
    is_cancelled(task)
    assert (tmp_path / "cleaned").exists()


def test_a_function_that_returns_in_spite_of_it(batch: Batch, tmp_path: Path) -> None:
    task = started(batch.function(swallows, tmp_path / "flag"), tmp_path / "flag")
    task.cancel()
    assert task.result.get(timeout=LIMIT_S) == "all the same"


def test_a_task_that_has_ended_keeps_its_result(batch: Batch) -> None:
    task = batch.function(square, 4)
    task.run(LIMIT_S)
    task.cancel()
    assert task.result.get() == 16


def test_a_task_that_was_not_started(batch: Batch) -> None:
    task = batch.function(square, 4)
    with pytest.raises(TaskStateError, match="was not started"):
        task.cancel()


def chain(batch: Batch, gate: Gate, folder: Path) -> list[Task]:
    """A task at the gate, one behind it, and who reads, overwrites and takes from that."""
    first, second = folder / "first", folder / "second"
    return [
        batch.function(gate.pass_through, writes=batch.write(first)),
        batch.function(square, 2, reads=batch.read(first), writes=batch.write(second)),
        batch.function(square, 3, reads=batch.read(second)),
        batch.function(square, 4, writes=batch.write(second)),
        batch.function(square, 5, reads=batch.read(second)),
    ]


def test_a_waiting_subtask(batch: Batch, gate: Gate, tmp_path: Path) -> None:
    tasks = chain(batch, gate, tmp_path)
    outside = batch.function(square, tasks[1])
    batch.compile(tasks).start()
    outside.start()
    gate.arrived()
    tasks[1].cancel()
    is_cancelled(tasks[1])  # at once
    gate.open()
    assert [tasks[i].result.get(timeout=LIMIT_S) for i in (0, 3, 4)] == [None, 16, 25]
    for reader in (tasks[2], outside):
        with pytest.raises(DependencyError) as caught:
            reader.result.get(timeout=LIMIT_S)
        assert isinstance(caught.value.__cause__, CancelledError)
        assert caught.value.__cause__.uid == tasks[1].uid


def test_a_running_subtask(batch: Batch, tmp_path: Path) -> None:
    flag, out = tmp_path / "flag", tmp_path / "out"
    runs = batch.function(loops, flag, writes=batch.write(out))
    reads = batch.function(square, 2, reads=batch.read(out))
    overwrites = batch.function(square, 3, writes=batch.write(out))
    batch.compile([runs, reads, overwrites]).start()
    wait_until(flag.exists)
    runs.cancel()
    is_cancelled(runs)
    with pytest.raises(DependencyError):
        reads.result.get(timeout=LIMIT_S)
    assert overwrites.result.get(timeout=LIMIT_S) == 9


def test_a_compiled_task(batch: Batch, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    tasks = [batch.function(loops, flag, writes=batch.write(tmp_path))]
    tasks += [batch.function(square, i, reads=batch.read(tmp_path)) for i in range(20)]
    whole = batch.compile(tasks)
    whole.start()
    wait_until(flag.exists)
    whole.cancel()
    for task in tasks:
        is_cancelled(task)
    whole.wait(LIMIT_S)


def test_one_of_many_independent_tasks(batch: Batch, gate: Gate, nworkers: int) -> None:
    holders = [batch.function(gate.pass_through) for _ in range(nworkers)]
    for holder in holders:
        holder.start()
    gate.arrived(nworkers)
    tasks = [batch.function(square, i) for i in range(50)]
    whole = batch.compile(tasks)
    whole.start()
    for at in (7, 30, 7):
        tasks[at].cancel()
    for at in (7, 30):
        is_cancelled(tasks[at])  # also where a worker has it, but has not begun
    gate.open()
    whole.wait(LIMIT_S)
    for at, task in enumerate(tasks):
        if at in (7, 30):
            is_cancelled(task)
        else:
            assert task.result.get() == at * at


def test_everything_of_a_batch(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    flags = [tmp_path / f"flag-{i}" for i in range(nworkers)]
    tasks: list[Task] = [batch.function(loops, flag) for flag in flags]
    for task, flag in zip(tasks, flags, strict=True):
        started(task, flag)
    waiting = [batch.function(square, task) for task in tasks]
    for task in waiting:
        task.start()
    batch.cancel_all()
    for task in [*tasks, *waiting]:
        is_cancelled(task)
    assert batch.function(square, 3).run(LIMIT_S) == 9


def starts_and_cancels(batch: Batch, folder: Path) -> list[str]:
    """A client inside a task: it gives up one of its own tasks, which runs or waits."""
    with Batch() as own:
        tasks = [own.function(loops, folder / "flag"), own.function(square, 3)]
        tasks.append(own.function(square, tasks[0]))
        for task in tasks:
            task.start()
        tasks[0].cancel()
        ends = []
        for task in tasks:
            try:
                ends.append(str(task.result.get(timeout=LIMIT_S)))
            except Exception as error:
                ends.append(type(error).__name__)
        return ends


def test_a_client_inside_a_task(batch: Batch, tmp_path: Path, alone: bool) -> None:
    if alone:
        pytest.skip("one rank: a task that waits for another may keep its only thread")
    task = batch.function(starts_and_cancels, batch, tmp_path)
    assert task.run(LIMIT_S) == ["CancelledError", "9", "DependencyError"]
    # The exceptions there hold frames, and these the tasks.
    on_each_worker(batch, tmp_path, gc.collect)


def waits_for_another(batch: Batch, folder: Path) -> None:
    with Batch() as own:
        own.function(loops, folder / "inner").run()


def test_a_task_that_waits(batch: Batch, tmp_path: Path, alone: bool) -> None:
    """It is woken, and what it has started is ended with it."""
    if alone:
        pytest.skip("one rank: a task that waits for another may keep its only thread")
    task = started(batch.function(waits_for_another, batch, tmp_path), tmp_path / "inner")
    task.cancel()
    is_cancelled(task)
    on_each_worker(batch, tmp_path, gc.collect)


@pytest.mark.parametrize("kind", [loops, naps])
def test_time_out(batch: Batch, tmp_path: Path, kind: Callable[..., None], alone: bool) -> None:
    task = batch.function(kind, tmp_path / "flag", timeout=SOON_S)
    reader = batch.function(square, task)
    task.start()
    reader.start()
    with pytest.raises(
        TaskTimeoutError, match=f"Task {task.uid} .*timeout of {SOON_S} s"
    ) as caught:
        task.result.get(timeout=LIMIT_S)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.uid, error.task_name, error.limit_s) == (task.uid, kind.__name__, SOON_S)
    assert error.rank is not None
    assert (error.rank > 0) is not alone
    assert error.host
    assert kind.__name__ in str(error.__cause__)  # where it was
    with pytest.raises(DependencyError):
        reader.result.get(timeout=LIMIT_S)
    assert batch.function(square, 3).run(LIMIT_S) == 9


def test_time_outs_that_are_kept(batch: Batch) -> None:
    tasks = [batch.function(square, i, timeout=LIMIT_S) for i in range(100)]
    batch.compile(tasks).run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [i * i for i in range(100)]


def test_time_outs_of_some_tasks_of_a_list(batch: Batch, tmp_path: Path) -> None:
    """The limits are each task's own, also inside one chunk."""
    tasks: list[Task] = []
    for i in range(12):
        slow = i in (3, 8)
        flag = tmp_path / str(i)
        tasks.append(batch.function(loops, flag, LONG_S if slow else 0, timeout=SOON_S * 10))
    batch.compile(tasks).start()
    for i, task in enumerate(tasks):
        if i in (3, 8):
            with pytest.raises(TaskTimeoutError):
                task.result.get(timeout=LIMIT_S)
        else:
            assert task.result.get(timeout=LIMIT_S) == "at its end"


def times_out(folder: Path) -> str:
    with Batch() as own:
        task = own.function(loops, folder / "flag", timeout=SOON_S)
        task.start()
        try:
            task.result.get(timeout=LIMIT_S)
        except TaskTimeoutError as error:
            return str(error)
    return "no error"


def test_time_out_of_a_task_inside_a_task(batch: Batch, tmp_path: Path, alone: bool) -> None:
    if alone:
        pytest.skip("one rank: a task that waits for another may keep its only thread")
    assert "timeout of" in batch.function(times_out, tmp_path).run(LIMIT_S)
    on_each_worker(batch, tmp_path, gc.collect)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_no_such_time_out(batch: Batch, timeout: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        batch.function(square, 1, timeout=timeout)
