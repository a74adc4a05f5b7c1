"""Results of tasks as arguments of others: from worker to worker, and what happens on failure."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, DependencyError, SerializationError, Task, TaskStateError
from alamo_mpi.runtime.execute import Kept
from alamo_mpi.runtime.manager import Manager
from tests.mpi.gates import Gate, on_each_worker, pass_and_call

Array = np.ndarray[Any, np.dtype[Any]]
#: Results of this many numbers stay on their worker until somebody asks.
BIG = 50_000
#: One that is pickled whole, one whose buffer travels beside its pickle, and one that stays.
SIZES = [10, 4_000, BIG]


def number(x: int) -> int:
    return x


def add(*numbers: int) -> int:
    return sum(numbers)


def ones(n: int) -> Array:
    return np.ones(n)


def plus(array: Array, x: float) -> Array:
    return array + x


def add_in_place(array: Array, x: float) -> float:
    array += x
    return float(array[0])


def first(array: Array) -> float:
    return float(array[0])


def fail(text: str) -> int:
    raise ValueError(text)


def test_values_inside_one_list(batch: Batch) -> None:
    one = batch.function(number, 1)
    two = batch.function(number, 2)
    both = batch.function(add, one, 10, two.result)
    twice = batch.function(add, both, both, one)
    batch.compile([one, two, both, twice]).run()
    assert (both.result.get(), twice.result.get()) == (13, 27)


def test_values_of_tasks_started_before(batch: Batch) -> None:
    one = batch.function(number, 1)
    one.start()
    two = batch.function(add, one, 1)
    two.start()
    three = batch.function(add, two.result, 1)
    assert three.run() == 3
    assert batch.function(add, one, two, three).run() == 6


def test_a_producer_that_still_runs(batch: Batch, gate: Gate) -> None:
    slow = batch.function(pass_and_call, gate, number, 1)
    slow.start()
    tasks = [batch.function(add, slow, i) for i in range(5)]
    for task in tasks:
        task.start()
    gate.arrived()
    gate.open()
    assert [task.result.get() for task in tasks] == [1, 2, 3, 4, 5]


def test_values_between_compiled_tasks(batch: Batch) -> None:
    ones_ = [batch.function(number, i) for i in range(4)]
    batch.compile(ones_).start()
    sums = [batch.function(add, left, right) for left in ones_ for right in ones_]
    batch.compile(sums).run()
    assert [task.result.get() for task in sums] == [i + j for i in range(4) for j in range(4)]


@pytest.mark.parametrize("nitems", SIZES)
def test_chains_of_arrays(batch: Batch, nitems: int) -> None:
    chain: list[Task] = [batch.function(ones, nitems)]
    for _ in range(30):
        chain.append(batch.function(plus, chain[-1], 1))
    batch.compile(chain).run()
    for index in (0, 7, 30):
        assert chain[index].result.get().tolist() == [index + 1.0] * nitems


@pytest.mark.parametrize("nitems", SIZES)
def test_chains_of_single_starts(batch: Batch, nitems: int) -> None:
    task: Task = batch.function(ones, nitems)
    task.start()
    for _ in range(20):
        task = batch.function(plus, task, 1)
        task.start()
    assert task.result.get().sum() == 21 * nitems


@pytest.mark.parametrize("nitems", SIZES)
def test_many_consumers_on_all_workers(batch: Batch, nitems: int) -> None:
    source = batch.function(ones, nitems)
    consumers = [batch.function(add_in_place, source, i) for i in range(12)]
    batch.compile([source, *consumers]).run()
    assert [task.result.get() for task in consumers] == [1.0 + i for i in range(12)]
    assert source.result.get().tolist() == [1.0] * nitems
    later = batch.function(add_in_place, source, 5)
    assert later.run() == 6.0


@pytest.mark.parametrize("nitems", SIZES)
def test_a_big_result_moves_to_the_worker_that_needs_it(
    batch: Batch, tmp_path: Path, nitems: int
) -> None:
    sources = [batch.function(np.full, nitems, float(i)) for i in range(batch.num_workers)]
    batch.compile(sources).run()
    for source in sources:
        # One consumer of each on every worker.
        gate = Gate(tmp_path)
        tasks = [
            batch.function(consume_at, gate, source, tmp_path) for _ in range(batch.num_workers)
        ]
        for task in tasks:
            task.start()
        gate.arrived(len(tasks))
        gate.open()
        assert {task.result.get() for task in tasks} == {float(sources.index(source))}


def consume_at(gate: Gate, array: Array, folder: Path) -> float:
    gate.pass_through()
    return first(array)


@pytest.mark.parametrize("nitems", SIZES)
def test_passed_after_the_user_got_it(batch: Batch, nitems: int) -> None:
    source = batch.function(ones, nitems)
    got = source.run()
    got[:] = 5
    # What the user does to the object that get() returned is the user's own.
    assert batch.function(first, source).run() == 1.0
    assert batch.function(add_in_place, source, 1).run() == 2.0
    assert batch.function(first, source.result).run() == 1.0
    assert source.result.get() is got


@pytest.mark.parametrize("nitems", SIZES)
def test_got_by_the_user_after_it_was_passed(batch: Batch, nitems: int) -> None:
    source = batch.function(ones, nitems)
    consumer = batch.function(add_in_place, source, 1)
    batch.compile([source, consumer]).run()
    assert source.result.get().sum() == nitems
    assert consumer.result.get() == 2.0
    again = [batch.function(first, source) for _ in range(3)]
    batch.compile(again).run()
    assert [task.result.get() for task in again] == [1.0] * 3


def test_one_task_in_several_places(batch: Batch) -> None:
    source = batch.function(ones, BIG)
    task = batch.function(same_content, source, source.result, source)
    batch.compile([source, task]).run()
    assert task.result.get() is True


def same_content(*arrays: Array) -> bool:
    return all(np.array_equal(arrays[0], array) for array in arrays)


def test_none_and_failures_of_pickling_as_values(batch: Batch) -> None:
    nothing = batch.function(print)
    text = batch.function(repr, nothing)
    lost = batch.function(iter_of, 3)
    after = batch.function(repr, lost)
    batch.compile([nothing, text, lost, after]).start()
    assert text.result.get() == "None"
    with pytest.raises(SerializationError):
        lost.result.get()
    with pytest.raises(DependencyError) as caught:
        after.result.get()
    assert isinstance(caught.value.__cause__, SerializationError)


def iter_of(n: int) -> Any:
    return (i for i in range(n))


def test_a_function_that_travels_with_its_task(batch: Batch) -> None:
    source = batch.function(ones, BIG)
    tasks = [batch.function(lambda a, b, i=i: float(a[0]) + b + i, source, 1) for i in range(4)]
    batch.compile([source, *tasks]).run()
    assert [task.result.get() for task in tasks] == [2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("separately", [False, True])
def test_a_producer_that_fails(batch: Batch, separately: bool) -> None:
    bad = batch.function(fail, "out of cheese")
    one = batch.function(add, bad, 1)
    two = batch.function(add, 1, one)
    fine = batch.function(add, 1, 1)
    if separately:
        for task in (bad, one, two, fine):
            task.start()
    else:
        batch.compile([bad, one, two, fine]).start()
    with pytest.raises(ValueError, match="out of cheese") as root:
        bad.result.get()
    for task in (one, two):
        with pytest.raises(DependencyError) as caught:
            task.result.get()
        assert caught.value.__cause__ is root.value
        assert caught.value.uid == task.uid
        assert f"Task {task.uid} 'add' was not run" in str(caught.value)
        assert f"task {bad.uid} 'fail'" in str(caught.value)
    assert fine.result.get() == 2


def test_a_producer_that_failed_long_ago(batch: Batch) -> None:
    bad = batch.function(fail, "long ago")
    bad.start()
    bad.wait()
    late = batch.function(add, bad, 1)
    late.start()
    with pytest.raises(DependencyError, match=f"task {bad.uid} 'fail', which failed"):
        late.result.get()


def test_a_producer_that_was_not_started(batch: Batch) -> None:
    idle = batch.function(number, 1)
    task = batch.function(add, idle, 1)
    for _ in range(2):
        with pytest.raises(TaskStateError, match="which was not started: start that first"):
            task.start()
    idle.start()
    assert task.run() == 2


def test_a_producer_later_in_the_list(batch: Batch) -> None:
    source = batch.function(number, 1)
    task = batch.function(add, source, 1)
    with pytest.raises(ValueError, match="reorder the list"):
        batch.compile([task, source])
    # Nothing came of it, so both can be used still.
    batch.compile([source, task]).run()
    assert task.result.get() == 2


def test_a_producer_in_a_list_that_was_not_started(batch: Batch) -> None:
    source = batch.function(number, 1)
    whole = batch.compile([source])
    task = batch.function(add, source, 1)
    with pytest.raises(TaskStateError, match="which was not started"):
        task.start()
    whole.start()
    assert task.run() == 2


def test_tasks_inside_containers(batch: Batch) -> None:
    source = batch.function(number, 1)
    source.run()
    for container in ([source], {"key": source.result}, (1, (source,))):
        task = batch.function(number, container)
        with pytest.raises(SerializationError, match="argument of its own") as caught:
            task.start()
        assert f"Task {task.uid} 'number' was not started" in str(caught.value)


def test_handles_that_are_no_results(batch: Batch) -> None:
    source = batch.function(number, 1)
    for handle in (source.stdout, source.stderr):
        with pytest.raises(TypeError, match="only a task's result can be an argument"):
            batch.function(number, handle)
    whole = batch.compile([source, batch.function(number, 2)])
    with pytest.raises(TypeError, match="pass the subtask whose result is meant"):
        batch.function(number, whole)
    whole.run()


def test_the_task_of_another_batch(batch: Batch, nworkers: int) -> None:
    source = batch.function(number, 1)
    source.run()
    batch.close()
    batch.join()
    with Batch() as other:
        with pytest.raises(ValueError, match="belongs to another batch: get its result first"):
            other.function(number, source)
        assert other.function(number, source.result.get()).run() == 1


def held_on_this_worker() -> list[tuple[int, str]]:
    """Return the keys of all values that this worker keeps for others."""
    stores = [each for each in gc.get_objects() if type(each) is Kept]
    return [key for store in stores for key in store._payloads]


def test_workers_keep_nothing_that_nobody_can_ask_for(
    batch: Batch, tmp_path: Path, manager: Manager
) -> None:
    source = batch.function(ones, BIG)
    small = batch.function(number, 1)
    users = [batch.function(plus, source, i) for i in range(6)]
    more = [batch.function(add, small, i) for i in range(6)]
    loud = batch.function(print, "x" * 200_000)
    batch.compile([source, small, *users, *more, loud]).run()
    assert source.result.get().sum() == BIG
    assert len(loud.stdout.get()) == 200_001
    again = batch.function(first, source)
    assert again.run() == 1.0
    del source, small, users, more, loud, again
    gc.collect()  # a compiled task and its subtasks refer to each other
    manager.drive(lambda: not manager._ledger._unreachable, 10.0)
    assert not any(on_each_worker(batch, tmp_path, held_on_this_worker))
