"""Tasks that wait give their worker's turn away: to others, in any order, and get it back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from alamo_mpi import Batch, CancelledError, DDict, DDictTimeoutError
from tests.mpi.gates import Gate


def wait_for(d: DDict[Any, Any], key: Any, then: Any = None) -> Any:
    value = d.wait_for(key)
    if then is not None:
        d[then] = value + 1
    return value


def write(d: DDict[Any, Any], key: Any, value: Any) -> None:
    d[key] = value


def test_more_tasks_wait_for_keys_than_there_are_workers(batch: Batch, nworkers: int) -> None:
    """The one that writes is started last."""
    with DDict() as d:
        waiting = [batch.function(wait_for, d, "key") for _ in range(3 * nworkers)]
        for task in waiting:
            task.start()
        batch.function(write, d, "key", 5).start()
        assert [task.result.get() for task in waiting] == [5] * len(waiting)


def test_waits_end_in_any_order(batch: Batch) -> None:
    """Each waits for what the one started after it writes: no stack could hold them."""
    n = 8
    with DDict() as d:
        tasks = [batch.function(wait_for, d, i, i - 1) for i in range(n)]
        for task in tasks:
            task.start()
        d[n - 1] = 0
        assert [task.result.get() for task in tasks] == list(range(n - 1, -1, -1))


def test_waits_end_in_the_order_in_which_they_began(batch: Batch) -> None:
    n = 8
    with DDict() as d:
        tasks = [batch.function(wait_for, d, i, i + 1) for i in range(n)]
        for task in tasks:
            task.start()
        d[0] = 0
        assert [task.result.get() for task in tasks] == list(range(n))


def ask_other(d: DDict[Any, Any], mine: str, theirs: str) -> Any:
    d[mine] = 1
    first = d.wait_for(theirs)
    d[mine] = 2
    return first, d.wait_for(theirs, value=2)


def test_two_tasks_that_talk(batch: Batch) -> None:
    with DDict() as d:
        one = batch.function(ask_other, d, "a", "b")
        two = batch.function(ask_other, d, "b", "a")
        one.start()
        two.start()
        for task in (one, two):
            first, second = task.result.get()
            assert first in (1, 2)
            assert second == 2


def wait_in_vain(d: DDict[Any, Any]) -> str:
    try:
        d.wait_for("nothing", timeout=0.02)
    except DDictTimeoutError as error:
        return str(error)
    return "it came"


def test_a_wait_that_ends_in_time(batch: Batch) -> None:
    with DDict() as d:
        assert "is missing after 0.02 s" in batch.function(wait_in_vain, d).run()


def refuse_to_end(d: DDict[Any, Any], gate: Gate) -> None:
    d["begun"] = True
    while True:
        try:
            d.wait_for("never")
        except Exception:
            continue


def test_terminating_ends_waits(gate: Gate) -> None:
    with DDict() as d:
        batch = Batch()
        tasks = [batch.function(refuse_to_end, d, gate) for _ in range(2 * batch.num_workers)]
        for task in tasks:
            task.start()
        d.wait_for("begun")
        batch.terminate()
        for task in tasks:
            with pytest.raises(CancelledError):
                task.result.get()
        batch.close()
        batch.join()


def spin_behind(d: DDict[Any, Any]) -> None:
    d["spinning"] = True
    while True:
        time.sleep(1e-3)


def test_terminating_ends_a_task_that_runs_while_others_wait(alone: bool) -> None:
    """It runs on a runner thread: no signal reaches it."""
    with DDict() as d:
        batch = Batch(num_workers=1)
        waiting = batch.function(wait_for, d, "never")
        spinning = batch.function(spin_behind, d)
        waiting.start()
        spinning.start()
        d.wait_for("spinning")
        batch.terminate()
        for task in (waiting, spinning):
            with pytest.raises(CancelledError):
                task.result.get()


def fail_after_wait(d: DDict[Any, Any]) -> None:
    print("begun")
    d.wait_for("go")
    raise LookupError("after the wait")


def test_a_task_that_fails_after_its_wait(batch: Batch) -> None:
    with DDict() as d:
        tasks = [batch.function(fail_after_wait, d) for _ in range(4)]
        for task in tasks:
            task.start()
        batch.function(write, d, "go", 1).start()
        for task in tasks:
            with pytest.raises(LookupError) as caught:
                task.result.get()
            trace = str(caught.value.__cause__)
            assert "fail_after_wait" in trace
            assert "runtime" not in trace.replace("d.wait_for", "")
            assert task.stdout.get() == "begun\n"


def begin_and_wait_for(d: DDict[str, int], key: str) -> None:
    d["begun"] = 1
    wait_for(d, key)


def test_time_that_a_task_waits_is_no_work(recorded: Batch) -> None:
    """The next tasks of its function are not taken for long ones; the record says it all."""
    with DDict() as d:
        task = recorded.function(begin_and_wait_for, d, "key")
        task.start()
        wait_for(d, "begun")
        time.sleep(0.05)
        d["key"] = 1
        task.wait()
        (row,) = recorded.telemetry().rows()
        assert row["ended"] - row["started"] > 0.04


def make_dictionary(n: int) -> int:
    d: DDict[int, int] = DDict()
    for i in range(n):
        d[i] = i
    total = sum(d[i] for i in range(n))
    d.destroy()
    return total


def test_a_task_makes_a_dictionary_while_all_others_are_busy(
    batch: Batch, gate: Gate, nworkers: int
) -> None:
    busy = [batch.function(gate.pass_through) for _ in range(nworkers - 1)]
    for task in busy:
        task.start()
    gate.arrived(nworkers - 1)
    assert batch.function(make_dictionary, 50).run() == 1225
    gate.open()
