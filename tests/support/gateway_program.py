"""A program whose tasks start programs that are no ranks; started by tests and by hand.

mpiexec -n 2 python -m alamo_mpi tests/support/gateway_program.py PART FOLDER
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import alamo_mpi
from alamo_mpi import Batch, DDict
from alamo_mpi.runtime.backoff import Backoff
from tests.support.mpirun import ROOT

LIMIT_S = 60.0
#: Tests of queues that look into the rank's own pool; and one that wants to be told of a destroyed
#: queue before it is used.
NEEDS_A_RANK = (
    "bad_arguments_are_refused",
    "destroyed_queue_refuses_everything",
    "item_larger_than_all_memory_is_refused_and_nothing_is_lost",
    "stats_and_placement",
    "thousand_queues",
)


kept: list[Batch] = []


def command(d: DDict[Any, Any], folder: str, part: str, *rest: str) -> list[str]:
    """Return what starts a part of `attached.py`; in a task."""
    path = Path(folder, f"{part}-{os.getpid()}.pickle")
    path.write_bytes(pickle.dumps(d))
    return [sys.executable, str(ROOT / "tests/support/attached.py"), part, str(path), *rest]


def run(d: DDict[Any, Any], folder: str, part: str, *rest: str) -> None:
    argv = command(d, folder, part, *rest)
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{part}: {done.returncode} {done.stderr}"


def conform() -> None:
    """Run the suites of mappings and queues in a process that is no rank."""
    options = ["-q", "--noconftest", "-p", "no:cacheprovider"]
    skipped = [f"--deselect=tests/mpi/test_queue.py::test_{name}" for name in NEEDS_A_RANK]
    files = ["tests/mpi/test_ddict_mapping.py", "tests/mpi/test_queue.py"]
    argv = [sys.executable, "-m", "pytest", *options, *skipped, *files]
    # Only tests import what would start MPI.
    env = {**os.environ, "MPI4PY_RC_INITIALIZE": "0", "MPI4PY_RC_FINALIZE": "0"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"


def fork(d: DDict[Any, Any]) -> int | None:
    """Use a dictionary in a forked child of a rank."""
    child = multiprocessing.get_context("fork").Process(target=d.fetch_add, args=("forked",))
    child.start()
    child.join(LIMIT_S)
    return child.exitcode


def lose(d: DDict[Any, Any], folder: str) -> int:
    """Kill an attached process while it waits; return how many of its threads stay here."""
    child = subprocess.Popen(command(d, folder, "outlive", os.devnull))
    assert d.wait_for("waiting", timeout=LIMIT_S) == child.pid
    child.kill()
    child.wait(LIMIT_S)
    backoff = Backoff()
    while (count := connections()) and backoff.waited_s < LIMIT_S:
        backoff.pause()
    return count


def connections() -> int:
    return sum(thread.name.startswith("alamo-gateway-") for thread in threading.enumerate())


def leave_behind(d: DDict[Any, Any], folder: str, part: str) -> None:
    """Start a process that waits for ever, and do not wait for it."""
    argv = command(d, folder, part, str(Path(folder, "log")))
    subprocess.Popen(argv, start_new_session=True)


def leave_tasks(folder: str) -> None:
    """End the program while an attached process waits for its tasks."""
    batch = Batch()
    kept.append(batch)  # up to the end
    d: DDict[Any, Any] = DDict()
    batch.function(leave_behind, d, folder, "outlive_tasks").run()
    d.wait_for("waiting", timeout=LIMIT_S)
    print("tasks ok", flush=True)


def main(part: str, folder: str) -> None:
    if part == "tasks":
        leave_tasks(folder)
        return
    with Batch() as batch:
        d: DDict[Any, Any] = DDict()
        d["from the task"] = "hello"
        with alamo_mpi.attach() as attachment:  # a rank: nothing happens
            assert attachment.rank == 0
        if part == "all":
            for name in "use", "queue", "attach_and_detach", "attach_by_hand", "say_rubbish":
                batch.function(run, d, folder, name).run()
            tasks = [batch.function(run, d, folder, "count") for _ in range(2)]
            batch.compile([*tasks, batch.function(fork, d)]).run()
            assert d["n"] == 2 * 5 * 50
            assert d["forked"] == 1
            batch.function(run, d, folder, "descend", "1").run()
            assert (d["generations"], d["spawned"]) == (2, 2)
            assert batch.function(lose, d, folder).run() == 0
            if os.getuid() == 0:
                batch.function(run, d, folder, "as_nobody").run()
        elif part == "conform":
            batch.function(conform).run()
        else:
            batch.function(leave_behind, d, folder, "outlive").run()
            d.wait_for("waiting", timeout=LIMIT_S)
            print("waiting", flush=True)
            if part == "killed":
                signal.pause()
    print(f"{part} ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
