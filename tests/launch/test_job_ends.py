"""Programs that end while a job runs, in each way: no process of it, and no file, is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow

HEAD = """
import os, sys, time
from alamo_mpi import Policy
from alamo_mpi import Batch

def stuck(comm):
    if comm.rank == 1:
        raise LookupError("nothing here")
    comm.Barrier()

folder = sys.argv[1]
batch = Batch()

def start(width):
    pmi = Policy(launch="pmi")
    program = f"touch {folder}/$$; exec sleep 600"
    batch.job("sh", ("-c", program), width, policy=pmi).start()
    while len(os.listdir(folder)) < width:
        time.sleep(0.01)
"""

ENDINGS = {
    "error": "start(2); raise ValueError('on purpose')",
    "exit": "start(2); sys.exit(4)",
    "killed": "start(2); os.kill(os.getpid(), 9)",
    "dropped": "start(2); del batch",
}


def run(tmp_path: Path, body: str, nranks: int = 3) -> Run:
    app = tmp_path / "app.py"
    app.write_text(HEAD + body)
    folder = tmp_path / "pids"
    folder.mkdir()
    return mpirun(nranks, ["-m", "alamo_mpi", str(app), str(folder)], timeout_s=60)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_of_a_job_outlives_the_program(tmp_path: Path, ending: str) -> None:
    done = run(tmp_path, ENDINGS[ending])
    assert not done.timed_out, done
    assert not done.survivors, done
    assert len(list((tmp_path / "pids").iterdir())) == 2, done
    if ending == "killed":
        return  # MPI itself leaves files then
    done.check_clean()
    assert done.rc == {"error": 1, "exit": 4, "dropped": 0}[ending], done


def test_a_job_on_ranks_that_nothing_can_wake_ends_the_program(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "batch.job(stuck, (), 2, policy=Policy(launch='ranks')).run()",
    )
    done.check_clean()
    assert done.rc == 1, done
    assert "LookupError: nothing here" in done.stderr, done
    assert "Without launch='ranks'" in done.stderr, done


@pytest.mark.parametrize("end", ["batch.close(); batch.join()", "os.kill(os.getpid(), 9)"])
def test_wrappers_that_wait_for_the_next_job_go_with_the_program(tmp_path: Path, end: str) -> None:
    first = "batch.job('true', num_procs=2, policy=Policy(launch='pmi')).run(); "
    done = run(tmp_path, first + end)
    assert not done.timed_out, done
    assert not done.survivors, done
