"""Every task is a client: batches in arguments, results and dictionaries, and batches of tasks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, CancelledError, DDict, DependencyError, TaskStateError
from tests.mpi.gates import Gate, pass_and_call, wait_until


def square(x: int) -> int:
    return x * x


def fail(text: str) -> None:
    raise LookupError(text)


def fib(batch: Batch, n: int) -> int:
    if n < 2:
        return n
    one, two = batch.function(fib, batch, n - 1), batch.function(fib, batch, n - 2)
    one.start()
    two.start()
    result: int = one.result.get() + two.result.get()
    return result


def deep(batch: Batch, depth: int) -> int:
    """Recurse `depth` deep, with three short branches on the way."""
    if not depth:
        return 1
    tasks = [batch.function(deep, batch, 0) for _ in range(3)]
    tasks.append(batch.function(deep, batch, depth - 1))
    batch.compile(tasks).run()
    return sum(task.result.get() for task in tasks)


def tree(width: int, depth: int) -> int:
    """Count the leaves of a tree in which each node is a task with a batch of its own."""
    if not depth:
        return 1
    with Batch() as batch:
        tasks = [batch.function(tree, width, depth - 1) for _ in range(width)]
        batch.compile(tasks).start()
        return sum(task.result.get() for task in tasks)


def test_a_recursion(batch: Batch) -> None:
    assert batch.function(fib, batch, 8).run() == 21


def test_a_recursion_that_is_deeper_than_there_are_workers(batch: Batch) -> None:
    assert batch.function(deep, batch, 20).run() == 61


def test_a_tree_of_batches(batch: Batch) -> None:
    assert batch.function(tree, 3, 3).run() == 27


def submit_through(batch: Batch, x: int) -> int:
    result: int = batch.function(square, x).run()
    return result


def test_a_batch_as_an_argument(batch: Batch) -> None:
    tasks = [batch.function(submit_through, batch, i) for i in range(12)]
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == [i * i for i in range(12)]


def echo(thing: Any) -> Any:
    return thing


def test_a_batch_as_a_result(batch: Batch) -> None:
    copy = batch.function(echo, batch).run()
    assert copy is not batch
    assert copy.num_workers == batch.num_workers
    assert copy.function(square, 7).run() == 49
    copy.close()
    with pytest.raises(TaskStateError, match="is closed"):
        copy.function(square, 7).start()
    assert batch.function(square, 8).run() == 64


def use_from(d: DDict[str, Batch]) -> int:
    return submit_through(d["batch"], 5)


def test_a_batch_in_a_dictionary(batch: Batch) -> None:
    with DDict() as d:
        d["batch"] = batch
        assert batch.function(use_from, d).run() == 25
        assert submit_through(d["batch"], 6) == 36


def make_and_return() -> tuple[Batch, int]:
    inner = Batch(num_workers=1)
    task = inner.function(square, 3)
    task.start()
    return inner, task.uid


def test_a_batch_that_a_task_made_and_returned(batch: Batch) -> None:
    """It is open for whoever gets it, though its maker has gone."""
    inner, uid = batch.function(make_and_return).run()
    assert inner.num_workers == 1
    task = inner.function(square, 4)
    assert task.run() == 16
    assert task.uid != uid
    inner.close()


def inner_workers(wanted: int | None) -> int:
    with Batch(wanted) as inner:
        return inner.num_workers


def test_how_many_workers_a_batch_of_a_task_has(batch: Batch, nworkers: int) -> None:
    assert batch.function(inner_workers, None).run() == nworkers
    assert batch.function(inner_workers, 1).run() == 1
    assert batch.function(inner_workers, 50).run() == nworkers


def graph_in_a_task(d: DDict[int, int], n: int) -> list[int]:
    with Batch() as inner:
        tasks = [
            inner.function(add_to, d, i, reads=inner.read(d, i), writes=inner.write(d, i + 1))
            for i in range(n)
        ]
        inner.compile(tasks).run()
        return [task.result.get() for task in tasks]


def add_to(d: DDict[int, int], i: int) -> int:
    d[i + 1] = d[i] + 1
    return d[i + 1]


def test_a_graph_that_a_task_compiles(batch: Batch) -> None:
    with DDict({0: 0}) as d:
        assert batch.function(graph_in_a_task, d, 30).run() == list(range(1, 31))


def chain_of_values(n: int) -> Any:
    with Batch() as inner:
        first = inner.function(np.ones, n)
        first.start()
        second = inner.function(np.sum, first)
        third = inner.function(np.concatenate, [np.zeros(3), np.ones(3)])
        second.start()
        inner.compile([third]).start()
        fourth = inner.function(np.add, first, second)
        return float(fourth.run()[0]), first.result.get(), third.result.get()


@pytest.mark.parametrize("n", [10, 50_000])
def test_results_as_arguments_of_nested_tasks(batch: Batch, n: int) -> None:
    """Also large ones, which the client fetches from the worker that has them."""
    total, ones, joined = batch.function(chain_of_values, n).run()
    assert (total, ones.sum(), joined.sum()) == (n + 1, n, 3)


def share_an_array(nbytes: int) -> list[int]:
    big = np.arange(nbytes // 8)
    with Batch() as inner:
        tasks = [inner.function(total_of, big, i) for i in range(6)]
        inner.compile(tasks).start()
        big[:] = 0  # after the start: nobody sees it
        return [task.result.get() for task in tasks]


def total_of(array: Any, i: int) -> int:
    array[0] += i  # its own copy
    return int(array.sum())


def test_large_arguments_of_nested_tasks(batch: Batch) -> None:
    n = (1 << 18) // 8
    expected = [n * (n - 1) // 2 + i for i in range(6)]
    assert batch.function(share_an_array, 1 << 18).run() == expected


def see_failures() -> list[str]:
    with Batch() as inner:
        bad = inner.function(fail, "deep down")
        after = inner.function(square, bad)
        inner.compile([bad, after]).start()
        seen = []
        for task in (bad, after):
            try:
                task.result.get()
            except (LookupError, DependencyError) as error:
                cause = error.__cause__
                seen.append(f"{type(error).__name__}: {error} / {type(cause).__name__}")
        return seen


def test_failures_of_nested_tasks(batch: Batch) -> None:
    first, second = batch.function(see_failures).run()
    assert first == "LookupError: deep down / RemoteTraceback"
    assert second.startswith("DependencyError")
    assert second.endswith("/ LookupError")


def let_it_fail(batch: Batch) -> None:
    batch.function(fail, "from the bottom").run()


def test_a_nested_failure_comes_up_to_the_program(batch: Batch) -> None:
    with pytest.raises(LookupError, match="from the bottom"):
        batch.function(let_it_fail, batch).run()


def read_streams(batch: Batch) -> tuple[str, int]:
    print("before")
    inner = batch.function(print, "inner")
    inner.run()
    print("after")
    loud = batch.function(print, "x" * 100_000)
    loud.run()
    return inner.stdout.get(), len(loud.stdout.get())


def test_output_before_and_after_a_wait(batch: Batch) -> None:
    """Each task has its own, though others ran on its worker while it waited."""
    task = batch.function(read_streams, batch)
    assert task.run() == ("inner\n", 100_001)
    assert task.stdout.get() == "before\nafter\n"


def with_callbacks(batch: Batch) -> list[Any]:
    seen: list[Any] = []
    tasks = [
        batch.function(
            square, i, callback_func=lambda x, y: seen.append((x, y)), callback_args=(i,)
        )
        for i in range(4)
    ]
    batch.compile(tasks, callback_func=seen.append, callback_args=("all",)).run()
    return seen


def test_callbacks_run_in_the_client_that_started_the_task(batch: Batch) -> None:
    seen = batch.function(with_callbacks, batch).run()
    assert sorted(seen[:-1]) == [(i * i, i) for i in range(4)]
    assert seen[-1] == "all"


def bad_callback(batch: Batch) -> str:
    task = batch.function(square, 2, callback_func=lambda _: fail("in the callback"))
    task.start()
    with pytest.raises(LookupError, match="in the callback"):
        task.wait()
    return "raised"


def test_a_callback_that_raises_in_a_task(batch: Batch) -> None:
    assert batch.function(bad_callback, batch).run() == "raised"


def run_out_of_time(batch: Batch, d: DDict[str, int]) -> str:
    task = batch.function(d.wait_for, "go")
    task.start()
    try:
        task.wait(timeout=0.02)
    except TimeoutError as error:
        d["go"] = 1
        task.wait()
        return str(error)
    return "nothing"


def test_a_wait_in_a_task_that_runs_out_of_time(batch: Batch) -> None:
    with DDict() as d:
        assert "has not ended after 0.02 s" in batch.function(run_out_of_time, batch, d).run()


def from_threads(batch: Batch, nthreads: int) -> list[int]:
    found: list[int] = []

    def work(i: int) -> None:
        task = batch.function(square, i)
        found.append(task.run())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(nthreads)]
    for thread in threads:
        thread.start()
    done = batch.function(square, 100)
    done.run()  # gives the turn away, as the threads' tasks may need this worker
    wait_until(lambda: len(found) == nthreads or not batch.function(square, 1).run())
    for thread in threads:
        thread.join()
    return sorted(found)


def test_threads_of_a_task_share_a_client(batch: Batch) -> None:
    assert batch.function(from_threads, batch, 6).run() == [i * i for i in range(6)]


def call(function: Callable[[], Any]) -> Any:
    return function()


def test_functions_by_value_from_a_task(batch: Batch) -> None:
    offset = 40

    def outer(batch: Batch) -> list[int]:
        return [batch.function(lambda i=i: i + offset).run() for i in range(5)]

    assert batch.function(outer, batch).run() == list(range(40, 45))


def uids_of(batch: Batch, n: int) -> list[int]:
    return [batch.function(square, i).uid for i in range(n)]


def test_ids_are_unique_in_the_program(batch: Batch, nworkers: int) -> None:
    tasks = [batch.function(uids_of, batch, 5) for _ in range(2 * nworkers)]
    batch.compile(tasks).run()
    found = [uid for task in tasks for uid in task.result.get()] + [task.uid for task in tasks]
    assert len(set(found)) == len(found)


def recorded_rows() -> list[tuple[str, str]]:
    with Batch(enable_telem=True) as inner:
        inner.function(square, 2).run()
        inner.close()
        inner.join()
        return [(row["name"], row["status"]) for row in inner.telemetry().rows()]


def test_the_record_of_a_nested_batch(batch: Batch) -> None:
    assert batch.function(recorded_rows).run() == [("square", "done")]


def level_of(name: str) -> int:
    return logging.getLogger(name).level


def nested_level() -> int:
    with Batch(log_level=logging.DEBUG) as inner:
        level: int = inner.function(level_of, f"alamo_mpi.batch.{inner._live.number}").run()
        return level


def test_the_log_level_of_a_nested_batch(batch: Batch) -> None:
    assert batch.function(nested_level).run() == logging.DEBUG


def init_here() -> str:
    import alamo_mpi

    return type(alamo_mpi.init().manager).__name__


def test_init_inside_a_task(batch: Batch, alone: bool) -> None:
    assert batch.function(init_here).run() == ("Manager" if alone else "RemoteService")


def join_own(batch: Batch) -> str:
    batch.close()
    try:
        batch.join()
    except TaskStateError as error:
        return str(error)
    return "joined"


def test_a_task_cannot_join_its_own_batch(batch: Batch) -> None:
    assert "it would wait for itself" in batch.function(join_own, batch).run()


def left_running(gate: Gate) -> Any:
    inner = Batch()
    task = inner.function(pass_and_call, gate, square, 2)
    task.start()
    inner.terminate()
    try:
        task.result.get()
    except CancelledError:
        pass
    else:
        return "not cancelled"
    try:
        inner.function(square, 2).start()
    except TaskStateError as error:
        return str(error)
    return "not refused"


def test_terminating_a_nested_batch_ends_its_own_tasks_only(batch: Batch, gate: Gate) -> None:
    other = batch.function(square, 11)
    assert "terminated" in batch.function(left_running, gate).run()
    assert other.run() == 121
