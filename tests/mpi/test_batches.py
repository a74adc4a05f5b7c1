"""Batches: how many workers they get, several at once, and all their ends."""

from __future__ import annotations

import gc
import logging
import re
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, CancelledError, Task, TaskStateError, WorkersBusyError
from alamo_mpi.runtime.manager import Manager
from tests.mpi.gates import Gate, pass_and_call


def square(x: int) -> int:
    return x * x


def ones(n: int) -> Any:
    return np.ones(n)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_batch_takes_all_workers(batch: Batch, nworkers: int) -> None:
    assert batch.num_workers == nworkers


@pytest.mark.parametrize("wanted", [0, -1, -100])
def test_no_workers_at_all(wanted: int) -> None:
    with pytest.raises(ValueError, match=f"num_workers must be 1 or more, not {wanted}"):
        Batch(num_workers=wanted)


@pytest.mark.parametrize("wanted", [1.5, "2", None])
def test_the_number_of_workers_is_a_number(wanted: Any, nworkers: int) -> None:
    if wanted is None:
        with Batch(wanted) as batch:
            assert batch.num_workers == nworkers
        return
    with pytest.raises(TypeError):
        Batch(num_workers=wanted)


def test_numbers_of_numpy_count_as_numbers() -> None:
    with Batch(num_workers=np.int64(1)) as batch:
        assert batch.num_workers == 1


def test_more_workers_than_there_are(caplog: pytest.LogCaptureFixture, nworkers: int) -> None:
    with Batch(num_workers=nworkers + 5) as batch:
        assert batch.num_workers == nworkers
        assert batch.function(square, 3).run() == 9
    (warning,) = warnings_in(caplog)
    assert f"asked for {nworkers + 5} workers and gets {nworkers}" in warning


def test_as_many_workers_as_there_are(caplog: pytest.LogCaptureFixture, nworkers: int) -> None:
    for wanted in (None, nworkers, 1):
        with Batch(num_workers=wanted) as batch:
            assert batch.num_workers == (wanted or nworkers)
    assert not warnings_in(caplog)


def test_every_worker_is_held(batch: Batch, nworkers: int) -> None:
    holder = str(batch._live)
    for wanted in (None, 1):
        with pytest.raises(WorkersBusyError) as caught:
            Batch(num_workers=wanted)
        assert f"of {nworkers} in the program, {holder} holds {nworkers}" in str(caught.value)
    assert batch.function(square, 3).run() == 9


def test_batches_side_by_side(nworkers: int, gate: Gate) -> None:
    batches = [Batch(num_workers=1) for _ in range(nworkers)]
    with pytest.raises(WorkersBusyError, match="; ".join(f"{b._live} holds 1" for b in batches)):
        Batch()
    tasks = [b.function(pass_and_call, gate, square, i) for i, b in enumerate(batches)]
    for task in tasks:
        task.start()
    gate.arrived(nworkers)
    gate.open()
    assert [task.result.get() for task in tasks] == [i * i for i in range(nworkers)]
    # One ends; the others go on, and its worker is there for the next one.
    batches[0].close()
    batches[0].join()
    with Batch() as another:
        assert another.num_workers == 1
        assert another.function(square, 9).run() == 81
    for number, batch in enumerate(batches[1:]):
        assert batch.function(square, number).run() == number**2
        batch.close()
    for batch in batches[1:]:
        batch.join()


def test_tasks_of_one_batch_run_on_its_workers_only(nworkers: int) -> None:
    if nworkers < 2:
        pytest.skip("needs two workers")
    with Batch(num_workers=1) as one, Batch() as rest:
        from_one = [one.function(my_rank) for _ in range(50)]
        from_rest = [rest.function(my_rank) for _ in range(50)]
        one.compile(from_one).start()
        rest.compile(from_rest).start()
        assert {task.result.get() for task in from_one} == {1}
        assert {task.result.get() for task in from_rest} <= set(range(2, nworkers + 1))


def my_rank() -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.Get_rank()


def test_one_batch_after_the_other_at_once() -> None:
    for number in range(50):
        batch = Batch()
        tasks = [batch.function(square, i) for i in range(number * 7)]
        batch.compile(tasks).start()
        batch.close()
        batch.join()
        assert [task.result.get() for task in tasks] == [i * i for i in range(number * 7)]


def test_tasks_after_close(batch: Batch) -> None:
    early = batch.function(square, 2)
    listed = batch.function(square, 3)
    compiled = batch.compile([listed])
    started = batch.function(square, 4)
    started.start()
    batch.close()
    batch.close()
    for task in (early, compiled, batch.function(square, 5)):
        for call in (task.start, task.run):
            with pytest.raises(TaskStateError, match="is closed and takes no more tasks"):
                call()
    assert started.result.get() == 16
    batch.join()
    batch.join()
    with pytest.raises(TaskStateError, match="closed"):
        early.start()


def test_join_before_close(batch: Batch) -> None:
    with pytest.raises(TaskStateError, match=r"Call close\(\) before join\(\)"):
        batch.join()
    assert batch.function(square, 2).run() == 4


def test_join_waits_for_all_work(batch: Batch, gate: Gate) -> None:
    tasks = [batch.function(pass_and_call, gate, square, i) for i in range(5)]
    batch.compile(tasks).start()
    gate.arrived()
    batch.close()
    with pytest.raises(TimeoutError, match=r"is not done after 0.05 s: 5 tasks are unfinished"):
        batch.join(timeout=0.05)
    gate.open()
    batch.join()
    assert [task.result.get(timeout=0) for task in tasks] == [0, 1, 4, 9, 16]


def test_results_after_join(batch: Batch) -> None:
    small, big = batch.function(square, 3), batch.function(ones, 100_000)
    loud, bad = batch.function(print, "y" * 100_000), batch.function(divide, 1, 0)
    batch.compile([small, big, loud, bad]).start()
    batch.close()
    batch.join()
    with Batch() as other:  # the workers have new work, and still what the old ones left
        assert other.function(square, 2).run() == 4
        assert small.result.get() == 9
        assert big.result.get().sum() == 100_000
        assert len(loud.stdout.get()) == 100_001
        with pytest.raises(ZeroDivisionError):
            bad.result.get()


def divide(x: int, y: int) -> float:
    return x / y


def test_with_closes_and_joins() -> None:
    with Batch() as batch:
        task = batch.function(square, 3)
        task.start()
    assert task.result.get(timeout=0) == 9
    with pytest.raises(TaskStateError, match="closed"):
        batch.function(square, 3).start()


def test_close_and_join_inside_with() -> None:
    with Batch() as batch:
        batch.function(square, 3).start()
        batch.close()
        batch.join()
    with Batch() as batch:
        batch.terminate()


def test_an_error_inside_with_terminates(gate: Gate) -> None:
    running: list[Task] = []
    waiting: list[Task] = []

    def program() -> None:
        with Batch() as batch:
            running.append(batch.function(pass_and_call, gate, square, 1))
            running[0].start()
            waiting.extend(batch.function(square, running[0]) for _ in range(20))
            batch.compile(waiting).start()
            gate.arrived()
            raise KeyError("my own")

    with pytest.raises(KeyError, match="my own"):
        program()
    gate.open()
    for task in waiting:
        with pytest.raises(CancelledError):
            task.result.get()
    running[0].wait()  # in a world of one rank it could not be interrupted
    with Batch() as batch:
        assert batch.function(square, 3).run() == 9


def test_a_dropped_batch_frees_its_workers(
    caplog: pytest.LogCaptureFixture, manager: Manager, nworkers: int
) -> None:
    batch = Batch()
    name = str(batch._live)
    assert batch.function(square, 3).run() == 9
    del batch
    gc.collect()
    with Batch() as another:
        assert another.num_workers == nworkers
    (warning,) = warnings_in(caplog)
    assert re.match(rf"{name} was dropped without close\(\) and join\(\)", warning)


def test_a_batch_dropped_with_tasks_under_way(
    caplog: pytest.LogCaptureFixture, manager: Manager, gate: Gate
) -> None:
    batch = Batch()
    task = batch.function(pass_and_call, gate, square, 3)
    task.start()
    gate.arrived()
    del batch, task
    gc.collect()
    assert manager.drive(lambda: bool(warnings_in(caplog)), 30.0)
    gate.open()
    assert manager.drive(lambda: not manager.roster.batches, 30.0)
    (warning,) = warnings_in(caplog)
    assert "1 unfinished tasks are cancelled" in warning


def test_a_task_keeps_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch()
    task = batch.function(square, 3)
    del batch
    gc.collect()
    assert task.run() == 9
    task._batch.close()
    task._batch.join()
    assert not warnings_in(caplog)


def test_closed_without_join_frees_its_workers(caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch()
    task = batch.function(square, 3)
    task.start()
    batch.close()
    assert task.result.get() == 9
    del batch, task
    gc.collect()
    assert not warnings_in(caplog)


def test_log_level_reaches_the_workers(nworkers: int, tmp_path: Any) -> None:
    with Batch(log_level=logging.DEBUG) as batch:
        name = f"alamo_mpi.batch.{batch._live.number}"
        tasks = [batch.function(level_of, name) for _ in range(10)]
        batch.compile(tasks).run()
        assert {task.result.get() for task in tasks} == {logging.DEBUG}


def level_of(name: str) -> int:
    return logging.getLogger(name).level
