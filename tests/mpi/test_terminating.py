"""terminate: what runs is given up, what waits is cancelled, and the workers are free again."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import Batch, CancelledError, Task, TaskStateError
from tests.mpi.gates import LIMIT_S, Gate, on_each_worker, wait_until

#: A task that nobody ends lasts so long; a run of it that is not given up fails its test.
LONG_S = 4 * LIMIT_S


def square(x: int) -> int:
    return x * x


def loops(started: Path) -> None:
    started.touch()
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        sum(range(100))


def sleeps(started: Path) -> None:
    started.touch()
    time.sleep(LONG_S)


def waits_for_a_child(started: Path) -> None:
    started.touch()
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({LONG_S})"], check=True)


KINDS = [loops, sleeps, waits_for_a_child]


@pytest.fixture
def many(alone: bool) -> None:
    if alone:
        pytest.skip("one rank: a C call of a task that runs in this process cannot be interrupted")


@pytest.fixture
def left() -> Iterator[Batch]:
    """A batch that the test itself ends."""
    batch = Batch()
    yield batch
    batch.terminate()


def start_one_on_each(batch: Batch, kind: Callable[[Path], None], folder: Path) -> list[Task]:
    flags = [folder / f"started-{i}" for i in range(batch.num_workers)]
    tasks: list[Task] = [batch.function(kind, flag) for flag in flags]
    for task in tasks:
        task.start()
    wait_until(lambda: all(flag.exists() for flag in flags), "for tasks to start")
    return tasks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("many")
def test_running_tasks_are_given_up(
    left: Batch, tmp_path: Path, kind: Callable[[Path], None]
) -> None:
    running = start_one_on_each(left, kind, tmp_path)
    waiting = [left.function(square, i) for i in range(100)]
    chain = [left.function(square, waiting[-1])]
    left.compile([*waiting, *chain]).start()
    left.terminate()
    for task in [*running, *waiting, *chain]:
        with pytest.raises(CancelledError, match=f"Task {task.uid} .* was cancelled") as caught:
            task.result.get(timeout=LIMIT_S)
        assert isinstance(caught.value, concurrent.futures.CancelledError)
        assert caught.value.uid == task.uid
    for task in running:
        task.wait(timeout=0)
    with Batch() as batch:
        assert batch.num_workers == len(running)
        assert on_each_worker(batch, tmp_path, square, 3) == [9] * batch.num_workers


@pytest.mark.usefixtures("many")
def test_an_error_in_with_gives_up_running_tasks(tmp_path: Path) -> None:
    tasks: list[Task] = []

    def program() -> None:
        with Batch() as batch:
            tasks.extend(start_one_on_each(batch, sleeps, tmp_path))
            raise KeyError("of the program")

    with pytest.raises(KeyError, match="of the program"):
        program()
    for task in tasks:
        with pytest.raises(CancelledError):
            task.result.get(timeout=0)


@pytest.mark.usefixtures("many")
def test_output_of_a_task_that_was_given_up(left: Batch, tmp_path: Path) -> None:
    task = left.function(prints_and_sleeps, tmp_path / "started")
    task.start()
    wait_until((tmp_path / "started").exists)
    left.terminate()
    assert task.stdout.get(timeout=LIMIT_S) == "so far\n"


def prints_and_sleeps(started: Path) -> None:
    print("so far")
    sleeps(started)


@pytest.mark.usefixtures("many")
def test_a_thread_that_waits_is_told(left: Batch, tmp_path: Path) -> None:
    (task, *_) = start_one_on_each(left, sleeps, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        got = threads.submit(task.result.get)
        waited = threads.submit(task.wait)
        left.terminate()
        assert isinstance(got.exception(LIMIT_S), CancelledError)
        assert waited.exception(LIMIT_S) is None


@pytest.mark.usefixtures("many")
def test_a_task_that_finishes_after_all_keeps_its_result(left: Batch, gate: Gate) -> None:
    task = left.function(swallows_and_returns, gate)
    task.start()
    gate.arrived()
    left.terminate()
    assert task.result.get(timeout=LIMIT_S) == "went on"


def swallows_and_returns(gate: Gate) -> str:
    try:
        gate.pass_through()
    except BaseException:
        return "went on"
    return "was let through"


def test_a_function_that_catches_the_exception_keeps_its_result(left: Batch, gate: Gate) -> None:
    """On any number of ranks: a task of the program's own process is given up as well."""
    task = left.function(swallows_and_returns, gate)
    task.start()
    gate.arrived()
    left.terminate()
    assert task.result.get(timeout=LIMIT_S) == "went on"


def test_nothing_is_started_any_more(left: Batch) -> None:
    made = left.function(square, 3)
    done = left.function(square, 4)
    done.run()
    left.terminate()
    left.terminate()
    for task in (made, left.compile([left.function(square, 5)])):
        with pytest.raises(TaskStateError, match="was terminated; create a new Batch"):
            task.start()
    assert done.result.get() == 16
    left.close()
    left.join()


def test_waiting_tasks_are_cancelled(left: Batch, gate: Gate) -> None:
    running = left.function(gate.pass_through)
    running.start()
    gate.arrived()
    chain: list[Task] = [left.function(square, running)]
    for _ in range(50):
        chain.append(left.function(square, chain[-1]))
    compiled = left.compile(chain)
    compiled.start()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        # In a world of one rank the running task cannot be interrupted, so it must end by itself.
        ending = threads.submit(left.terminate)
        for task in chain:
            with pytest.raises(CancelledError):
                task.result.get(timeout=LIMIT_S)
        compiled.wait(timeout=LIMIT_S)
        gate.open()
        ending.result(LIMIT_S)


def test_callbacks_of_cancelled_tasks_do_not_run(left: Batch, gate: Gate) -> None:
    calls: list[Any] = []
    running = left.function(gate.pass_through)
    running.start()
    gate.arrived()
    task = left.function(square, running, callback_func=calls.append)
    compiled = left.compile([task], callback_func=calls.append, callback_args=("all",))
    compiled.start()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        ending = threads.submit(left.terminate)
        with pytest.raises(CancelledError):
            task.result.get(timeout=LIMIT_S)
        gate.open()
        ending.result(LIMIT_S)
    compiled.wait(timeout=LIMIT_S)
    assert calls == []


@pytest.mark.usefixtures("many")
def test_others_are_not_disturbed(nworkers: int, tmp_path: Path, gate: Gate) -> None:
    if nworkers < 2:
        pytest.skip("needs two workers")
    with Batch(num_workers=1) as calm:
        task = calm.function(gate.pass_through)
        task.start()
        gate.arrived()
        wild = Batch()
        start_one_on_each(wild, sleeps, tmp_path)
        wild.terminate()
        gate.open()
        assert task.result.get() is None
        assert calm.function(square, 3).run() == 9


@pytest.mark.usefixtures("many")
def test_again_and_again(tmp_path: Path) -> None:
    # Early and late: before the tasks are there, while they start, while they run.
    for number in range(30):
        batch = Batch()
        tasks = [batch.function(sleeps, tmp_path / f"{number}-{i}") for i in range(6)]
        quick = [batch.function(square, i) for i in range(number * 5)]
        batch.compile([*quick, *tasks]).start()
        if number % 3 == 1:
            wait_until((tmp_path / f"{number}-0").exists)
        elif number % 3 == 2 and quick:
            quick[-1].result.get()
        batch.terminate()
        for task in tasks:
            with pytest.raises(CancelledError):
                task.result.get(timeout=LIMIT_S)
