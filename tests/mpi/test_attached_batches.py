"""Batches in processes that are no ranks: programs, children, and ranks of jobs."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import alamo_mpi
from alamo_mpi import Batch, DDict, Queue
from alamo_mpi.runtime.manager import Manager
from tests.mpi.gates import LIMIT_S, wait_until
from tests.support import attached_batches as program


@pytest.fixture(autouse=True)
def no_connection_left(nothing_left: None) -> Iterator[None]:
    """Let the threads of connections see that their processes have ended, which they have."""
    before = set(threading.enumerate())  # with those of the processes of isolated tasks, which stay
    yield
    wait_until(lambda: not connections() - before)


def connections() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("alamo-gateway-")}


def on_rank(batch: Batch, part: str, folder: Path, *arguments: Any) -> Any:
    return batch.function(program.run, part, folder, *arguments).run(LIMIT_S)


def test_a_program_of_a_task_uses_a_batch_of_its_own(batch: Batch, tmp_path: Path) -> None:
    assert on_rank(batch, "use", tmp_path, tmp_path) == "used"


def test_a_program_of_the_main_program_does(
    nothing_left: None, tmp_path: Path, alone: bool
) -> None:
    assert program.run("use", tmp_path, tmp_path) == "used"


def test_programs_use_the_batch_that_they_were_given(batch: Batch, tmp_path: Path) -> None:
    assert program.run("callbacks", tmp_path, batch) == "called"
    assert on_rank(batch, "callbacks", tmp_path, batch) == "called"


def test_batches_go_by_dictionaries_and_queues(batch: Batch, tmp_path: Path) -> None:
    with DDict[Any, Any]() as d, Queue[Any]() as q:
        assert on_rank(batch, "shared", tmp_path, batch, d, q) == "[25, 36]"


def test_threads_of_an_attached_process(batch: Batch, tmp_path: Path) -> None:
    threads, count = 4, 15
    total = sum(x * x for x in range(threads * count)) + threads * sum(x * x for x in range(count))
    tasks = [batch.function(program.run, "from_threads", tmp_path, batch, threads, count)] * 1
    tasks.append(batch.function(program.run, "from_threads", tmp_path, batch, threads, count))
    batch.compile(tasks).run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [str(total)] * 2


def test_children_of_an_attached_process(batch: Batch, tmp_path: Path) -> None:
    with DDict[Any, Any]() as d:
        assert on_rank(batch, "in_children", tmp_path, batch, d) == "children"


def lose(folder: Path, batch: Batch, q: Queue[Any], how: int) -> None:
    """Start a program and kill it while it waits for its tasks."""
    started = program.start("wait_in_vain", folder, batch, q, True)
    try:
        with alamo_mpi.waiting():  # its tasks may have this worker until they are cancelled
            assert q.get(timeout=LIMIT_S) == started.pid
            os.kill(started.pid, how)
            started.wait(LIMIT_S)
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_lost_process_has_left_is_cancelled(
    batch: Batch, tmp_path: Path, how: int, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    others = {*manager.desk._held, *((rank, 0) for rank in range(9))}
    with Queue[Any]() as q, caplog.at_level(logging.WARNING):
        batch.function(lose, tmp_path, batch, q, how).run(LIMIT_S)
        assert manager.drive(lambda: not manager.desk.clients, LIMIT_S)
        assert manager.drive(lambda: not batch._live.submissions, LIMIT_S)
        assert batch.function(program.square, 4).run() == 16
    assert "has ended without closing Batch" in caplog.text
    assert "that it had started are cancelled" in caplog.text
    assert not manager.desk._held.keys() - others


def test_what_a_process_left_open_at_its_end_goes_on(batch: Batch, tmp_path: Path) -> None:
    path = tmp_path / "nap"
    assert on_rank(batch, "leave_open", tmp_path, batch, path) == "left"
    batch.close()
    batch.join(LIMIT_S)
    assert path.read_text() == "done"


def stop_for_a_while(folder: Path, batch: Batch, q: Queue[Any], count: int) -> str:
    """Stop a program while its results arrive; the rank goes on."""
    started = program.start("read_late", folder, batch, q, count)
    with alamo_mpi.waiting():
        assert q.get(timeout=LIMIT_S) == started.pid
    os.kill(started.pid, signal.SIGSTOP)
    try:
        with Queue[int]() as other:  # all that this rank has to do meanwhile, it does
            inner = Batch()
            tasks = [inner.function(program.square, x) for x in range(50)]
            inner.compile(tasks).run(LIMIT_S)
            other.put(tasks[7].result.get())
            assert other.get() == 49
            inner.close()
    finally:
        os.kill(started.pid, signal.SIGCONT)
    return program.finish(started)


def test_a_client_that_does_not_read_holds_up_nobody(batch: Batch, tmp_path: Path) -> None:
    count = 100  # 6 MB; a socket holds some 200 KB
    with Queue[Any]() as q:
        task = batch.function(stop_for_a_while, tmp_path, batch, q, count)
        assert task.run(LIMIT_S) == str(60_000 * count)


def test_after_detaching(batch: Batch, tmp_path: Path) -> None:
    assert on_rank(batch, "detach", tmp_path, batch) == "detached"


def test_a_program_of_a_process_task(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    if nworkers == 1:
        pytest.skip("needs a second worker: the task keeps its own")
    arguments = tmp_path / "none"
    arguments.write_bytes(pickle.dumps(()))
    argv = [sys.executable, program.__file__, "attach_first", str(arguments)]
    env = {**os.environ, "PYTHONPATH": str(program.ROOT)}  # this rank's gateway with it
    task = batch.process(argv, env=env)
    assert task.run(LIMIT_S) == 0, task.stderr.get()
    assert task.stdout.get() == "81\n"


def through_job(batch: Batch, x: int) -> int:
    from mpi4py import MPI

    value: int = batch.function(program.square, x + MPI.COMM_WORLD.rank).run(LIMIT_S)
    batch.close()
    return MPI.COMM_WORLD.allreduce(value)


def test_ranks_of_a_job(batch: Batch, nworkers: int) -> None:
    if nworkers == 1:
        pytest.skip("needs a second worker: the job keeps its own")
    width = nworkers - 1
    total = sum((5 + rank) ** 2 for rank in range(width))
    assert batch.job(through_job, (batch, 5), width).run(LIMIT_S) == [total] * width


def test_a_terminated_batch_tells_its_process(batch: Batch, tmp_path: Path) -> None:
    with Queue[Any]() as q:
        started = program.start("wait_in_vain", tmp_path, batch, q, False)
        try:
            assert q.get(timeout=LIMIT_S) == started.pid
            batch.terminate()
            assert program.finish(started) == "cancelled"
        finally:
            started.kill()
            started.communicate()


def keep_the_worker(folder: Path, batch: Batch) -> str:
    """Wait for a program without giving the worker away; return its log."""
    started = program.start("wait_for_a_held_worker", folder, batch)
    try:
        out, log = started.communicate(timeout=LIMIT_S)
    finally:
        started.kill()
    assert (started.returncode, out) == (0, "held\n"), log
    return log


def test_who_waits_for_a_worker_that_waits_for_it_says_so(
    batch: Batch, tmp_path: Path, nworkers: int
) -> None:
    tasks = [batch.function(keep_the_worker, tmp_path, batch) for _ in range(nworkers)]
    batch.compile(tasks).run(2 * LIMIT_S)
    logs = [task.result.get() for task in tasks]
    assert all("none of its 1 tasks in Batch" in log for log in logs), logs
    assert all("held by 'keep_the_worker' on rank" in log for log in logs), logs


def count_output(how: bool) -> int:
    """Let another task print while this one waits outside of the package."""
    print("before")
    if how:
        with alamo_mpi.waiting(), alamo_mpi.waiting():  # the second does nothing
            time.sleep(0.2)
    print("after")
    return 7


def test_waiting_lets_others_run_and_keeps_their_output_apart(
    batch: Batch, nworkers: int, tmp_path: Path
) -> None:
    tasks = [batch.function(count_output, how) for how in [True] * nworkers + [False] * 6]
    batch.compile(tasks).run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [7] * len(tasks)
    assert {task.stdout.get() for task in tasks} == {"before\nafter\n"}
    with alamo_mpi.waiting():  # outside of tasks it does nothing
        assert batch.function(program.square, 3).run() == 9
