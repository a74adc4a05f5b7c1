"""`Queue` as a queue: what `multiprocessing.JoinableQueue` does, and what is added.

Runs on any number of ranks; the other end is a thread of this process.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import queue
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from alamo_mpi import (
    DDict,
    Queue,
    QueueClosedError,
    QueueDestroyedError,
    QueueMemoryError,
    SerializationError,
)
from alamo_mpi.runtime import pool

SHORT_S = 0.02
#: For what must happen: no test depends on its length.
LONG_S = 60.0


@pytest.fixture
def q() -> Iterator[Queue[Any]]:
    with Queue() as made:
        yield made


def in_thread(call: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=call, args=args)
    thread.start()
    return thread


# -- what multiprocessing.Queue does ---------------------------------------------------------


def test_put_takes_block_and_timeout_in_every_form() -> None:
    with Queue(maxsize=6) as q:
        assert q.empty()
        assert not q.full()
        q.put(1)
        q.put(2, True)
        q.put(3, True, None)
        q.put(4, False)
        q.put(5, False, None)
        q.put_nowait(6)
        assert q.full()
        assert not q.empty()
        for call in (
            lambda: q.put(7, False),
            lambda: q.put(7, False, None),
            lambda: q.put_nowait(7),
            lambda: q.put(7, True, SHORT_S),
            lambda: q.put(7, False, LONG_S),
            lambda: q.put(7, timeout=SHORT_S),
            lambda: q.put(7, timeout=-1),
        ):
            with pytest.raises(queue.Full):
                call()
        assert [q.get() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        assert q.empty()


def test_get_takes_block_and_timeout_in_every_form(q: Queue[int]) -> None:
    q.put_many(range(1, 7))
    assert q.get(True, None) == 1
    assert q.get(True) == 2
    assert q.get(timeout=1) == 3
    assert q.get_nowait() == 4
    assert q.get(False) == 5
    assert q.get() == 6
    for call in (
        lambda: q.get(False),
        lambda: q.get(False, None),
        q.get_nowait,
        lambda: q.get(True, SHORT_S),
        lambda: q.get(False, LONG_S),
        lambda: q.get(timeout=SHORT_S),
        lambda: q.get(timeout=-1),
    ):
        with pytest.raises(queue.Empty):
            call()


def test_timeouts_are_kept(q: Queue[int]) -> None:
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.05)
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("maxsize", [0, -1, 1, 100])
def test_qsize_counts(maxsize: int) -> None:
    with Queue(maxsize) as q:
        assert q.maxsize == max(maxsize, 0)
        assert q.qsize() == 0
        q.put(1)
        assert q.qsize() == 1
        assert q.full() == (maxsize == 1)
        q.get()
        assert q.qsize() == 0


def test_blocked_put_goes_on_when_there_is_room() -> None:
    with Queue(1) as q:
        q.put("first")
        thread = in_thread(q.put, "second")
        assert q.get(timeout=LONG_S) == "first"
        assert q.get(timeout=LONG_S) == "second"
        thread.join(LONG_S)


def test_blocked_get_goes_on_when_there_is_an_item(q: Queue[str]) -> None:
    got: list[str] = []
    thread = in_thread(lambda: got.append(q.get()))
    q.put("item")
    thread.join(LONG_S)
    assert got == ["item"]


def test_join_waits_for_every_task_done(q: Queue[int]) -> None:
    q.join()
    q.put_many(range(20))

    def work() -> None:
        for _ in range(10):
            q.get()
            q.task_done()

    threads = [in_thread(work) for _ in range(2)]
    q.join()
    for thread in threads:
        thread.join(LONG_S)
    with pytest.raises(ValueError, match="called too many times"):
        q.task_done()
    q.put(1)
    with pytest.raises(TimeoutError, match=r"1 items of .* are not done"):
        q.join(timeout=SHORT_S)


def test_unpicklable_item_is_not_put_and_harms_nothing(q: Queue[Any]) -> None:
    q.put("before")
    with pytest.raises(SerializationError, match="lock"):
        q.put(threading.Lock())
    with pytest.raises(SerializationError, match="lock"):
        q.put_many([1, threading.Lock(), 2])
    q.put("after")
    assert [q.get(), q.get()] == ["before", "after"]
    assert q.empty()


def test_closed_queue_refuses_as_a_value_error(q: Queue[int]) -> None:
    q.close()
    q.join_thread()
    q.cancel_join_thread()
    with pytest.raises(ValueError, match="was closed"):
        q.put(1)
    with pytest.raises(ValueError, match="was closed"):
        q.get()


# -- items ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        None,
        0,
        "text",
        b"",
        b"x" * 100_000,
        bytearray(b"y" * 100_000),
        [1, {"a": (2.5, None)}],
        "long" * 100_000,
        ValueError("an exception"),
    ],
    ids=lambda item: type(item).__name__ + str(len(item) if hasattr(item, "__len__") else ""),
)
def test_items_come_back_equal_and_of_the_same_type(q: Queue[Any], item: Any) -> None:
    q.put(item)
    found = q.get()
    assert type(found) is type(item)
    assert repr(found) == repr(item)


@pytest.mark.parametrize("shape", [0, 10, 5000, (300, 1000)])
def test_arrays_come_back_private_and_writable(q: Queue[Any], shape: Any) -> None:
    array = np.arange(np.prod(shape), dtype="f8").reshape(shape)
    q.put(array)
    array += 1
    found = q.get()
    np.testing.assert_array_equal(found, array - 1)
    found += 1  # nobody else's
    q.put({"two": [array, array[::2]]})
    np.testing.assert_array_equal(q.get()["two"][1], array[::2])


def test_item_that_cannot_be_rebuilt_fails_that_get_alone(
    q: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("gone_tomorrow")
    kind = type("Parcel", (), {"__module__": "gone_tomorrow"})
    module.Parcel = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gone_tomorrow", module)
    q.put(kind())
    q.put("next")
    monkeypatch.delitem(sys.modules, "gone_tomorrow")
    with pytest.raises(SerializationError, match=r"gone_tomorrow\.Parcel"):
        q.get()
    assert q.get() == "next"


def test_services_are_items_and_values(q: Queue[Any]) -> None:
    with DDict() as d, Queue() as other:
        d["queue"] = other
        q.put((d, other))
        other.put("through")
        found, again = q.get()
        assert found["queue"].get() == "through"
        again.put("back")
        assert other.get() == "back"
        assert copy.copy(other).qsize() == 0
        assert repr(pickle.loads(pickle.dumps(other))) == repr(other)


# -- many at a time ------------------------------------------------------------------------


def test_many_items_keep_their_order(q: Queue[Any]) -> None:
    items: list[Any] = [*range(1000), b"z" * 50_000, *"abc", np.ones(5000), None]
    q.put_many(iter(items))
    assert q.qsize() == len(items)
    found: list[Any] = []
    while not q.empty():
        some = q.get_many(300)
        assert 1 <= len(some) <= 300
        found += some
    assert len(found) == len(items)
    assert repr(found) == repr(items)
    with pytest.raises(queue.Empty):
        q.get_many(5, block=False)
    with pytest.raises(ValueError, match="limit=0"):
        q.get_many(0)
    q.put_many([])
    assert q.empty()


def test_get_many_does_not_wait_for_more_than_one(q: Queue[int]) -> None:
    q.put_many([1, 2, 3])
    assert q.get_many(100) == [1, 2, 3]


def test_put_many_waits_for_room() -> None:
    with Queue(10) as q:
        thread = in_thread(q.put_many, range(500))
        found: list[int] = []
        while len(found) < 500:
            assert q.qsize() <= 10
            found += q.get_many(7, timeout=LONG_S)
        thread.join(LONG_S)
        assert found == list(range(500))
        with pytest.raises(queue.Full, match="of 12 items 10 have been put"):
            q.put_many(range(12), timeout=SHORT_S)
        assert q.get_many(20) == list(range(10))


# -- the end -------------------------------------------------------------------------------


def test_iteration_ends_when_the_queue_is_closed(q: Queue[int]) -> None:
    got: list[int] = []
    thread = in_thread(lambda: got.extend(q))
    q.put_many(range(50))
    q.close()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert got == list(range(50))
    assert q.closed
    assert list(q) == []
    with pytest.raises(QueueClosedError, match="Of 2 items 0 have been put"):
        q.put_many([1, 2])


def test_close_wakes_a_put_that_waits() -> None:
    with Queue(1) as q:
        q.put(0)
        errors: list[Exception] = []

        def put() -> None:
            try:
                q.put(1)
            except QueueClosedError as error:
                errors.append(error)

        thread = in_thread(put)
        q.close()
        thread.join(LONG_S)
        # It waited, or came too late: either way it is told.
        assert len(errors) == 1
        assert list(q) == [0]


def test_destroyed_queue_refuses_everything() -> None:
    q: Queue[int] = Queue()
    other = pickle.loads(pickle.dumps(q))
    waiting: list[str] = []

    def wait() -> None:
        with pytest.raises(QueueDestroyedError):
            other.get()
        waiting.append("told")

    thread = in_thread(wait)
    q.destroy()
    thread.join(LONG_S)
    assert waiting == ["told"]
    for call in (
        lambda: q.put(1),
        q.get_nowait,
        q.qsize,
        q.empty,
        q.close,
        q.task_done,
        q.join,
        q.destroy,
        lambda: list(q),
        lambda: pickle.loads(pickle.dumps(other)),
    ):
        with pytest.raises(QueueDestroyedError, match="was destroyed"):
            call()
    assert "Queue" in repr(q)


def test_with_destroys_once() -> None:
    with Queue() as q:
        q.put(1)
        q.destroy()
    with pytest.raises(ZeroDivisionError), Queue() as q:
        _ = 1 / 0
    with pytest.raises(QueueDestroyedError):
        q.put(1)


def test_item_larger_than_all_memory_is_refused_and_nothing_is_lost(q: Queue[Any]) -> None:
    home = pool.current()
    q.put("before")
    # Virtual memory alone: refused before it is copied.
    huge = np.empty(home.window.nbytes * home.size, "u1")
    before = home.allocator.free_nbytes
    with pytest.raises(QueueMemoryError, match="ALAMO_POOL_BYTES"):
        _put_without_pieces(q, huge)
    home.allocator.reclaim()
    assert home.allocator.free_nbytes >= before
    q.put("after")
    assert [q.get(), q.get()] == ["before", "after"]


def _put_without_pieces(q: Queue[Any], array: Any) -> None:
    """In one piece, which has no room anywhere: pieces would first fill the memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alamo_mpi.core.items._PIECE_NBYTES", 1 << 62)
        q.put(array)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="maxsize must be an int"):
        Queue("5")  # type: ignore[arg-type]
    for near in (-1, pool.current().size, "0"):
        with pytest.raises(ValueError, match="is not a rank"):
            Queue(near=near)  # type: ignore[arg-type]


def test_thousand_queues() -> None:
    home = pool.current()
    home.allocator.reclaim()
    before = home.allocator.free_nbytes - home.allocator.managed_nbytes
    queues: list[Queue[int]] = [Queue() for _ in range(1000)]
    for i, q in enumerate(queues):
        q.put(i)
    used = before - (home.allocator.free_nbytes - home.allocator.managed_nbytes)
    assert used <= 1000 * 1024
    for i, q in enumerate(queues):
        assert q.get_nowait() == i
        q.destroy()
    home.allocator.reclaim()
    assert home.allocator.free_nbytes - home.allocator.managed_nbytes == before


def test_stats_and_placement() -> None:
    for rank in range(pool.current().size):
        with Queue(5, near=rank) as q:
            q.put_many([1, 2])
            assert q.stats() == {
                "items": 2,
                "unfinished": 2,
                "maxsize": 5,
                "closed": False,
                "rank": rank,
                "host": pool.current().hosts[rank],
            }


# -- threads -------------------------------------------------------------------------------


def test_threads_share_one_client() -> None:
    with Queue(20) as q:
        got: list[list[int]] = [[] for _ in range(3)]
        producers = [in_thread(lambda n=n: [q.put((n, i)) for i in range(200)]) for n in range(3)]
        consumers = [in_thread(lambda mine=mine: mine.extend(q)) for mine in got]
        for thread in producers:
            thread.join(LONG_S)
        q.close()
        for thread in consumers:
            thread.join(LONG_S)
        assert sorted(itertools.chain(*got)) == [(n, i) for n in range(3) for i in range(200)]
        for mine in got:
            for n in range(3):
                own = [i for producer, i in mine if producer == n]  # type: ignore[misc]
                assert own == sorted(own)
