"""isolate=True: a task in a process of its worker's own; what crashes there harms nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import (
    Batch,
    CancelledError,
    DependencyError,
    TaskTimeoutError,
    WorkerDiedError,
)
from tests.mpi.gates import LIMIT_S, on_each_worker, wait_until
from tests.mpi.isolated import LONG_S, SOON_S, died, is_gone, kills_itself, pids, square


def segfaults() -> None:
    print("before", flush=True)
    ctypes.string_at(0)


def exits(status: int) -> None:
    print("a last word", file=sys.stderr)
    os._exit(status)


def stuck(flag: Path) -> None:
    """Be in one C call that never returns and keeps the interpreter's lock."""
    flag.touch()
    ctypes.PyDLL(None).sleep(int(LONG_S))


def stubborn(flag: Path) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    flag.touch()
    time.sleep(LONG_S)


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


def files_of_the_package() -> tuple[str, str]:
    import alamo_mpi.runtime.cells

    return alamo_mpi.__file__, alamo_mpi.runtime.cells.__file__


def test_it_has_the_package_of_its_worker(one: Batch) -> None:
    inside = one.function(files_of_the_package).run(LIMIT_S)
    assert inside == one.function(files_of_the_package, isolate=False).run(LIMIT_S)


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


def test_programs_and_jobs_are_not_functions(one: Batch) -> None:
    assert one.process(["true"]).run(LIMIT_S) == 0
    assert one.job("true").run(LIMIT_S) == [0]


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


def starts_python_in(folder: str | None) -> str | None:
    before = os.environ.pop("PYTHONPATH", None)
    if folder is not None:
        os.environ["PYTHONPATH"] = folder
    return before


def test_the_limit_begins_when_the_process_is_there(one: Batch, tmp_path: Path) -> None:
    died(one.function(kills_itself))
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(4)\n")
    before = one.function(starts_python_in, str(tmp_path), isolate=False).run(LIMIT_S)
    assert one.function(square, 4, timeout=3.0).run(LIMIT_S) == 16
    one.function(starts_python_in, before, isolate=False).run(LIMIT_S)


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
