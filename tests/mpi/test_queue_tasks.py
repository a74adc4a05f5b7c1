"""`Queue` among tasks: every task a client, and the queue a communication object.

Runs on any number of ranks: tasks run on the workers, or in this process if there are none.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from alamo_mpi import Batch, Queue
from alamo_mpi.runtime import pool

#: For what must happen: no test depends on its length.
LONG_S = 60.0


@pytest.fixture
def q() -> Iterator[Queue[Any]]:
    with Queue() as made:
        yield made


@pytest.fixture
def batch() -> Iterator[Batch]:
    with Batch() as service:
        yield service


def produce(q: Queue[Any], name: int, count: int) -> int:
    for i in range(count):
        q.put((name, i))
    return pool.current().rank


def consume(q: Queue[Any], count: int) -> list[Any]:
    return [q.get(timeout=LONG_S) for _ in range(count)]


def test_tasks_put_and_get_each_item_once(q: Queue[Any], batch: Batch) -> None:
    puts = [batch.function(produce, q, name, 50) for name in range(4)]
    gets = [batch.function(consume, q, 40) for _ in range(5)]
    batch.compile(puts).run()
    batch.compile(gets).run()
    parts = [task.result.get() for task in gets]
    assert sorted(itertools.chain(*parts)) == [(name, i) for name in range(4) for i in range(50)]
    for part in parts:
        for name in range(4):
            own = [i for producer, i in part if producer == name]
            assert own == sorted(own)


def test_main_program_talks_to_a_running_task(q: Queue[Any], batch: Batch, alone: bool) -> None:
    if alone:
        pytest.skip("the only rank would wait for itself")
    with Queue() as answers:
        task = batch.function(answer, q, answers)
        task.start()
        for i in range(20):
            q.put(i)
            assert answers.get(timeout=LONG_S) == i * i
        q.close()
        task.wait(LONG_S)
        assert task.result.get() == 20


def answer(questions: Queue[int], answers: Queue[int]) -> int:
    count = 0
    for question in questions:
        answers.put(question * question)
        count += 1
    return count


def make_and_fill() -> Queue[str]:
    q: Queue[str] = Queue(3)
    q.put("made in a task")
    return q


def test_queue_made_by_a_task_outlives_it(batch: Batch) -> None:
    task = batch.function(make_and_fill)
    with task.run() as q:
        assert q.maxsize == 3
        assert q.get(timeout=LONG_S) == "made in a task"


def test_queue_is_a_communication_object_of_one_channel(q: Queue[Any], batch: Batch) -> None:
    fill = batch.function(produce, q, 0, 30, writes=batch.write(q))
    drain = batch.function(consume, q, 30, reads=batch.read(q))
    batch.compile([fill, drain]).run()
    assert drain.result.get() == [(0, i) for i in range(30)]
    with pytest.raises(TypeError, match="has one channel"):
        batch.read(q, "another")
    assert batch.read(q) == batch.read(copy.copy(q))
    with Queue() as other:
        assert batch.read(q) != batch.read(other)
