"""Programs of process tasks when the program, or a rank of it, ends: nothing outlives it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import Run, start

pytestmark = pytest.mark.slow

#: A program with a child, an orphan and a daemon; it says when all of them are there.
TREE = """\
    import os, signal, sys, time
    from alamo_mpi import Batch

    line = (
        "sleep 1000 & sh -c 'sleep 1000 & true'; "
        "setsid -f sh -c 'touch daemon; exec sleep 1000'; "
        "while [ ! -e daemon ]; do sleep 0.01; done; touch ready; "
    )

    def started():
        while not os.path.exists("ready"):
            time.sleep(0.01)
        print("ready", flush=True)
"""


def run(tmp_path: Path, source: str, nranks: int, *, nlost: int = 0) -> Run:
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(TREE) + textwrap.dedent(source))
    with start(nranks, ["-m", "alamo_mpi", str(app)], cwd=tmp_path) as going:
        going.wait_for("ready")
        finished = going.finish()
    finished.check_clean(nlost=nlost)
    return finished


@pytest.mark.parametrize("nranks", [0, 3])
def test_a_daemon_ends_with_the_program(tmp_path: Path, nranks: int) -> None:
    finished = run(
        tmp_path,
        """
        with Batch() as batch:
            assert batch.process(line, shell=True).run() == 0
            started()
        """,
        nranks,
    )
    assert finished.rc == 0, finished


@pytest.mark.parametrize("end", ["sys.exit(3)", "1 // 0", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_the_program_ends_while_a_program_of_its_runs(tmp_path: Path, end: str) -> None:
    finished = run(
        tmp_path,
        f"""
        batch = Batch()
        task = batch.process(line + "sleep 1000", shell=True)
        task.start()
        started()
        {end}
        """,
        3,
    )
    assert finished.rc != 0, finished


def test_a_killed_worker_takes_its_programs_along(tmp_path: Path) -> None:
    finished = run(
        tmp_path,
        """
        batch = Batch()
        pid = batch.function(os.getpid).run()
        task = batch.process(line + "sleep 1000", shell=True)
        task.start()
        started()
        os.kill(pid, signal.SIGKILL)
        time.sleep(60)
        """,
        2,
        nlost=1,
    )
    assert finished.rc != 0, finished
