"""What goes into isolated tasks and comes out: values, functions, errors, output."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from alamo_mpi import (
    Batch,
    RemoteError,
    RemoteTraceback,
    SerializationError,
)
from tests.mpi.gates import LIMIT_S
from tests.mpi.isolated import died, kills_itself, pids, square

# What goes in and out ----------------------------------------------------------------------------


class Point:
    def __init__(self, x: float) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        1j,
        "text \udc80",
        b"",
        b"x" * (1 << 20),
        ["y" * (1 << 20), {"k": (1, None)}],
        list(range(100_000)),
        Point(3.0),
        np.arange(10),
        np.arange(1 << 14),
        np.asfortranarray(np.arange(1 << 18).reshape(512, 512)),
        np.array([Point(1.0), None], dtype=object),
        np.zeros((0, 5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(one: Batch, value: Any) -> None:
    def same(given: Any) -> Any:
        return given

    got = one.function(same, value).run(LIMIT_S)
    assert type(got) is type(value)
    if isinstance(value, np.ndarray):
        assert got.dtype == value.dtype
        assert got.flags.f_contiguous == value.flags.f_contiguous
        assert np.array_equal(got, value)
        assert got.flags.writeable
    else:
        assert got == value


def mapped_from(array: Any) -> str:
    """Return what the memory of an array is mapped from."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(each, 16) for each in line.split()[0].split("-"))
            if first <= address < last:
                return line.partition("/")[2].strip()
    return ""


def looks_at(array: Any) -> tuple[str, float, Any]:
    where = mapped_from(array)
    total = float(array.sum())
    array += 1  # its own to change
    return where, total, array


def test_large_arrays_are_shared(one: Batch) -> None:
    array = np.random.default_rng(1).random(1 << 23)
    assert array.nbytes == 64 << 20
    before = array.copy()
    tasks = [one.function(looks_at, array) for _ in range(2)]
    one.compile(tasks).run(LIMIT_S)
    for task in tasks:
        where, total, changed = task.result.get(timeout=LIMIT_S)
        # The file in which the worker has the argument, mapped and not copied.
        assert where.startswith("memfd:alamo_mpi blob")
        assert total == before.sum()
        assert np.array_equal(changed, before + 1)
    assert np.array_equal(array, before)


def ones(count: int) -> Any:
    return np.ones(count)


def source_and_sum(array: Any, small: Any) -> tuple[str, float, bool]:
    where = mapped_from(array)
    array[0] = 7.0
    return where, float(array.sum() + small.sum()), bool(array.flags.writeable)


@pytest.mark.parametrize("isolate", [True, False])
def test_results_as_arguments(batch: Batch, isolate: bool) -> None:
    large = batch.function(ones, 1 << 20, isolate=isolate)
    small = batch.function(ones, 10, isolate=not isolate)
    takers = [batch.function(source_and_sum, large, small, isolate=True) for _ in range(4)]
    in_rank = batch.function(source_and_sum, large, small)
    batch.compile([large, small, *takers, in_rank]).run(LIMIT_S)
    for each in takers:
        where, total, writeable = each.result.get()
        assert where.startswith("memfd:alamo-mpi-arena")
        assert (total, writeable) == ((1 << 20) + 16.0, True)
    assert in_rank.result.get()[1:] == ((1 << 20) + 16.0, True)
    assert large.result.get(timeout=LIMIT_S)[0] == 1.0


def test_many_large_results_hold_no_descriptors(one: Batch) -> None:
    tasks = [one.function(ones, 1 << 17) for _ in range(300)]
    one.compile(tasks).run(LIMIT_S)
    assert all(task.result.get(timeout=LIMIT_S).sum() == 1 << 17 for task in tasks)
    open_files = one.function(lambda: len(os.listdir("/proc/self/fd")))
    assert open_files.run(LIMIT_S) < 40


def test_nested_functions_and_closures(one: Batch) -> None:
    factor = [2]

    def times(x: int) -> int:
        def inner(y: int) -> int:
            return y * factor[0]

        return inner(x)

    assert one.function(times, 4).run(LIMIT_S) == 8
    factor[0] = 3
    assert one.function(times, 4).run(LIMIT_S) == 12
    assert one.function(lambda: factor).run(LIMIT_S) == [3]


def test_a_function_used_either_way(batch: Batch) -> None:
    def inside(x: int) -> tuple[int, int]:
        return x, os.getpid()

    for _ in range(2):
        tasks = [batch.function(inside, i, isolate=i % 2 == 0) for i in range(40)]
        batch.compile(tasks).run(LIMIT_S)
        results = [task.result.get() for task in tasks]
        assert [x for x, _ in results] == list(range(40))
        assert not {p for x, p in results if x % 2} & {p for x, p in results if not x % 2}


def test_a_fresh_process_knows_the_functions(one: Batch) -> None:
    def square_of(x: int) -> int:
        return x * x

    tasks = [one.function(square_of, i) for i in range(4)]
    one.compile(tasks).run(LIMIT_S)
    died(one.function(kills_itself))
    tasks = [one.function(square_of, i) for i in range(4)]
    one.compile(tasks).run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [0, 1, 4, 9]


class CrashesIfRebuilt:
    """Ends the process in which it is unpickled, but for the one that has made it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt_in, (os.getpid(),)


def rebuilt_in(pid: int) -> str:
    if os.getpid() != pid:
        os._exit(5)
    return "at home"


def test_the_worker_unpickles_nothing(one: Batch) -> None:
    assert died(one.function(square, CrashesIfRebuilt())).status == 5
    assert one.function(square, 4).run(LIMIT_S) == 16


# Errors and output -------------------------------------------------------------------------------


def divides(x: int) -> float:
    return x / 0


def test_its_exception_is_the_task_s(one: Batch) -> None:
    task = one.function(divides, 1)
    task.start()
    with pytest.raises(ZeroDivisionError) as caught:
        task.result.get(timeout=LIMIT_S)
    cause = str(caught.value.__cause__)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in divides" in cause
    assert "cellmain" not in cause
    first, _ = one.function(pids).run(LIMIT_S)
    with pytest.raises(ZeroDivisionError):
        one.function(divides, 1).run(LIMIT_S)
    assert one.function(pids).run(LIMIT_S)[0] == first  # an error is no death


def test_an_exit_of_python_is_an_error(one: Batch) -> None:
    first, _ = one.function(pids).run(LIMIT_S)
    with pytest.raises(RemoteError, match="SystemExit") as caught:
        one.function(sys.exit, 3).run(LIMIT_S)
    assert caught.value.type_name == "SystemExit"
    assert one.function(pids).run(LIMIT_S)[0] == first


def test_what_cannot_travel(one: Batch) -> None:
    with pytest.raises(SerializationError, match="The result of the task was lost"):
        one.function(threading.Lock).run(LIMIT_S)
    with pytest.raises(SerializationError, match="cannot be rebuilt here"):
        one.function(square, Unknown()).run(LIMIT_S)


class Unknown:
    def __reduce__(self) -> tuple[Any, ...]:
        return fails_to_rebuild, ()


def fails_to_rebuild() -> None:
    raise ImportError("no such module")


def forks() -> str:
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    os.waitpid(child, 0)
    return "in the parent"


def test_a_forked_child_that_comes_back_says_nothing(one: Batch) -> None:
    assert one.function(forks).run(LIMIT_S) == "in the parent"
    assert one.function(square, 4).run(LIMIT_S) == 16


def writes(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)
    os.write(1, b"by descriptor\n")
    subprocess.run(["sh", "-c", "echo by a child; echo its error >&2"], check=True)
    ctypes.CDLL(None).puts(b"by C")


def test_output(one: Batch) -> None:
    tasks = [one.function(writes, f"text {i}") for i in range(3)]
    one.compile([tasks[0], one.function(print, "in rank", isolate=False), *tasks[1:]]).run(LIMIT_S)
    for i, task in enumerate(tasks):
        assert task.stdout.get() == f"text {i}\nby descriptor\nby a child\nby C\n"
        assert task.stderr.get() == f"TEXT {i}\nits error\n"


def prints_much(lines: int) -> None:
    sys.stdout.write("a line of text\n" * lines)


def test_much_output(one: Batch) -> None:
    # Past a megabyte the worker goes on with another file: the process has to learn that.
    tasks = [one.function(prints_much, lines) for lines in (200_000, 1, 200_000, 2, 3)]
    one.compile(tasks).run(LIMIT_S)
    counts = [task.stdout.get(timeout=LIMIT_S).count("\n") for task in tasks]
    assert counts == [200_000, 1, 200_000, 2, 3]


def spoils_its_streams() -> None:
    sys.stdout.close()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.close(1)
    os.close(2)


def test_streams_are_mended(one: Batch) -> None:
    one.function(spoils_its_streams).run(LIMIT_S)
    task = one.function(writes, "text")
    task.run(LIMIT_S)
    assert task.stdout.get().startswith("text\nby descriptor\n")
    assert task.stderr.get() == "TEXT\nits error\n"


def logs() -> None:
    logging.getLogger("alamo_mpi.test").warning("a warning")


def test_logging_goes_to_stderr(one: Batch) -> None:
    task = one.function(logs)
    task.run(LIMIT_S)
    assert "a warning" in task.stderr.get()
