"""Callbacks run in the client, once, after success, in order; one that raises is reported."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

from alamo_mpi import Batch, Task, TaskStateError
from tests.mpi.gates import Gate, pass_and_call


def square(x: int) -> int:
    return x * x


def fail() -> None:
    raise ValueError("on purpose")


class Calls(list[Any]):
    """Notes what callbacks are called with; never pickled, so it is this process's."""

    def note(self, *args: Any) -> None:
        self.append(args)

    def __reduce__(self) -> Any:
        raise TypeError("the callback has left this process")


def test_called_with_the_result_and_more(batch: Batch) -> None:
    calls = Calls()
    for args in ((), (1,), ("two", [3])):
        batch.function(square, 4, callback_func=calls.note, callback_args=args).run()
    assert calls == [(16,), (16, 1), (16, "two", [3])]


def test_run_before_wait_returns(batch: Batch) -> None:
    calls = Calls()
    tasks = [batch.function(square, i, callback_func=calls.note) for i in range(100)]
    compiled = batch.compile(tasks, calls.note, ("all",))
    compiled.start()
    compiled.wait()
    assert sorted(calls[:-1]) == sorted((i * i,) for i in range(100))
    assert calls[-1] == ("all",)


def test_in_the_order_of_dependent_tasks(batch: Batch) -> None:
    calls = Calls()
    chain: list[Task] = [batch.function(square, 2, callback_func=calls.note, callback_args=(0,))]
    for i in range(1, 5):
        chain.append(
            batch.function(square, chain[-1], callback_func=calls.note, callback_args=(i,))
        )
    batch.compile(chain, callback_func=calls.note).run()
    assert [call[-1] for call in calls[:-1]] == [0, 1, 2, 3, 4]
    assert calls[-1] == ()


def test_once_and_only_after_success(batch: Batch) -> None:
    calls = Calls()
    bad = batch.function(fail, callback_func=calls.note)
    skipped = batch.function(square, bad, callback_func=calls.note)
    good = batch.function(square, 3, callback_func=calls.note)
    compiled = batch.compile([bad, skipped, good], calls.note)
    compiled.start()
    compiled.wait()
    assert calls == [(9,)]
    for _ in range(3):
        assert good.result.get() == 9
        compiled.wait()
    assert calls == [(9,)]
    single = batch.function(fail, callback_func=calls.note)
    single.start()
    single.wait()
    assert calls == [(9,)]


def test_of_a_compiled_task_alone(batch: Batch) -> None:
    calls = Calls()
    batch.compile([batch.function(square, 3)], callback_func=calls.note, callback_args=(1,)).run()
    batch.compile([], callback_func=calls.note, callback_args=(2,)).run()
    assert calls == [(1,), (2,)]


def test_in_this_process_and_under_no_lock(batch: Batch, manager: Any) -> None:
    pids, free = [], []

    def use_lock() -> None:
        free.append(manager.lock.acquire(timeout=30))
        manager.lock.release()

    def note(result: int) -> None:
        pids.append(os.getpid())
        # Another thread can use the manager meanwhile.
        thread = threading.Thread(target=use_lock)
        thread.start()
        thread.join()

    batch.function(square, 3, callback_func=note).run()
    assert (pids, free) == ([os.getpid()], [True])


def test_of_tasks_that_nobody_waits_for(batch: Batch) -> None:
    calls, called = Calls(), threading.Event()

    def note(result: int) -> None:
        calls.note(result)
        called.set()

    batch.function(square, 3, callback_func=note).start()
    assert called.wait(60)
    assert calls == [(9,)]


def test_results_of_every_size(batch: Batch) -> None:
    calls = Calls()
    tasks = [batch.function(bytes, n, callback_func=calls.note) for n in (0, 100, 10**5, 10**7)]
    batch.compile(tasks).run()
    assert sorted(len(result) for (result,) in calls) == [0, 100, 10**5, 10**7]
    for task in tasks:
        assert any(task.result.get() is result for (result,) in calls)


def broken(*args: Any) -> None:
    raise LookupError(f"called with {args}")


def test_one_that_raises(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    task = batch.function(square, 3, callback_func=broken, callback_args=("more",))
    task.start()
    for _ in range(2):
        with pytest.raises(LookupError, match=r"called with \(9, 'more'\)"):
            task.wait()
    assert task.result.get() == 9
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "The callback of 'square' raised an exception" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    with pytest.raises(LookupError):
        batch.function(square, 3, callback_func=broken).run()
    assert batch.function(square, 4).run() == 16


def test_one_that_raises_in_a_compiled_task(batch: Batch) -> None:
    calls = Calls()
    tasks = [
        batch.function(square, 1, callback_func=calls.note),
        batch.function(square, 2, callback_func=broken),
        batch.function(square, 3, callback_func=calls.note),
    ]
    compiled = batch.compile(tasks, calls.note, ("all",))
    compiled.start()
    with pytest.raises(LookupError, match="called with"):
        compiled.wait()
    assert sorted(calls[:2]) == [(1,), (9,)]
    assert [task.result.get() for task in tasks] == [1, 4, 9]
    whole = batch.compile([batch.function(square, 3)], callback_func=broken)
    with pytest.raises(LookupError, match=r"called with \(\)"):
        whole.run()


def test_the_tasks_own_error_comes_before_a_callbacks(batch: Batch) -> None:
    tasks = [batch.function(square, 2, callback_func=broken), batch.function(fail)]
    with pytest.raises(ValueError, match="on purpose"):
        batch.compile(tasks).run()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_one_that_would_end_the_program(batch: Batch, kind: type[BaseException]) -> None:
    def leave(result: int) -> None:
        raise kind("leaving")

    task = batch.function(square, 3, callback_func=leave)
    # It ends whoever runs the callback: the thread that waits, if it is first.
    with batch._manager._driver.replaced():
        task.start()
        with pytest.raises(kind, match="leaving"):
            task.wait()
    task.wait()
    assert task.result.get() == 9


def test_starting_tasks_from_a_callback(batch: Batch) -> None:
    more: list[Task] = []

    def go_on(result: int) -> None:
        task = batch.function(square, result, callback_func=go_on if result < 1000 else None)
        more.append(task)
        task.start()

    batch.function(square, 2, callback_func=go_on).run()
    count = 0
    while count < len(more):
        more[count].wait()
        count += 1
    assert [task.result.get() for task in more] == [16, 256, 65536, 1 << 32]


def test_waiting_for_other_tasks_in_a_callback(batch: Batch) -> None:
    seen = []

    def ask(result: int) -> None:
        seen.append(batch.function(square, result).run())

    batch.function(square, 2, callback_func=ask).run()
    assert seen == [16]


def test_waiting_for_oneself_in_a_callback(batch: Batch) -> None:
    seen: list[Any] = []
    tasks: list[Task] = []

    def ask(result: int) -> None:
        seen.append(tasks[0].result.get())  # final already, so this is no waiting
        for task in (tasks[0], compiled):
            try:
                task.wait()
            except TaskStateError as error:
                seen.append(str(error))

    tasks.append(batch.function(square, 2, callback_func=ask))
    compiled = batch.compile([*tasks, batch.function(square, 3)])
    compiled.run()
    assert seen[0] == 4
    assert len(seen) == 3
    assert "is a part of compiled task" in seen[1]
    assert f"Task {compiled.uid} 'compiled' cannot be waited for in its own callback" in seen[2]


def test_joining_in_a_callback(batch: Batch) -> None:
    errors = []

    def ask(result: int) -> None:
        batch.close()
        try:
            batch.join()
        except TaskStateError as error:
            errors.append(str(error))

    batch.function(square, 2, callback_func=ask).run()
    (error,) = errors
    assert "cannot be joined in a callback" in error


def test_join_waits_for_callbacks(batch: Batch, gate: Gate) -> None:
    calls = Calls()
    tasks = [
        batch.function(pass_and_call, gate, square, i, callback_func=calls.note) for i in range(3)
    ]
    batch.compile(tasks, calls.note).start()
    gate.arrived()
    gate.open()
    batch.close()
    batch.join()
    assert len(calls) == 4


def test_a_slow_callback_does_not_stop_the_work(batch: Batch, gate: Gate, alone: bool) -> None:
    if alone:
        pytest.skip("one rank: the callback's thread is the one that runs tasks")

    def slow(result: int) -> None:
        gate.arrived()  # a task that starts while this callback runs
        gate.open()

    first = batch.function(square, 2, callback_func=slow)
    first.start()
    second = batch.function(pass_and_call, gate, square, 3)
    second.start()
    first.wait()
    assert second.result.get() == 9
