"""Programs that tasks start use the ranks' dictionaries; real ones, under the real launcher."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.mpirun import ROOT, Run, mpirun, start

pytestmark = pytest.mark.slow

PROGRAM = ["-m", "alamo_mpi", str(ROOT / "tests" / "support" / "gateway_program.py")]


def check(done: Run, part: str) -> None:
    done.check_clean()
    assert done.rc == 0, done
    assert f"{part} ok" in done.stdout, done
    assert "Traceback" not in done.stderr, done


@pytest.mark.parametrize("nranks", [0, 2, 3])
def test_programs_of_tasks_are_clients(nranks: int, tmp_path: Path) -> None:
    check(mpirun(nranks, [*PROGRAM, "all", str(tmp_path)], timeout_s=120), "all")


def test_an_attached_dictionary_is_a_mapping(tmp_path: Path) -> None:
    check(mpirun(2, [*PROGRAM, "conform", str(tmp_path)], timeout_s=120), "conform")


def log_of(folder: Path) -> str:
    """Return what the process that outlives its program has written, once it has."""
    log = folder / "log"
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return log.read_text() if log.exists() else ""


@pytest.mark.parametrize("nranks", [0, 3])
def test_a_process_that_waits_for_tasks_as_its_program_ends_is_told(
    nranks: int, tmp_path: Path
) -> None:
    done = mpirun(nranks, [*PROGRAM, "tasks", str(tmp_path)])
    assert log_of(tmp_path).startswith("GatewayError: This process is attached to rank")
    if nranks == 0:
        # The tasks run inside the program, and what that prints meanwhile is taken for theirs.
        assert done.rc == 0, done
        done.check_clean()
        return
    check(done, "tasks")
    assert "was left at the end of the program by a process attached to rank" in done.stderr


@pytest.mark.parametrize("nranks", [0, 2])
def test_a_process_that_outlives_its_program_is_told(nranks: int, tmp_path: Path) -> None:
    done = mpirun(nranks, [*PROGRAM, "left", str(tmp_path)])
    assert log_of(tmp_path).startswith("GatewayError: This process is attached to rank")
    check(done, "left")


def test_a_program_that_is_killed_leaves_nothing_and_its_processes_are_told(tmp_path: Path) -> None:
    with start(2, [*PROGRAM, "killed", str(tmp_path)]) as run:
        run.wait_for("waiting")
        for pid in run.pids():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"python" in words[0] and b"alamo_mpi" in words:
                os.kill(pid, signal.SIGKILL)
        done = run.finish()
    assert log_of(tmp_path).startswith("GatewayError: This process is attached to rank")
    assert done.rc != 0
    # All are killed, one after the other: the first may be told as lost, or none.
    done.check_clean(nlost=min(len(done.losses), 1))


SERVE_TWICE = """
import os, threading
from mpi4py import MPI
import alamo_mpi

os.environ["ALAMO_GATEWAY"] = before = "from outside/%s/1-1" % ("0" * 32)
addresses = set()
for _ in range(2):
    with alamo_mpi.serve(MPI.COMM_WORLD):
        addresses.add(os.environ["ALAMO_GATEWAY"])
        alamo_mpi.attach().detach()
    assert os.environ["ALAMO_GATEWAY"] == before
    assert not [t.name for t in threading.enumerate() if t.name.startswith("alamo")]
assert len(addresses - {before}) == (2 if MPI.COMM_WORLD.rank == 0 else 0)
print("serve ok")
"""


def test_a_gateway_ends_with_its_block(tmp_path: Path) -> None:
    program = tmp_path / "host.py"
    program.write_text(SERVE_TWICE)
    done = mpirun(2, [str(program)])
    check(done, "serve")
    assert done.stdout.count("serve ok") == 2


def test_a_child_of_a_rank_cannot_start_mpi_and_says_so(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import subprocess, sys\n"
        "from alamo_mpi import Batch\n"
        "with Batch() as batch:\n"
        f"    command = [{sys.executable!r}, '-c', 'import alamo_mpi; alamo_mpi.init()']\n"
        "    task = batch.function(subprocess.run, command)\n"
        "    print('status', task.run().returncode, task.stderr.get())\n"
    )
    done = mpirun(2, ["-m", "alamo_mpi", str(program)])
    done.check_clean()
    assert "status 1" in done.stdout, done
    assert "TaskStateError: This process was started by a rank of a program" in done.stdout, done
