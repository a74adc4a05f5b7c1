"""A task that waits for its next attempt keeps no program from ending."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow


HELD = """\
    import sys
    import alamo_mpi

    def fails():
        raise ValueError("no luck")

    batch = alamo_mpi.Batch()
    task = batch.function(fails, retries=1, retry_delay=1200, retry_on=ValueError)
    task.start()
    batch._manager.drive(lambda: len(task.attempts) == 1, 60)
    print("READY", task.attempts[0].error, flush=True)
    """


def run(tmp_path: Path, nranks: int, last: str) -> Run:
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(HELD) + last)
    done = mpirun(nranks, [str(app)], cwd=tmp_path)
    done.check_clean()
    assert "READY no luck" in done.stdout, str(done)
    return done


@pytest.mark.parametrize("nranks", [0, 3])
@pytest.mark.parametrize(
    ("last", "rc"),
    [("", 0), ("sys.exit(3)\n", 3), ("raise KeyError\n", 1), ("batch.terminate()\n", 0)],
)
def test_the_program_ends(tmp_path: Path, nranks: int, last: str, rc: int) -> None:
    done = run(tmp_path, nranks, last)
    assert done.rc == rc, str(done)


def test_a_standstill_report_says_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALAMO_STALL_TIMEOUT", "0.5")
    wait = """
import glob, time
until = time.monotonic() + 60
while not glob.glob("alamo-stall-*.txt") and time.monotonic() < until:
    time.sleep(0.01)
batch.terminate()
"""
    done = run(tmp_path, 3, wait)
    assert done.rc == 0, str(done)
    (report,) = tmp_path.glob("alamo-stall-*.txt")
    assert "'fails' has failed, and attempt 2 begins in 1" in report.read_text()
