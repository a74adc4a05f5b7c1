"""The watchdog: what it writes when nothing moves, and that it stays silent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Write
from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow

#: Seconds after which the watchdog of these runs reports.
STALL_S = "0.5"

#: The program goes on as soon as the report is there, so that no test waits for a time.
PROGRAM = """\
    import ctypes, glob, time
    from pathlib import Path
    import alamo_mpi

    def reported():
        return any(Path(each).stat().st_size for each in glob.glob("alamo-stall-*.txt"))

    def hangs_here():
        while not reported():
            time.sleep(0.01)

    def keeps_the_interpreter():
        Path("kept").touch()
        ctypes.PyDLL(None).sleep(4)

    def square(x):
        return x * x

    with alamo_mpi.Batch() as batch:
        where = Path("out")
        first = batch.function({function}, writes=batch.write(where))
        last = batch.function(square, 3, reads=batch.read(where))
        batch.compile([first, last]).run()
        print("result", last.result.get())
        # On one rank the log of this process is captured while the task runs.
        print(first.stderr.get())
    """


def stall(function: str, write: Write, nranks: int) -> tuple[Run, str]:
    app = write(PROGRAM.replace("{function}", function))
    run = mpirun(
        nranks, ["-m", "alamo_mpi", str(app)], cwd=app.parent, env={"ALAMO_STALL_TIMEOUT": STALL_S}
    )
    run.check_clean()
    assert run.rc == 0, str(run)
    assert "result 9" in run.stdout
    (report,) = app.parent.glob("alamo-stall-*.txt")
    assert (run.stdout + run.stderr).count(str(report)) == 1, str(run)
    assert "Nothing has moved for" in run.stdout + run.stderr
    return run, report.read_text()


@pytest.mark.parametrize("nranks", [1, 3])
def test_a_task_that_hangs(nranks: int, write: Write) -> None:
    """One file has who waits for whom, and where each rank stands in the program."""
    _, report = stall("hangs_here", write, nranks)
    assert "'hangs_here' is the next to end on rank" in report
    assert "'square' waits for task 0 'hangs_here'" in report or "stands behind" in report
    for rank in range(nranks):
        assert f"=== rank {rank} (host " in report
    assert "in hangs_here" in report
    assert "app.py" in report.partition("=== rank 0")[2]


def test_a_task_whose_c_code_keeps_the_interpreter(write: Write) -> None:
    """It cannot answer; its stacks are there all the same."""
    _, report = stall("keeps_the_interpreter", write, 2)
    text = report.partition("=== rank 1")[2]
    assert "does not answer" in text
    assert "in keeps_the_interpreter" in text


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf"])
def test_no_such_timeout(value: str, write: Write) -> None:
    app = write("import alamo_mpi\nalamo_mpi.Batch()\n")
    run = mpirun(2, ["-m", "alamo_mpi", str(app)], env={"ALAMO_STALL_TIMEOUT": value})
    run.check_clean()
    assert run.rc != 0
    assert f"ALAMO_STALL_TIMEOUT='{value}' is no positive number" in run.stderr, str(run)


def test_a_program_that_moves_on_has_no_report(write: Write) -> None:
    app = write(
        """\
        import time
        import alamo_mpi
        with alamo_mpi.Batch() as batch:
            for i in range(20):
                batch.function(time.sleep, 0.1).run()
        """
    )
    env = {"ALAMO_STALL_TIMEOUT": "1.5"}
    run = mpirun(2, ["-m", "alamo_mpi", str(app)], cwd=app.parent, env=env)
    run.check_clean()
    assert (run.rc, run.stderr) == (0, ""), str(run)
    assert not list(Path(app.parent).glob("alamo-stall-*"))
