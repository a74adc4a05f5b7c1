"""isolate=True: a task in a process of its worker's own; what crashes there harms nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alamo_mpi
from alamo_mpi import (
    Batch,
    CancelledError,
    DDict,
    DependencyError,
    Policy,
    Queue,
    RemoteError,
    RemoteTraceback,
    SerializationError,
    TaskStateError,
    TaskTimeoutError,
    WorkerDiedError,
)
from tests.mpi.gates import LIMIT_S, on_each_worker, wait_until

#: A time-out of a task that would run on.
SOON_S = 0.3
LONG_S = 4 * LIMIT_S


@pytest.fixture
def one() -> Any:
    """A batch with one worker, whose tasks are isolated."""
    with Batch(1, isolate=True) as batch:
        yield batch


def square(x: int) -> int:
    return x * x


def pids() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def segfaults() -> None:
    print("before", flush=True)
    ctypes.string_at(0)


def exits(status: int) -> None:
    print("a last word", file=sys.stderr)
    os._exit(status)


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stuck(flag: Path) -> None:
    """Be in one C call that never returns and keeps the interpreter's lock."""
    flag.touch()
    ctypes.PyDLL(None).sleep(int(LONG_S))


def stubborn(flag: Path) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    flag.touch()
    time.sleep(LONG_S)


def is_gone(pid: int) -> bool:
    """Tell whether no process, not even a zombie, has this number."""
    return not Path(f"/proc/{pid}").exists()


def died(task: alamo_mpi.Task) -> WorkerDiedError:
    task.start()
    with pytest.raises(WorkerDiedError) as caught:
        task.result.get(timeout=LIMIT_S)
    error = caught.value
    assert error.uid == task.uid
    assert error.host == os.uname().nodename
    assert error.rank is not None
    assert error.pid is not None
    assert is_gone(error.pid)
    assert isinstance(error.__cause__, RemoteTraceback)
    return error


# Where it runs ---------------------------------------------------------------------------------


def test_a_process_of_its_own_used_again(one: Batch) -> None:
    worker, _ = one.function(pids, isolate=False).run(LIMIT_S)
    first, parent = one.function(pids).run(LIMIT_S)
    assert first != worker
    assert parent not in (worker, os.getpid())  # the warden
    task = one.compile([one.function(pids) for _ in range(20)])
    tasks = task._subtasks  # type: ignore[attr-defined]
    task.run(LIMIT_S)
    assert {each.result.get() for each in tasks} == {(first, parent)}


def test_each_worker_has_its_own(batch: Batch, tmp_path: Path) -> None:
    inside = [batch.function(pids, isolate=True) for _ in range(batch.num_workers)]
    batch.compile(inside).run(LIMIT_S)
    workers = on_each_worker(batch, tmp_path, os.getpid)
    assert not {each.result.get()[0] for each in inside} & set(workers)


def rank_of_mpi() -> bool:
    return "mpi4py.MPI" in sys.modules or any(name.startswith("PMI_") for name in os.environ)


def test_it_is_no_rank(one: Batch) -> None:
    assert not one.function(rank_of_mpi).run(LIMIT_S)


@pytest.mark.parametrize("isolate", [1, "yes"])
def test_wrong_arguments(batch: Batch, isolate: Any) -> None:
    with pytest.raises(TypeError, match="isolate must be True, False or None"):
        batch.function(square, 2, isolate=isolate)
    with pytest.raises(TypeError, match="isolate must be True, False or None"):
        Batch(isolate=isolate)


def test_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALAMO_ISOLATE", "1")
    with Batch(1) as batch:
        assert batch.function(os.getpid).run(LIMIT_S) != batch.function(
            os.getpid, isolate=False
        ).run(LIMIT_S)
    with Batch(1, isolate=False) as batch:
        inside = batch.function(os.getpid, isolate=True).run(LIMIT_S)
        assert batch.function(os.getpid).run(LIMIT_S) != inside
    monkeypatch.setenv("ALAMO_ISOLATE", "perhaps")
    with pytest.raises(ValueError, match="ALAMO_ISOLATE='perhaps': set it to 1"):
        Batch(1)


def nested(batch: Batch) -> tuple[int, int]:
    task = batch.function(os.getpid)
    return os.getpid(), task.run()


def test_a_copy_of_the_batch_does_as_the_batch(one: Batch) -> None:
    here, there = one.function(nested, one, isolate=False).run(LIMIT_S)
    assert here != there


# Deaths ----------------------------------------------------------------------------------------


def test_a_segmentation_fault(one: Batch) -> None:
    before, _ = one.function(pids).run(LIMIT_S)
    task = one.function(segfaults)
    error = died(task)
    assert error.pid == before
    assert (error.status, error.signal) == (-signal.SIGSEGV, "SIGSEGV")
    assert error.peak_nbytes > 1 << 20
    assert "in segfaults" in error.stderr
    assert "in segfaults" in str(error.__cause__)
    assert str(error).startswith(f"Task {task.uid} 'segfaults' failed on rank {error.rank}")
    assert "was ended by SIGSEGV" in str(error)
    assert task.stdout.get() == "before\n"
    after, _ = one.function(pids).run(LIMIT_S)
    assert after != before


def test_an_exit(one: Batch) -> None:
    error = died(one.function(exits, 3))
    assert (error.status, error.signal, error.stderr) == (3, None, "a last word\n")
    assert "has exited with status 3" in str(error)
    assert one.function(square, 3).run(LIMIT_S) == 9


def test_an_exit_with_status_0_is_no_result(one: Batch) -> None:
    assert died(one.function(exits, 0)).status == 0


def test_a_kill(one: Batch) -> None:
    error = died(one.function(kills_itself))
    assert (error.status, error.signal) == (-signal.SIGKILL, "SIGKILL")
    assert "memory runs out" in str(error)


def test_its_peak_memory(one: Batch) -> None:
    def takes(nbytes: int) -> None:
        block = bytearray(nbytes)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
        os._exit(1)

    assert died(one.function(takes, 64 << 20)).peak_nbytes > 64 << 20


def test_those_behind_it(batch: Batch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    dies = batch.function(kills_itself, isolate=True, writes=batch.write(folder, "a"))
    reads = batch.function(square, 2, isolate=True, reads=batch.read(folder, "a"))
    apart = [batch.function(square, i, isolate=True) for i in range(20)]
    after = batch.function(square, 5, isolate=True, writes=batch.write(folder, "a"))
    batch.compile([dies, reads, *apart, after]).start()
    with pytest.raises(DependencyError) as caught:
        reads.result.get(timeout=LIMIT_S)
    assert isinstance(caught.value.__cause__, WorkerDiedError)
    assert [task.result.get(timeout=LIMIT_S) for task in apart] == [i * i for i in range(20)]
    assert after.result.get(timeout=LIMIT_S) == 25


def test_one_that_dies_idle(one: Batch) -> None:
    first, _ = one.function(pids).run(LIMIT_S)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: is_gone(first), "for the end of the process")
    second, _ = one.function(pids).run(LIMIT_S)
    assert second != first


def leaves_a_child() -> int:
    child = subprocess.Popen(["sleep", str(LONG_S)])
    print(child.pid, flush=True)
    os._exit(1)


def test_its_children_die_with_it(one: Batch) -> None:
    task = one.function(leaves_a_child)
    died(task)
    assert is_gone(int(task.stdout.get()))


def loses_its_connection() -> None:
    os.closerange(3, 1024)


def test_one_that_closes_what_is_not_its_own(one: Batch) -> None:
    died(one.function(loses_its_connection))
    assert one.function(square, 4).run(LIMIT_S) == 16


def test_the_warden_is_killed(one: Batch, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    inside, warden = one.function(pids).run(LIMIT_S)
    task = one.function(stubborn, flag)
    task.start()
    wait_until(flag.exists, "for the task to start")
    os.kill(warden, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="with the process that watches over it") as caught:
        task.result.get(timeout=LIMIT_S)
    assert caught.value.status is None
    wait_until(lambda: is_gone(inside), "for the end of the process")
    assert one.function(square, 4).run(LIMIT_S) == 16


# Giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [stuck, stubborn])
def test_time_out(one: Batch, tmp_path: Path, kind: Callable[..., Any]) -> None:
    inside, _ = one.function(pids).run(LIMIT_S)
    task = one.function(kind, tmp_path / "flag", timeout=SOON_S)
    task.start()
    with pytest.raises(TaskTimeoutError, match=r"longer than its timeout of 0\.3 s") as caught:
        task.result.get(timeout=LIMIT_S)
    assert is_gone(inside)
    if kind is stuck:
        assert "in stuck" in str(caught.value.__cause__)
        assert "in stuck" in task.stderr.get()
    assert one.function(square, 4).run(LIMIT_S) == 16


@pytest.mark.parametrize("kind", [stuck, stubborn])
def test_cancel(one: Batch, tmp_path: Path, kind: Callable[..., Any]) -> None:
    flag = tmp_path / "flag"
    inside, _ = one.function(pids).run(LIMIT_S)
    task = one.function(kind, flag)
    waiting = one.function(square, 3)
    task.start()
    waiting.start()
    wait_until(flag.exists, "for the task to start")
    task.cancel()
    with pytest.raises(CancelledError, match="was cancelled"):
        task.result.get(timeout=LIMIT_S)
    assert waiting.result.get(timeout=LIMIT_S) == 9
    assert is_gone(inside)


def test_terminate(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    batch = Batch(1, isolate=True)
    inside, _ = batch.function(pids).run(LIMIT_S)
    task, waiting = batch.function(stuck, flag), batch.function(square, 3)
    task.start()
    waiting.start()
    wait_until(flag.exists, "for the task to start")
    batch.terminate()
    for each in task, waiting:
        with pytest.raises(CancelledError):
            each.result.get(timeout=LIMIT_S)
    wait_until(lambda: is_gone(inside), "for the end of the process")


def test_many_that_are_given_up_at_any_moment(one: Batch) -> None:
    tasks = [one.function(time.sleep, 1e-3, timeout=1e-3 * (1 + i % 3)) for i in range(30)]
    one.compile(tasks).start()
    for task in tasks:
        with contextlib.suppress(TaskTimeoutError):
            assert task.result.get(timeout=LIMIT_S) is None
    assert one.function(square, 4).run(LIMIT_S) == 16


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


# Services and policies ---------------------------------------------------------------------------


def uses(store: Any, results: Any, x: int) -> int:
    store[x] = np.full(1 << 15, x)
    results.put(("from", os.getpid()))
    own = DDict()
    own["key"] = "value"
    assert own["key"] == "value"
    own.destroy()
    return int(store[x].sum()) + alamo_mpi.attach().rank * 0


def test_services_inside(one: Batch) -> None:
    with DDict() as store, Queue() as results:
        inside, _ = one.function(pids).run(LIMIT_S)
        assert one.function(uses, store, results, 3).run(LIMIT_S) == 3 << 15
        assert results.get(timeout=LIMIT_S) == ("from", inside)
        assert np.array_equal(store[3], np.full(1 << 15, 3))


def takes_an_item(items: Any) -> Any:
    return items.get(timeout=LIMIT_S)


def puts_an_item(items: Any, item: Any) -> None:
    items.put(item)


@pytest.mark.parametrize("isolate", [True, False])
def test_one_that_waits_lets_its_worker_go_on(one: Batch, isolate: bool) -> None:
    with Queue() as items:
        takers = [one.function(takes_an_item, items) for _ in range(3)]
        for each in takers:
            each.start()
        givers = [one.function(puts_an_item, items, i, isolate=isolate) for i in range(3)]
        for each in givers:
            each.start()
        assert sorted(each.result.get(timeout=LIMIT_S) for each in takers) == [0, 1, 2]


def prints_around_a_wait(items: Any, flag: Path) -> None:
    print("before")
    flag.touch()
    items.get(timeout=LIMIT_S)
    print("after")


def test_output_around_a_wait(one: Batch, tmp_path: Path) -> None:
    with Queue() as items:
        waits = one.function(prints_around_a_wait, items, tmp_path / "flag")
        waits.start()
        wait_until((tmp_path / "flag").exists, "for the task to start")
        other = one.function(prints_much, 200_000, isolate=False)
        other.run(LIMIT_S)
        items.put(None)
        waits.wait(LIMIT_S)
        assert waits.stdout.get() == "before\nafter\n"
        assert other.stdout.get(timeout=LIMIT_S).count("\n") == 200_000


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_giving_up_one_that_waits(one: Batch, tmp_path: Path, how: str) -> None:
    with Queue() as items:
        limit_s = SOON_S if how == "timeout" else None
        waits = one.function(prints_around_a_wait, items, tmp_path / "flag", timeout=limit_s)
        waits.start()
        wait_until((tmp_path / "flag").exists, "for the task to start")
        if how == "cancel":
            waits.cancel()
        with pytest.raises(CancelledError if how == "cancel" else TaskTimeoutError):
            waits.result.get(timeout=LIMIT_S)
        assert one.function(square, 4).run(LIMIT_S) == 16


def dies_waiting(items: Any) -> None:
    threading.Timer(0.05, os._exit, (4,)).start()
    items.get(timeout=LIMIT_S)


def test_one_that_dies_while_it_waits(one: Batch) -> None:
    with Queue() as items:
        assert died(one.function(dies_waiting, items)).status == 4
        assert one.function(square, 4).run(LIMIT_S) == 16


def makes_a_batch() -> None:
    Batch()


def test_no_program_of_its_own(one: Batch) -> None:
    with pytest.raises(TaskStateError, match="attached to rank"):
        one.function(makes_a_batch).run(LIMIT_S)


def cpus_and_threads() -> tuple[int, str | None]:
    return len(os.sched_getaffinity(0)), os.environ.get("OPENBLAS_NUM_THREADS")


def test_policies(one: Batch) -> None:
    usual = one.function(cpus_and_threads).run(LIMIT_S)
    cpu = min(os.sched_getaffinity(0))
    placed = one.function(cpus_and_threads, policy=Policy(cpu_affinity=[cpu]))
    assert placed.run(LIMIT_S)[0] == 1
    assert one.function(cpus_and_threads).run(LIMIT_S) == usual


def test_threads_of_libraries(one: Batch) -> None:
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    limited = one.function(cpus_and_threads, policy=Policy(threads=3))
    assert limited.run(LIMIT_S)[1] == "3"


def test_gpus(one: Batch) -> None:
    inside = one.function(alamo_mpi.gpus).run(LIMIT_S)
    assert inside == one.function(alamo_mpi.gpus, isolate=False).run(LIMIT_S)
