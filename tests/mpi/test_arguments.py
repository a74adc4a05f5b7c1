"""Arguments and results arrive as they were, whatever they are, and are private to each task."""

from __future__ import annotations

import datetime
import decimal
import hashlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, SerializationError
from alamo_mpi.runtime.manager import Manager
from tests.mpi.gates import on_each_worker

Array = np.ndarray[Any, np.dtype[Any]]


def same(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def typed(value: Any) -> Any:
    return type(value).__name__, value


ATOMS = [
    None,
    True,
    False,
    0,
    -1,
    1 << 200,
    0.5,
    float("inf"),
    2 - 3j,
    "",
    "żółw 🐢",
    "x" * 100_000,
]
CONTAINERS = [
    (),
    [],
    {},
    set(),
    b"",
    b"\0\xff" * 50_000,
    bytearray(b"abc"),
    [1, [2, [3, {"four": (5,)}]]],
    {1: "one", "two": 2, (3,): None},
    {1, 2, 3},
    frozenset("abc"),
    range(3, 9, 2),
    slice(1, None, 2),
    datetime.datetime(2024, 2, 29, 12, 30),
    decimal.Decimal("1.10"),
    Fraction(22, 7),
    Path("/some/where"),
    int,
    Ellipsis,
    NotImplementedError,
    np.float32(1.5),
    np.int8(-3),
]


def test_values_come_back_as_they_went(batch: Batch) -> None:
    values = [*ATOMS, *CONTAINERS]
    singles = [batch.function(typed, value) for value in values]
    for task in singles:
        task.start()
    for task, value in zip(singles, values, strict=True):
        name, got = task.result.get()
        assert (name, got) == (type(value).__name__, value)
        assert type(got) is type(value)
    together = batch.function(same, *values)
    assert list(together.run()) == values


def test_not_a_number_and_signed_zero(batch: Batch) -> None:
    nan, zero = batch.function(same, float("nan"), -0.0).run()
    assert nan != nan
    assert str(zero) == "-0.0"


def test_references_inside_one_task_are_kept(batch: Batch) -> None:
    shared: list[Any] = []
    shared.append(shared)
    left, right = batch.function(same, shared, shared).run()
    assert left is right
    assert left[0] is left


def structured(n: int) -> Array:
    made = np.zeros(n, dtype=[("id", "i8"), ("place", "f8", (3,)), ("name", "U8")])
    made["id"] = np.arange(n)
    made["place"] = np.arange(3 * n).reshape(n, 3)
    made["name"] = "atom"
    return made


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


# Both below and above the size from which buffers leave the pickle (16 KiB).
SMALL, BIG = 6, 60_000
ARRAYS: dict[str, Callable[[int], Array]] = {
    "C order": lambda n: np.arange(2.0 * n).reshape(2, n),
    "F order": lambda n: np.asfortranarray(np.arange(2.0 * n).reshape(2, n)),
    "transposed": lambda n: np.arange(2.0 * n).reshape(2, n).T,
    "every third": lambda n: np.arange(3.0 * n)[::3],
    "backwards": lambda n: np.arange(1.0 * n)[::-1],
    "a column": lambda n: np.arange(4.0 * n).reshape(n, 4)[:, 1],
    "broadcast": lambda n: np.broadcast_to(np.float64(3.5), (n,)),
    "read only": lambda n: read_only(np.arange(1.0 * n)),
    "structured": structured,
    "objects": lambda n: np.array([{"n": i} for i in range(n // 20 + 1)], dtype=object),
    "strings": lambda n: np.array(["ab", "cde"] * n),
    "dates": lambda n: np.arange(n).astype("datetime64[s]"),
    "bool": lambda n: np.arange(n) % 3 == 0,
    "big-endian": lambda n: np.arange(n, dtype=">f8"),
    "half": lambda n: np.arange(n, dtype=np.float16),
    "no elements": lambda n: np.empty((0, n)),
    "no dimensions": lambda n: np.array(1.0 * n),
    "masked": lambda n: np.ma.masked_less(np.arange(1.0 * n), 3),
}


def looked_at(array: Array) -> tuple[Any, ...]:
    return array, array.dtype.str, array.shape, float(np.size(array))


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_as_they_went(batch: Batch, kind: str, size: int) -> None:
    array = ARRAYS[kind](size)
    single = batch.function(looked_at, array)
    nested = batch.function(same, {"inside": [array]})
    batch.compile([single, nested]).run()
    for got in (single.result.get()[0], nested.result.get()["inside"][0]):
        assert type(got) is type(array)
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert np.array_equal(got, array)
    assert single.result.get()[1:] == looked_at(array)[1:]


def made(kind: str, size: int) -> Array:
    return ARRAYS[kind](size)


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_made_by_a_task(batch: Batch, kind: str, size: int) -> None:
    got = batch.function(made, kind, size).run()
    assert got.dtype == ARRAYS[kind](size).dtype
    assert np.array_equal(got, ARRAYS[kind](size))


def writes_zeros(array: Array) -> float:
    before = float(array.sum())
    array[:] = 0
    return before


@pytest.mark.parametrize("nbytes", [1 << 10, 1 << 17, 1 << 22])
def test_a_task_that_writes_to_a_shared_array_is_alone_with_it(batch: Batch, nbytes: int) -> None:
    array = np.ones(nbytes // 8)
    tasks = [batch.function(writes_zeros, array) for _ in range(6)]
    batch.compile(tasks).run()
    later = [batch.function(writes_zeros, array) for _ in range(3)]
    for task in later:
        task.start()
    assert [task.result.get() for task in [*tasks, *later]] == [nbytes / 8] * 9
    assert array.all()


@pytest.mark.parametrize("nbytes", [1 << 10, 1 << 17, 1 << 22])
def test_an_array_that_the_user_changes_between_starts(batch: Batch, nbytes: int) -> None:
    array = np.ones(nbytes // 8)
    tasks = []
    for value in (1, 2, 2, 3):
        array[:] = value
        tasks.append(batch.function(np.sum, array))
        tasks[-1].start()
    array[:] = 99
    got = [task.result.get() / (nbytes // 8) for task in tasks]
    assert got == [1, 2, 2, 3]


def test_an_array_changed_between_compile_and_start(batch: Batch) -> None:
    array = np.ones(1 << 16)
    task = batch.function(np.max, array)
    compiled = batch.compile([task, batch.function(np.min, array)])
    array[:] = 7
    compiled.run()
    assert task.result.get() == 7  # arguments are taken at the start


def test_results_that_the_user_changes(batch: Batch) -> None:
    task = batch.function(made, "C order", BIG)
    got = task.run()
    got[:] = -1
    assert task.result.get() is got
    assert batch.function(made, "C order", BIG).run().min() == 0


KEPT: list[Array] = []


def returns_and_keeps(n: int) -> Array:
    KEPT[:] = [np.ones(n)]
    return KEPT[0]


def spoils_what_is_kept() -> None:
    for array in KEPT:
        array[:] = -1


def test_a_result_that_the_task_keeps_and_a_later_task_changes(
    batch: Batch, tmp_path: Path
) -> None:
    array = batch.function(returns_and_keeps, BIG)
    array.start()
    array.wait()
    on_each_worker(batch, tmp_path, spoils_what_is_kept)
    assert array.result.get().min() == 1


def writes_to(array: Array) -> bool:
    array[0] = 1
    return True


def test_read_only_arrays_stay_read_only(batch: Batch) -> None:
    for size in (SMALL, BIG):
        task = batch.function(writes_to, read_only(np.zeros(size)))
        task.start()
        with pytest.raises(ValueError, match="read-only"):
            task.result.get()


def test_one_shared_array_crosses_once_to_each_worker(
    batch: Batch, manager: Manager, alone: bool
) -> None:
    if alone:
        pytest.skip("one rank: nothing crosses")
    ranks = batch._live.ranks
    array = np.ones(1 << 20)
    before = [manager.nbytes_sent(rank) for rank in ranks]
    tasks = [batch.function(np.sum, array) for _ in range(100)]
    batch.compile(tasks).run()
    sent = [manager.nbytes_sent(rank) - was for rank, was in zip(ranks, before, strict=True)]
    assert all(nbytes < 1.1 * array.nbytes for nbytes in sent), sent
    assert sum(sent) >= array.nbytes


class Locked:
    def __reduce__(self) -> Any:
        raise TypeError("this lock stays here")


class Unbuildable:
    def __reduce__(self) -> Any:
        return refuse, ("no such thing here",)


def refuse(text: str) -> None:
    raise ModuleNotFoundError(text)


def test_an_argument_that_cannot_be_pickled(batch: Batch) -> None:
    good = batch.function(same, 1)
    bad = batch.function(same, [1, Locked()])
    with pytest.raises(SerializationError, match="this lock stays here") as caught:
        bad.start()
    assert f"Task {bad.uid} 'same' was not started" in str(caught.value)
    assert (caught.value.uid, caught.value.task_name) == (bad.uid, "same")
    compiled = batch.compile(
        [good, batch.function(same, np.ones(BIG)), batch.function(same, Locked())]
    )
    with pytest.raises(SerializationError, match="was not started"):
        compiled.start()
    with pytest.raises(RuntimeError, match="not started"):
        good.result.get()
    assert batch.function(same, 2).run() == 2


def test_a_function_that_cannot_be_pickled(batch: Batch) -> None:
    lock = Locked()
    task = batch.function(lambda: lock)
    with pytest.raises(SerializationError, match=r"its function .*this lock stays here"):
        task.start()


def test_an_argument_that_cannot_be_rebuilt_on_the_worker(batch: Batch) -> None:
    task = batch.function(same, Unbuildable())
    with pytest.raises(SerializationError, match="no such thing here") as caught:
        task.run()
    assert f"Task {task.uid} 'same' failed on rank" in str(caught.value)
    assert (caught.value.uid, caught.value.task_name) == (task.uid, "same")
    assert caught.value.rank in batch._live.ranks
    assert batch.function(same, 2).run() == 2


def test_an_argument_too_deep_to_be_pickled(batch: Batch) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    task = batch.function(same, deep)
    with pytest.raises(SerializationError, match="RecursionError"):
        task.start()
    while deep:
        deep = deep.pop()


def returns(kind: type) -> Any:
    return [kind()]


def test_a_result_that_cannot_be_pickled(batch: Batch) -> None:
    task = batch.function(returns, Locked)
    with pytest.raises(SerializationError, match="this lock stays here") as caught:
        task.run()
    assert f"Task {task.uid} 'returns' failed on rank" in str(caught.value)
    assert f"Task {task.uid} 'returns'" in str(caught.value.__cause__)
    assert (caught.value.uid, caught.value.task_name) == (task.uid, "returns")
    assert batch.function(same, 2).run() == 2


def test_a_result_that_cannot_be_rebuilt_by_the_client(batch: Batch) -> None:
    task = batch.function(returns, Unbuildable)
    task.start()
    task.wait()
    for _ in range(2):
        with pytest.raises(SerializationError, match="no such thing here") as caught:
            task.result.get()
        assert f"The result of Task {task.uid} 'returns' cannot be given" in str(caught.value)
        assert caught.value.uid == task.uid
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert batch.function(same, 2).run() == 2


def made_with_a_class_of_its_own(folder: Path) -> Any:
    import importlib
    import sys

    (folder / "only_on_the_worker.py").write_text("class Thing:\n    pass\n")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("only_on_the_worker").Thing()
    finally:
        sys.path.remove(str(folder))


def test_a_result_whose_class_the_client_cannot_import(
    batch: Batch, tmp_path: Path, alone: bool
) -> None:
    if alone:
        pytest.skip("one rank: what the task imports, the client has imported")
    task = batch.function(made_with_a_class_of_its_own, tmp_path)
    with pytest.raises(SerializationError, match="only_on_the_worker"):
        task.run()


def digest(array: Array) -> str:
    return hashlib.sha256(array.data).hexdigest()


def random_bytes(nbytes: int) -> Array:
    return np.random.default_rng(7).integers(0, 256, nbytes, np.uint8)


def test_a_hundred_megabytes_there_and_back(batch: Batch) -> None:
    array = random_bytes(100_000_000)
    there = batch.function(digest, array)
    assert there.run() == digest(array)
    back = batch.function(random_bytes, array.size).run()
    assert np.array_equal(back, array)


@pytest.mark.slow
def test_more_than_two_gibibytes_there_and_back(batch: Batch, big_memory: None) -> None:
    nbytes = 5 << 29
    array = np.zeros(nbytes, np.uint8)
    array[[0, 1 << 31, -1]] = 1, 2, 3
    assert batch.function(np.flatnonzero, array).run().tolist() == [0, 1 << 31, nbytes - 1]
    del array
    back = batch.function(np.full, nbytes, 7, np.uint8).run()
    assert back.nbytes == nbytes
    assert (back[::4096] == 7).all()
