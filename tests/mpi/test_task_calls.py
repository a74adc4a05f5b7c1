"""start, wait, run, get and compile: their rules, and every misuse with its sentence."""

from __future__ import annotations

from typing import Any

import pytest

from alamo_mpi import AsyncDict, Batch, DependencyError, Task, TaskStateError
from tests.mpi.gates import Gate, pass_and_call


def square(x: int) -> int:
    return x * x


def fail(text: str) -> None:
    raise ValueError(text)


def new(batch: Batch, count: int = 1) -> list[Task]:
    return [batch.function(square, i + 1) for i in range(count)]


def test_run_returns_the_result(batch: Batch) -> None:
    assert batch.function(square, 7).run() == 49


def test_start_then_wait_then_get(batch: Batch) -> None:
    task = batch.function(square, 7)
    assert task.start() is None  # type: ignore[func-returns-value]
    assert task.wait() is None  # type: ignore[func-returns-value]
    task.wait()
    assert task.result.get() == 49
    assert task.result.get(task.uid) == 49
    assert task.result.get(tuid=None, timeout=1) == 49
    assert (task.stdout.get(), task.stderr.get()) == ("", "")
    assert isinstance(task.result, AsyncDict)


def test_get_waits_by_itself(batch: Batch, gate: Gate) -> None:
    task = batch.function(pass_and_call, gate, square, 3)
    task.start()
    gate.arrived()
    with pytest.raises(TimeoutError, match=f"Task {task.uid} 'pass_and_call' has not ended after"):
        task.result.get(timeout=0.02)
    with pytest.raises(TimeoutError):
        task.stdout.get(timeout=0)
    with pytest.raises(TimeoutError, match=r"has not ended after 0.02 s: 1 of 1 tasks"):
        task.wait(timeout=0.02)
    gate.open()
    assert task.result.get(timeout=60) == 9


def test_run_with_too_short_a_timeout(batch: Batch, gate: Gate, alone: bool) -> None:
    if alone:
        pytest.skip("one rank: run() itself runs the task")
    task = batch.function(pass_and_call, gate, square, 3)
    with pytest.raises(TimeoutError):
        task.run(timeout=0.05)
    gate.open()
    assert task.result.get() == 9  # it went on


def test_uids_are_unique_and_stay(batch: Batch) -> None:
    tasks = new(batch, 50)
    compiled = batch.compile(tasks)
    uids = [task.uid for task in [*tasks, compiled]]
    assert len(set(uids)) == len(uids)
    assert all(type(uid) is int for uid in uids)
    compiled.run()
    assert [task.uid for task in [*tasks, compiled]] == uids


def test_outputs_of_a_compiled_task(batch: Batch) -> None:
    tasks = new(batch, 5)
    compiled = batch.compile(tasks)
    assert compiled.run() is None
    for index, task in enumerate(tasks):
        expected = (index + 1) ** 2
        assert task.result.get() == expected
        assert task.result.get(task.uid) == expected
        assert compiled.result.get(task.uid) == expected
        assert compiled.stdout.get(task.uid) == ""


def test_which_subtask_is_meant(batch: Batch) -> None:
    tasks = new(batch, 2)
    compiled = batch.compile(tasks)
    stranger = batch.function(square, 1)
    compiled.run()
    for handle in (compiled.result, compiled.stdout, compiled.stderr):
        with pytest.raises(TypeError, match=r"has 2 subtasks: say whose output is meant"):
            handle.get()
        for uid in (stranger.uid, compiled.uid, -1):
            with pytest.raises(KeyError, match=f"has no subtask with uid {uid}"):
                handle.get(uid)
    with pytest.raises(KeyError, match="has no subtask with uid"):
        tasks[0].result.get(tasks[1].uid)
    stranger.run()
    with pytest.raises(KeyError, match="has no subtask with uid"):
        stranger.result.get(tasks[0].uid)


def test_compiled_task_of_one(batch: Batch) -> None:
    (task,) = new(batch)
    compiled = batch.compile([task])
    assert compiled.run() == 1
    assert compiled.result.get() == 1
    assert compiled.result.get(task.uid) == 1


def test_compiled_task_of_none(batch: Batch) -> None:
    compiled = batch.compile([])
    assert compiled.run() is None
    compiled.wait(0)
    with pytest.raises(TypeError, match="has 0 subtasks"):
        compiled.result.get()


def test_compile_takes_any_iterable(batch: Batch) -> None:
    tasks = new(batch, 3)
    batch.compile(task for task in tasks).run()
    assert [task.result.get() for task in tasks] == [1, 4, 9]


def test_wait_never_raises_the_tasks_error(batch: Batch) -> None:
    task = batch.function(fail, "kaput")
    task.start()
    task.wait()
    with pytest.raises(ValueError, match="kaput"):
        task.result.get()
    with pytest.raises(ValueError, match="kaput"):
        batch.function(fail, "kaput").run()


def test_run_raises_the_first_failure_in_list_order(batch: Batch, gate: Gate) -> None:
    first = batch.function(pass_and_call, gate, fail, "first")
    tasks = [batch.function(square, 1), first, batch.function(fail, "second")]
    tasks.append(batch.function(square, first))
    if batch.num_workers > 1:
        tasks.append(batch.function(gate.open))  # so that the second fails before the first
    else:
        gate.open()
    with pytest.raises(ValueError, match="first"):
        batch.compile(tasks).run()
    assert tasks[0].result.get() == 1
    with pytest.raises(ValueError, match="second"):
        tasks[2].result.get()
    with pytest.raises(DependencyError):
        tasks[3].result.get()


@pytest.mark.parametrize("again", ["start", "run"])
def test_starting_twice(batch: Batch, again: str) -> None:
    task = batch.function(square, 2)
    compiled = batch.compile(new(batch, 2))
    for each in (task, compiled):
        each.start()
        for _ in range(2):
            with pytest.raises(TaskStateError, match="was started already, and a task runs once"):
                getattr(each, again)()
    assert task.result.get() == 4


@pytest.mark.parametrize("compiled", [False, True])
def test_waiting_before_the_start(batch: Batch, compiled: bool) -> None:
    task = batch.compile(new(batch, 2)) if compiled else batch.function(square, 2)
    sentence = rf"Task {task.uid} '\w+' was not started: call start\(\) or run\(\) first"
    with pytest.raises(TaskStateError, match=sentence):
        task.wait()
    for handle in (task.result, task.stdout, task.stderr):
        with pytest.raises(TaskStateError, match=sentence):
            handle.get()
    task.run()


def test_subtasks_are_used_through_the_compiled_task(batch: Batch) -> None:
    tasks = new(batch, 2)
    compiled = batch.compile(tasks)
    with pytest.raises(TaskStateError, match=f"Task {compiled.uid} .* was not started"):
        tasks[0].result.get()
    for started in (False, True):
        if started:
            compiled.run()
        for call in (tasks[0].start, tasks[0].wait, tasks[0].run):
            with pytest.raises(TaskStateError, match=f"is a part of compiled task {compiled.uid}"):
                call()
    assert tasks[1].result.get() == 4


def test_compiling_what_cannot_be_compiled(batch: Batch) -> None:
    one, two = new(batch, 2)
    started = batch.function(square, 3)
    started.run()
    with pytest.raises(TaskStateError, match="stands in the list twice"):
        batch.compile([one, two, one])
    with pytest.raises(TaskStateError, match="was started by itself"):
        batch.compile([one, started])
    with pytest.raises(TypeError, match="compile takes a list of tasks; 3 is none"):
        batch.compile([one, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="is none"):
        batch.compile([one.result])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not iterable"):
        batch.compile(one)  # type: ignore[arg-type]
    # Nothing came of any of these.
    compiled = batch.compile([one, two])
    with pytest.raises(TaskStateError, match="was compiled before: create a new task"):
        batch.compile([one])
    with pytest.raises(TypeError, match="is a compiled task: compile all subtasks in one list"):
        batch.compile([compiled])
    compiled.run()
    with pytest.raises(TaskStateError, match="was compiled before"):
        batch.compile([two])
    assert two.result.get() == 4


def test_errors_carry_the_task(batch: Batch) -> None:
    task = batch.function(square, 2)
    task.run()
    with pytest.raises(TaskStateError) as caught:
        task.start()
    assert isinstance(caught.value, RuntimeError)
    assert (caught.value.uid, caught.value.task_name) == (task.uid, "square")


def test_neither_task_nor_handle_can_be_pickled(batch: Batch) -> None:
    task = batch.function(square, 2)
    for thing in (task, task.result):
        with pytest.raises(Exception, match="cannot be p"):
            batch.function(repr, [thing]).start()
    task.run()


def test_representations_tell_the_state(batch: Batch, gate: Gate) -> None:
    task = batch.function(pass_and_call, gate, square, 2)
    other = batch.function(fail, "kaput")
    assert repr(task) == f"<Task {task.uid} 'pass_and_call', not started>"
    task.start()
    gate.arrived()
    assert "1 tasks" in repr(batch)
    gate.open()
    task.wait()
    assert repr(task) == f"<Task {task.uid} 'pass_and_call', done>"
    compiled = batch.compile([other])
    assert repr(other).endswith("compiled>")
    compiled.start()
    compiled.wait()
    assert repr(other).endswith("failed>")
    assert repr(task.result) == f"<result of {task!r}>"


def test_starting_many_one_by_one(batch: Batch) -> None:
    tasks = new(batch, 500)
    for task in tasks:
        task.start()
    assert [task.result.get() for task in tasks] == [(i + 1) ** 2 for i in range(500)]


def test_all_workers_work_at_once(batch: Batch, gate: Gate) -> None:
    tasks: list[Any] = [
        batch.function(pass_and_call, gate, square, i) for i in range(batch.num_workers)
    ]
    batch.compile(tasks).start()
    gate.arrived(batch.num_workers)  # fails if two of them are behind each other
    gate.open()
    assert [task.result.get() for task in tasks] == [i * i for i in range(batch.num_workers)]


def test_the_driver_works_while_the_user_does_something_else(batch: Batch, gate: Gate) -> None:
    chain: list[Task] = [batch.function(square, 1)]
    for _ in range(5):
        chain.append(batch.function(square, chain[-1]))
    chain.append(batch.function(pass_and_call, gate, square, chain[-1]))
    batch.compile(chain).start()
    gate.arrived()  # nobody calls wait() or get() meanwhile
    gate.open()
    assert chain[-1].result.get() == 1
