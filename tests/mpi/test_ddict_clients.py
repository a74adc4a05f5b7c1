"""`DDict` among tasks: synchronisation, placement, accesses, bad luck.

Runs on any number of ranks: tasks run on the workers, or in this process if there are none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import alamo_mpi
from alamo_mpi import (
    Batch,
    DDict,
    DDictDestroyedError,
    DDictFrozenError,
    DDictFullError,
    DDictTimeoutError,
)
from alamo_mpi.runtime import pool


@pytest.fixture
def d() -> Iterator[DDict[Any, Any]]:
    with DDict() as mapping:
        yield mapping


@pytest.fixture
def batch() -> Iterator[Batch]:
    with Batch() as service:
        yield service


def nranks() -> int:
    return pool.current().size


# -- tasks as clients ------------------------------------------------------------------------


def store(d: DDict[Any, Any], first: int, count: int) -> int:
    for i in range(first, first + count):
        d[i] = (i, "x" * (i % 50))
    return pool.current().rank


def test_tasks_write_what_others_read(d: DDict[Any, Any], batch: Batch) -> None:
    tasks = [batch.function(store, d, 100 * i, 100) for i in range(8)]
    batch.compile(tasks).run()
    assert len(d) == 800
    assert dict(d) == {i: (i, "x" * (i % 50)) for i in range(800)}
    ranks = {task.result.get() for task in tasks}
    assert {d.owner(i).rank for i in range(800)} == ranks


def count_up(d: DDict[Any, Any], times: int) -> list[int]:
    return [d.fetch_add("counter") for _ in range(times)]


def test_fetch_add_by_all_ranks_counts_each_once(d: DDict[Any, Any], batch: Batch) -> None:
    tasks = [batch.function(count_up, d, 50) for _ in range(4)]
    batch.compile(tasks).run()
    seen = sorted(number for task in tasks for number in task.result.get())
    assert seen == list(range(200))
    assert d["counter"] == 200


def win(d: DDict[Any, Any], name: int) -> tuple[bool, bool]:
    first = d.setdefault("winner", name) == name
    return first, d.pop("prize", None) is not None


def test_setdefault_and_pop_have_one_winner(d: DDict[Any, Any], batch: Batch) -> None:
    for _ in range(20):
        d["prize"] = 1
        tasks = [batch.function(win, d, i) for i in range(4)]
        batch.compile(tasks).run()
        outcomes = [task.result.get() for task in tasks]
        assert sum(first for first, _ in outcomes) == 1
        assert sum(popped for _, popped in outcomes) == 1
        del d["winner"]


def test_compare_and_set(d: DDict[Any, Any]) -> None:
    assert not d.compare_and_set("k", None, 1)
    d["k"] = 1
    assert not d.compare_and_set("k", 2, 3)
    assert d.compare_and_set("k", 1, 3)
    assert d["k"] == 3
    d["a"] = np.zeros(3)
    assert d.compare_and_set("a", np.zeros(3), np.ones(3))
    assert not d.compare_and_set("a", np.zeros(3), np.ones(3))


class _NotAnInt:
    pass


def test_fetch_add_on_what_cannot_be_added(d: DDict[Any, Any]) -> None:
    d["k"] = "text"
    with pytest.raises(TypeError):
        d.fetch_add("k", 1)
    assert d["k"] == "text"
    assert d.fetch_add("s", "ab", "") == ""
    assert d.fetch_add("s", "cd", "") == "ab"
    assert d["s"] == "abcd"


# -- waiting ------------------------------------------------------------------------------------


def test_readers_wait_for_keys() -> None:
    with DDict(wait_for_keys=True) as d:
        got: list[Any] = []
        readers = [
            threading.Thread(target=lambda: got.append(d["late"])),
            threading.Thread(target=lambda: got.append(d.get("late"))),
            threading.Thread(target=lambda: got.append(d.wait_for("late", value=7))),
        ]
        for reader in readers:
            reader.start()
        d["other"] = 1
        d["late"] = 7
        for reader in readers:
            reader.join(60)
        assert got == [7, 7, 7]
        assert d.get("never", "default") == "default"
        assert "never" not in d


def test_a_key_that_never_comes_is_named(d: DDict[Any, Any]) -> None:
    with pytest.raises(DDictTimeoutError, match=r"'absent' is missing after 0\.01 s"):
        d.get("absent", timeout=0.01)
    assert d.get("absent", 3, timeout=0.01) == 3
    with pytest.raises(TimeoutError, match=r"\('a', 1\)"):
        d.wait_for(("a", 1), timeout=0)
    d["k"] = 1
    with pytest.raises(DDictTimeoutError, match="'k' has another value"):
        d.wait_for("k", value=2, timeout=0.01)
    with DDict(wait_for_keys=True, timeout=0.01) as waiting:
        with pytest.raises(DDictTimeoutError, match="'gone'"):
            waiting["gone"]
        with pytest.raises(KeyError):
            del waiting["gone"]


def wait_and_answer(d: DDict[Any, Any]) -> Any:
    d["question"] = 1
    return d.wait_for("answer", timeout=60)


def test_a_task_waits_for_the_main_program(d: DDict[Any, Any], batch: Batch) -> None:
    if nranks() == 1:
        pytest.skip("one rank: the task would wait for the program that waits for it")
    task = batch.function(wait_and_answer, d)
    task.start()
    assert d.get("question", timeout=60) == 1
    d["answer"] = 42
    assert task.result.get() == 42


# -- placement ----------------------------------------------------------------------------------


def test_near_and_local() -> None:
    for rank in range(nranks()):
        with DDict(near=rank) as d:
            d.update({i: "v" * i for i in range(50)})
            d[0] = "again"
            assert {d.owner(i).rank for i in range(50)} == {rank}
            assert d.owner(3).host == pool.current().hosts[rank]
            assert d.local_len() == (50 if rank == 0 else 0)
            assert d == {0: "again", **{i: "v" * i for i in range(1, 50)}}
    with DDict(near=lambda key: key % nranks()) as d:
        d.update({i: i for i in range(40)})
        assert all(d.owner(i).rank == i % nranks() for i in range(40))
        mine = [i for i in range(40) if i % nranks() == 0]
        assert sorted(d.local_keys()) == sorted(d.local_values()) == mine
        assert sorted(d.local_items()) == [(i, i) for i in mine]
        assert d.local_len() == len(mine)
        with pytest.raises(KeyError):
            d.owner("absent")
    with pytest.raises(ValueError, match="near=99999"):
        DDict(near=99999)


def test_stats(d: DDict[Any, Any]) -> None:
    d["a"] = bytes(10_000)
    d["b"] = 1
    rows = d.stats()
    assert len(rows) == nranks()
    assert sum(row["keys"] for row in rows) == 2
    assert 10_000 < sum(row["nbytes"] for row in rows) < 11_000
    for row in rows:
        assert row["leased_nbytes"] <= row["pool_nbytes"]
        assert row["free_nbytes"] <= row["managed_nbytes"]


# -- as a communication object ------------------------------------------------------------------


def step(d: DDict[Any, Any], i: int) -> None:
    d[i + 1] = d[i] * 2


def test_accesses_order_tasks(d: DDict[Any, Any], batch: Batch) -> None:
    d[0] = 1
    tasks = [
        batch.function(step, d, i, reads=batch.read(d, i), writes=batch.write(d, i + 1))
        for i in range(30)
    ]
    batch.compile(tasks).run()
    assert d[30] == 2**30


def test_channels_are_keys(d: DDict[Any, Any]) -> None:
    assert d.channel_key(1) != d.channel_key(1.0)
    assert d.channel_key(("a", "a")) == d.channel_key(("a", "".join(["a"])))
    with DDict() as other:
        assert d.communication_object() != other.communication_object()
    with pytest.raises(TypeError, match="unhashable"):
        d.channel_key([1])


# -- freezing, destroying, bad luck ---------------------------------------------------------------


def try_writes(d: DDict[Any, Any]) -> tuple[Any, ...]:
    outcomes = []
    for write in (
        lambda: d.__setitem__("k", 2),
        lambda: d.__setitem__("new", 2),
        lambda: d.__delitem__("k"),
        lambda: d.fetch_add("k", 1),
        lambda: d.setdefault("new", 1),
        lambda: d.clear(),
        lambda: d.pop("k"),
    ):
        try:
            write()
            outcomes.append("done")
        except DDictFrozenError:
            outcomes.append("refused")
    return d["k"], d.get("new"), len(d), *outcomes


def test_freeze(d: DDict[Any, Any], batch: Batch) -> None:
    d["k"] = 1
    d["array"] = np.arange(100_000)
    d.freeze()
    d.freeze()
    task = batch.function(try_writes, d)
    task.run()
    assert task.result.get() == (1, None, 2, *["refused"] * 7)
    np.testing.assert_array_equal(d["array"], np.arange(100_000))
    d.unfreeze()
    d["k"] = 5
    assert d.pop("k") == 5


def use_after(d: DDict[Any, Any]) -> list[str]:
    names = []
    for use in (
        lambda: d["k"],
        lambda: d.__setitem__("k", 1),
        lambda: len(d),
        lambda: list(d),
        lambda: "k" in d,
        lambda: d.pop("k", 1),
        lambda: d.freeze(),
        lambda: d.destroy(),
    ):
        try:
            use()
            names.append("no error")
        except DDictDestroyedError as error:
            names.append(type(error).__name__)
    return names


def test_use_after_destroy(batch: Batch) -> None:
    d: DDict[Any, Any] = DDict({i: i for i in range(100)})
    task = batch.function(store, d, 0, 10)
    task.run()
    d.destroy()
    assert use_after(d) == ["DDictDestroyedError"] * 8
    task = batch.function(use_after, d)
    task.run()
    assert task.result.get() == ["DDictDestroyedError"] * 8
    with DDict() as fresh:
        fresh["k"] = 1
        assert use_after(d) == ["DDictDestroyedError"] * 8
        assert dict(fresh) == {"k": 1}


def test_full_memory(d: DDict[Any, Any]) -> None:
    home = pool.current()
    arena = home.window.nbytes
    d["precious"] = b"p" * 1000
    with pytest.raises(DDictFullError, match="ALAMO_POOL_BYTES") as info:
        d["huge"] = np.zeros(arena, "u1")
    assert str(arena) in str(info.value)
    assert isinstance(info.value, MemoryError)
    assert d["precious"] == b"p" * 1000
    assert len(d) == 1
    d["small"] = 1
    assert len(d) == 2


def fail_half_way(d: DDict[Any, Any]) -> None:
    for i in range(100):
        if i == 50:
            raise ZeroDivisionError
        d["half", i] = i


def test_a_task_that_fails_half_way_leaves_a_sound_dictionary(
    d: DDict[Any, Any], batch: Batch
) -> None:
    task = batch.function(fail_half_way, d)
    with pytest.raises(ZeroDivisionError):
        task.run()
    assert dict(d) == {("half", i): i for i in range(50)}
    d.update({("half", i): -i for i in range(100)})
    assert sum(d.values()) == -4950


def nest(d: DDict[Any, Any]) -> DDict[Any, Any]:
    inner: DDict[Any, Any] = DDict()
    inner["x"] = "from a task"
    d["inner"] = inner
    return inner


def test_dictionaries_made_in_tasks_and_stored_in_others(d: DDict[Any, Any], batch: Batch) -> None:
    task = batch.function(nest, d)
    task.run()
    inner = task.result.get()
    assert inner["x"] == "from a task"
    d["inner"]["y"] = 2
    assert inner == {"x": "from a task", "y": 2}
    inner.destroy()


def test_threads_share_a_client(d: DDict[Any, Any]) -> None:
    def work(name: int) -> None:
        for i in range(50):
            d[name, i] = i
            assert d[name, i] == i
            d.fetch_add("n")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(d) == 201
    assert d["n"] == 200


def test_memory_comes_back() -> None:
    """Made, filled and destroyed again and again: the pool does not wear out."""
    home = pool.current()
    used = []
    for _ in range(10):
        with DDict() as d:
            for i in range(50):
                d[i] = bytes(i * 10)
        with home.lock:
            home.allocator.reclaim()
            used.append(home.allocator.managed_nbytes - home.allocator.free_nbytes)
    # Only the small root block of each destroyed dictionary stays.
    assert used[-1] - used[0] <= 9 * (128 + 64 * (1 + home.size // 8))


def test_public_names() -> None:
    assert alamo_mpi.DDict is DDict


def test_total_mem_bounds_a_dictionary() -> None:
    with DDict(total_mem=1 << 20) as d:

        def fill() -> None:
            for i in range(2000):
                d[i] = bytes(1000)

        with pytest.raises(DDictFullError, match="total_mem of 1048576 bytes"):
            fill()
        stored = len(d)
        assert 900 < stored < 1048576 // 1088 + 1
        d.clear()
        for i in range(stored - 40):
            d[i] = bytes(1000)
    with pytest.raises(ValueError, match="total_mem=0"):
        DDict(total_mem=0)
