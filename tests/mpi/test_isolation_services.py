"""Isolated tasks with services, waits and policies."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alamo_mpi
from alamo_mpi import (
    Batch,
    CancelledError,
    DDict,
    Policy,
    Queue,
    TaskTimeoutError,
)
from tests.mpi.gates import LIMIT_S, wait_until
from tests.mpi.isolated import SOON_S, died, kills_itself, pids, square

# Services and policies ---------------------------------------------------------------------------


def uses(store: Any, results: Any, x: int) -> int:
    store[x] = np.full(1 << 15, x)
    results.put(("from", os.getpid()))
    own = DDict()
    own["key"] = "value"
    assert own["key"] == "value"
    own.destroy()
    return int(store[x].sum()) + alamo_mpi.attach().rank * 0


def test_services_inside(one: Batch) -> None:
    with DDict() as store, Queue() as results:
        inside, _ = one.function(pids).run(LIMIT_S)
        assert one.function(uses, store, results, 3).run(LIMIT_S) == 3 << 15
        assert results.get(timeout=LIMIT_S) == ("from", inside)
        assert np.array_equal(store[3], np.full(1 << 15, 3))


def takes_an_item(items: Any) -> Any:
    return items.get(timeout=LIMIT_S)


def puts_an_item(items: Any, item: Any) -> None:
    items.put(item)


@pytest.mark.parametrize("isolate", [True, False])
def test_one_that_waits_lets_its_worker_go_on(one: Batch, isolate: bool) -> None:
    with Queue() as items:
        takers = [one.function(takes_an_item, items) for _ in range(3)]
        for each in takers:
            each.start()
        givers = [one.function(puts_an_item, items, i, isolate=isolate) for i in range(3)]
        for each in givers:
            each.start()
        assert sorted(each.result.get(timeout=LIMIT_S) for each in takers) == [0, 1, 2]


def prints_much(lines: int) -> None:
    sys.stdout.write("a line of text\n" * lines)


def prints_around_a_wait(items: Any, flag: Path) -> None:
    print("before")
    flag.touch()
    items.get(timeout=LIMIT_S)
    print("after")


def test_output_around_a_wait(one: Batch, tmp_path: Path) -> None:
    with Queue() as items:
        waits = one.function(prints_around_a_wait, items, tmp_path / "flag")
        waits.start()
        wait_until((tmp_path / "flag").exists, "for the task to start")
        other = one.function(prints_much, 200_000, isolate=False)
        other.run(LIMIT_S)
        items.put(None)
        waits.wait(LIMIT_S)
        assert waits.stdout.get() == "before\nafter\n"
        assert other.stdout.get(timeout=LIMIT_S).count("\n") == 200_000


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_giving_up_one_that_waits(one: Batch, tmp_path: Path, how: str) -> None:
    with Queue() as items:
        limit_s = SOON_S if how == "timeout" else None
        waits = one.function(prints_around_a_wait, items, tmp_path / "flag", timeout=limit_s)
        waits.start()
        wait_until((tmp_path / "flag").exists, "for the task to start")
        if how == "cancel":
            waits.cancel()
        with pytest.raises(CancelledError if how == "cancel" else TaskTimeoutError):
            waits.result.get(timeout=LIMIT_S)
        assert one.function(square, 4).run(LIMIT_S) == 16


def dies_waiting(items: Any) -> None:
    threading.Timer(0.05, os._exit, (4,)).start()
    items.get(timeout=LIMIT_S)


def test_one_that_dies_while_it_waits(one: Batch) -> None:
    with Queue() as items:
        assert died(one.function(dies_waiting, items)).status == 4
        assert one.function(square, 4).run(LIMIT_S) == 16


def cpus_and_threads() -> tuple[int, str | None]:
    return len(os.sched_getaffinity(0)), os.environ.get("OPENBLAS_NUM_THREADS")


def test_policies(one: Batch) -> None:
    usual = one.function(cpus_and_threads).run(LIMIT_S)
    cpu = min(os.sched_getaffinity(0))
    placed = one.function(cpus_and_threads, policy=Policy(cpu_affinity=[cpu]))
    assert placed.run(LIMIT_S)[0] == 1
    assert one.function(cpus_and_threads).run(LIMIT_S) == usual


def test_threads_of_libraries(one: Batch) -> None:
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    limited = one.function(cpus_and_threads, policy=Policy(threads=3))
    assert limited.run(LIMIT_S)[1] == "3"


def sets(variables: dict[str, str | None]) -> dict[str, str | None]:
    """Change the environment of a worker; return what it was."""
    before = {name: os.environ.pop(name, None) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    return before


def test_gpus(one: Batch) -> None:
    died(one.function(kills_itself))
    variables = {"ALAMO_FAKE_GPUS": "4", "CUDA_VISIBLE_DEVICES": "2,3"}
    before = one.function(sets, variables, isolate=False).run(LIMIT_S)
    inside = one.function(alamo_mpi.gpus).run(LIMIT_S)
    assert len(inside) == 2
    assert inside == one.function(alamo_mpi.gpus, isolate=False).run(LIMIT_S)
    one.function(sets, before, isolate=False).run(LIMIT_S)
    died(one.function(kills_itself))


def fans_out(n: int) -> list[int]:
    with Batch() as inner:
        tasks = [inner.function(square, i) for i in range(n)]
        total = inner.function(sum_of, *tasks)
        inner.compile([*tasks, total]).run(LIMIT_S)
        return [total.result.get(), *(task.result.get() for task in tasks)]


def sum_of(*values: int) -> int:
    return sum(values)


def submits_to(batch: Any, x: int) -> int:
    return int(batch.function(square, x).run(LIMIT_S))


def test_it_starts_tasks_and_waits_for_them_on_its_worker_too(one: Batch) -> None:
    assert one.function(fans_out, 5).run(LIMIT_S) == [30, 0, 1, 4, 9, 16]
    tasks = [one.function(submits_to, one, i) for i in range(3)]
    one.compile(tasks).run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [0, 1, 4]


def forgets_a_batch() -> int:
    batch = Batch()
    batch.function(square, 2).start()
    return batch.num_workers


def test_a_batch_that_it_forgets_ends_with_it(one: Batch) -> None:
    assert one.function(forgets_a_batch).run(LIMIT_S) > 0
    assert one.function(fans_out, 2).run(LIMIT_S) == [1, 0, 1]
