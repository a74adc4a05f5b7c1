"""Several threads of the user's program use batches at once."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, TaskStateError
from tests.mpi.gates import LIMIT_S, Gate, pass_and_call

NTHREADS = 6


def square(x: int) -> int:
    return x * x


def fail(x: int) -> None:
    raise ValueError(x)


def ones(n: int) -> Any:
    return np.ones(n)


Start = Callable[..., list[Any]]


@pytest.fixture
def on_threads() -> Iterator[Start]:
    """Run a function on several threads at once; give their results, or raise the first error."""
    with ThreadPoolExecutor(NTHREADS) as pool:

        def run(function: Callable[[int], Any]) -> list[Any]:
            barrier = threading.Barrier(NTHREADS)

            def together(number: int) -> Any:
                barrier.wait(LIMIT_S)
                return function(number)

            futures = [pool.submit(together, number) for number in range(NTHREADS)]
            return [future.result() for future in futures]

        yield run


def test_start_and_get(batch: Batch, on_threads: Start) -> None:
    def work(number: int) -> list[int]:
        results = []
        for i in range(100):
            task = batch.function(square, 1000 * number + i)
            task.start()
            results.append(task.result.get())
        return results

    expected = [[(1000 * number + i) ** 2 for i in range(100)] for number in range(NTHREADS)]
    assert on_threads(work) == expected


def test_compiled_tasks_and_failures(batch: Batch, on_threads: Start) -> None:
    def work(number: int) -> int:
        for i in range(10):
            tasks: list[Any] = [batch.function(square, number)]
            for _ in range(5):
                tasks.append(batch.function(square, tasks[0]))
            tasks.append(batch.function(fail, i))
            compiled = batch.compile(tasks)
            with pytest.raises(ValueError, match=str(i)):
                compiled.run()
            assert [task.result.get() for task in tasks[1:6]] == [number**4] * 5
        return number

    assert on_threads(work) == list(range(NTHREADS))


def test_big_values(batch: Batch, on_threads: Start) -> None:
    shared = np.arange(50_000.0)

    def work(number: int) -> float:
        total = 0.0
        for i in range(8):
            made = batch.function(ones, 50_000 + i)
            made.start()
            both = batch.function(np.dot, shared, shared + number)
            both.start()
            total += made.result.get().sum() + both.result.get()
        return total

    got = on_threads(work)
    for number in range(NTHREADS):
        expected = 8 * (50_000 + 3.5 + float(np.dot(shared, shared + number)))
        assert got[number] == pytest.approx(expected)


@pytest.mark.parametrize("nitems", [4, 4_000, 400_000])
def test_one_result_for_all(batch: Batch, on_threads: Start, gate: Gate, nitems: int) -> None:
    task = batch.function(pass_and_call, gate, ones, nitems)
    task.start()
    gate.arrived()
    gate.open()
    first, *others = on_threads(lambda number: task.result.get())
    assert all(other is first for other in others)
    assert first.sum() == nitems


def test_one_failure_for_all(batch: Batch, on_threads: Start) -> None:
    task = batch.function(fail, 3)
    task.start()

    def work(number: int) -> BaseException:
        with pytest.raises(ValueError, match="3") as caught:
            task.result.get()
        return caught.value

    first, *others = on_threads(work)
    assert all(other is first for other in others)


def test_only_one_thread_starts_a_task(batch: Batch, on_threads: Start) -> None:
    for _ in range(30):
        task = batch.function(square, 3)

        def work(number: int, task: Any = task) -> int:
            try:
                task.start()
            except TaskStateError:
                return 0
            return 1

        assert sum(on_threads(work)) == 1
        assert task.result.get() == 9


def test_only_one_thread_compiles_a_task(batch: Batch, on_threads: Start) -> None:
    for _ in range(30):
        task = batch.function(square, 3)

        def work(number: int, task: Any = task) -> Any:
            try:
                return batch.compile([task])
            except TaskStateError:
                return None

        (compiled,) = filter(None, on_threads(work))
        assert compiled.run() == 9


def test_functions_of_one_definition(batch: Batch, on_threads: Start) -> None:
    offset = 7

    def shifted(x: int) -> int:
        return x + offset

    def work(number: int) -> list[int]:
        tasks = [batch.function(shifted, number) for _ in range(50)]
        for task in tasks:
            task.start()
        return [task.result.get() for task in tasks]

    assert on_threads(work) == [[number + 7] * 50 for number in range(NTHREADS)]


def test_callbacks_from_all_threads(batch: Batch, on_threads: Start) -> None:
    calls: list[int] = []

    def work(number: int) -> None:
        for i in range(50):
            batch.function(square, 100 * number + i, callback_func=calls.append).run()

    on_threads(work)
    assert sorted(calls) == sorted((100 * n + i) ** 2 for n in range(NTHREADS) for i in range(50))


def test_batches_one_after_the_other_on_threads(nworkers: int) -> None:
    turns = threading.BoundedSemaphore(nworkers)

    def work(number: int) -> list[int]:
        results = []
        for i in range(10):
            with turns, Batch(num_workers=1) as batch:
                results.append(batch.function(square, number + i).run())
        return results

    with ThreadPoolExecutor(NTHREADS) as pool:
        got = list(pool.map(work, range(NTHREADS)))
    assert got == [[(n + i) ** 2 for i in range(10)] for n in range(NTHREADS)]


def test_a_thread_that_waits_while_another_closes(batch: Batch, gate: Gate) -> None:
    task = batch.function(pass_and_call, gate, square, 3)
    task.start()
    gate.arrived()
    with ThreadPoolExecutor(2) as pool:
        got = pool.submit(task.result.get)
        batch.close()
        joined = pool.submit(batch.join)
        gate.open()
        assert (got.result(LIMIT_S), joined.result(LIMIT_S)) == (9, None)


def test_a_task_that_is_done_has_its_result(
    batch: Batch, on_threads: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = batch._live.scheduler.handle

    def pause_after(*args: Any) -> Any:
        commands = handle(*args)
        time.sleep(1e-3)  # states are set now, results are stored by the commands
        return commands

    monkeypatch.setattr(batch._live.scheduler, "handle", pause_after)

    def work(number: int) -> None:
        for i in range(10):
            good, bad = batch.function(square, i), batch.function(fail, i)
            compiled = batch.compile([good, bad])
            compiled.start()
            if number % 2:
                compiled.wait()
            assert good.result.get() == i * i
            with pytest.raises(ValueError, match=str(i)):
                bad.result.get()

    on_threads(work)


class Meeting:
    """An argument that holds up its own pickling until two threads do it, or a moment is over."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def __reduce__(self) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.1)
        return int, (3,)


def test_two_threads_that_start_one_task_at_once(batch: Batch) -> None:
    task = batch.function(square, Meeting())

    def start(_: int) -> bool:
        try:
            task.start()
        except TaskStateError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(start, range(2))) == [False, True]
    assert task.result.get() == 9


def test_a_thread_that_compiles_what_another_starts(batch: Batch) -> None:
    task = batch.function(square, Meeting())
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(task.start)
        try:
            batch.compile([task]).run()
        except TaskStateError:
            starting.result(LIMIT_S)
        else:
            assert isinstance(starting.exception(LIMIT_S), TaskStateError)
    assert task.result.get() == 9


def test_each_thread_calls_its_own_function(batch: Batch, on_threads: Start) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the middle of everything
    try:

        def work(number: int) -> list[int]:
            results = []
            for i in range(60):
                one, two = batch.function(lambda i=i: 100 * number + i), batch.function(square, i)
                one.start()
                two.start()
                results.append(one.result.get() - two.result.get())
            return results

        got = on_threads(work)
    finally:
        sys.setswitchinterval(interval)
    assert got == [[100 * number + i - i * i for i in range(60)] for number in range(NTHREADS)]


def test_shared_arrays_from_all_threads(batch: Batch, on_threads: Start) -> None:
    shared = np.arange(20_000.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work(number: int) -> list[float]:
            mine = np.full(20_000, float(number))
            return [batch.function(np.dot, shared, mine).run() for _ in range(40)]

        got = on_threads(work)
    finally:
        sys.setswitchinterval(interval)
    assert got == [[float(shared.sum()) * number] * 40 for number in range(NTHREADS)]
