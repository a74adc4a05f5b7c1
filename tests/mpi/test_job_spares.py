"""The spare of a worker: the process that waits for its next rank of a job."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from alamo_mpi import Batch, Policy
from alamo_mpi.runtime.jobsite import here
from tests.mpi.gates import LIMIT_S, on_each_worker, wait_until

PMI = Policy(launch="pmi")


def spare() -> int | None:
    """Return the number of this worker's spare, if there is one."""
    process = here()._spare
    return None if process is None else process.pid


def spare_in_time() -> int:
    wait_until(spare, "for a spare")
    pid = spare()
    assert pid is not None
    return pid


def test_each_worker_of_a_job_gets_a_spare_which_the_next_job_takes(
    batch: Batch, tmp_path: Path, nworkers: int
) -> None:
    batch.job("true", (), nworkers, policy=PMI).run(LIMIT_S)
    spares: Sequence[int] = on_each_worker(batch, tmp_path, spare_in_time)
    shell = ("-c", "echo $PPID")
    job = batch.job("sh", shell, nworkers, policy=PMI)
    assert job.run(LIMIT_S) == [0] * nworkers
    assert {int(line.split()[1]) for line in job.stdout.get().splitlines()} == set(spares)


def children() -> set[str]:
    """Return the numbers of this process's children."""
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(entry)
    return found


def looks_ahead_on_many_threads() -> tuple[int, bool]:
    site = here()
    spare_in_time()
    with site._starting:
        # Due once more, if the job began while the spare that it did not get was being started.
        site._spare_due = None
        old, site._spare = site._spare, None
    assert old is not None
    assert old.stdin is not None
    old.stdin.close()
    old.wait(LIMIT_S)
    before, barrier = children(), threading.Barrier(8)

    def look() -> None:
        barrier.wait(LIMIT_S)
        site.look_ahead()

    threads = [threading.Thread(target=look) for _ in range(barrier.parties)]
    for thread in threads:
        thread.start()
    # The service thread of the worker looks, too.
    site._spare_due = 0.0
    for thread in threads:
        thread.join()
    spare_in_time()
    return len(children() - before), site._spare_due is None


def test_threads_that_look_at_the_same_time_start_one(batch: Batch, nworkers: int) -> None:
    batch.job("true", (), nworkers, policy=PMI).run(LIMIT_S)
    assert batch.function(looks_ahead_on_many_threads).run(LIMIT_S) == (1, True)


def put_off() -> bool:
    """Tell whether a job that begins here puts off a spare that is due, and does not make it."""
    site = here()
    spare_in_time()
    with site._starting:
        site._spare_due = None  # see above
    site._put_off_spare()
    none_wanted = site._spare_due
    site._spare_due = far = 1e12
    site._put_off_spare()
    due, site._spare_due = site._spare_due, None
    return none_wanted is None and due is not None and due < far


def test_a_job_that_begins_puts_the_spare_off(batch: Batch, nworkers: int) -> None:
    batch.job("true", (), nworkers, policy=PMI).run(LIMIT_S)
    assert batch.function(put_off).run(LIMIT_S)
