"""Tasks that wait for each other in a circle: an error at once, and nothing else is called one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from alamo_mpi import Batch, DeadlockError, JobError, Policy, Task, TaskStateError
from tests.mpi.gates import LIMIT_S, Gate

#: Tasks of this process, for those that find each other here.
HANDLES: dict[str, Task] = {}


def square(x: int) -> int:
    return x * x


def joins(batch: Batch, **limit: float) -> str:
    batch.close()
    batch.join(**limit)
    return "joined"


def joins_in_time(batch: Batch) -> str:
    try:
        return joins(batch, timeout=0.5)
    except TimeoutError:
        return "not in time"


def below(outer: Batch, function: Any) -> Any:
    """Wait for a task of a batch of its own, which gets the batch of this one."""
    with Batch() as inner:
        return inner.function(function, outer).run()


def above(function: Any) -> Any:
    with Batch() as outer:
        return outer.function(below, outer, function).run()


def test_a_task_that_joins_the_batch_of_who_waits_for_it(batch: Batch) -> None:
    """It waits for the end of a batch, one task of which waits for it."""
    begun = time.monotonic()
    task = batch.function(above, joins)
    task.start()
    with pytest.raises(DeadlockError, match="would wait for ever") as caught:
        task.result.get(timeout=LIMIT_S)
    assert time.monotonic() - begun < LIMIT_S / 2
    text = str(caught.value)
    assert "'joins' waits for the end of Batch" in text
    assert "'below' waits for task" in text
    assert isinstance(caught.value, TaskStateError)
    assert batch.function(square, 3).run(LIMIT_S) == 9


def test_a_wait_with_a_limit_is_no_circle(batch: Batch) -> None:
    assert batch.function(above, joins_in_time).run(LIMIT_S) == "not in time"


def test_tasks_of_two_batches_that_join_the_other(nworkers: int) -> None:
    if nworkers < 2:
        pytest.skip("two batches of the main program need two workers")
    one, two = Batch(num_workers=1), Batch(num_workers=1)
    tasks = [one.function(joins, two), two.function(joins, one)]
    for task in tasks:
        task.start()
    for batch in (one, two):
        batch.close()
    ends = []
    for task in tasks:
        try:
            ends.append(task.result.get(timeout=LIMIT_S))
        except DeadlockError as error:
            ends.append(str(error))
    # One wait closes the circle; without it the other one ends.
    circle, joined = sorted(ends)
    assert joined == "joined"
    assert circle.count("waits for the end of Batch") == 2
    for batch in (one, two):
        batch.join(LIMIT_S)


def asks(name: str) -> Any:
    return HANDLES[name].result.get()


def asks_itself(batch: Batch) -> Any:
    HANDLES["itself"] = task = batch.function(asks, "itself")
    try:
        return task.run()
    finally:
        HANDLES.clear()


def test_a_task_that_waits_for_itself(batch: Batch, nworkers: int) -> None:
    if nworkers > 1:
        pytest.skip("several workers: a task finds its own handle in the process of its maker only")
    task = batch.function(asks_itself, batch)
    task.start()
    with pytest.raises(DeadlockError, match=r"'asks' waits for task \d+ 'asks'\. Let"):
        task.result.get(timeout=LIMIT_S)


def asks_those_behind(batch: Batch) -> Any:
    """Wait in the first of a compiled list for all of it."""
    first = batch.function(asks_all)
    HANDLES["all"] = whole = batch.compile([first, batch.function(square, first)])
    whole.start()
    try:
        return first.result.get()
    finally:
        HANDLES.clear()


def asks_all() -> int:
    HANDLES["all"].wait()
    return 1


def test_a_task_that_waits_for_those_behind_it(batch: Batch, nworkers: int) -> None:
    if nworkers > 1:
        pytest.skip("several workers: a task finds its own handle in the process of its maker only")
    task = batch.function(asks_those_behind, batch)
    task.start()
    with pytest.raises(DeadlockError, match="'asks_all' waits for the 2 tasks of a compiled task"):
        task.result.get(timeout=LIMIT_S)


def test_a_task_that_joins_its_own_batch(batch: Batch) -> None:
    task = batch.function(joins, batch)
    task.start()
    with pytest.raises(DeadlockError, match="it would wait for itself"):
        task.result.get(timeout=LIMIT_S)


def asks_on_the_first_rank(comm: Any, batch: Batch) -> int:
    return int(batch.function(square, 3).run()) if comm.Get_rank() == 0 else 0


def test_a_job_that_keeps_all_workers(batch: Batch) -> None:
    ranks = Policy(launch="ranks")
    job = batch.job(asks_on_the_first_rank, (batch,), batch.num_workers, policy=ranks)
    job.start()
    with pytest.raises(JobError, match="would wait for ever: jobs keep their workers") as caught:
        job.result.get(timeout=LIMIT_S)
    assert isinstance(caught.value.exception, DeadlockError)
    assert batch.function(square, 3).run(LIMIT_S) == 9


def test_a_job_that_leaves_a_worker(batch: Batch, nworkers: int) -> None:
    if nworkers < 2:
        pytest.skip("one worker: a job leaves none")
    ranks = Policy(launch="ranks")
    job = batch.job(asks_on_the_first_rank, (batch,), batch.num_workers - 1, policy=ranks)
    assert job.run(LIMIT_S)[0] == 9


def tree(gate: Gate, depth: int) -> int:
    """Wait long, over several levels, for a task that waits at a gate."""
    if not depth:
        gate.pass_through()
        return 1
    with Batch() as batch:
        tasks = [batch.function(tree, gate, depth - 1), batch.function(square, depth)]
        compiled = batch.compile(tasks)
        compiled.start()
        compiled.wait()
        return 1 + int(tasks[0].result.get())


def test_long_waits_in_a_tree_are_no_circle(batch: Batch, gate: Gate, manager: Any) -> None:
    task = batch.function(tree, gate, 3)
    task.start()
    gate.arrived()
    # All three that wait have told so before the gate opens.
    assert manager.drive(lambda: len(manager.desk.circles._waits) == 3, LIMIT_S)
    gate.open()
    assert task.result.get(timeout=LIMIT_S) == 4
