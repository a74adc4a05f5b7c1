"""How programs end whose tasks are clients: closed or not, waiting or not."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow


def run(tmp_path: Path, source: str, *, nranks: int) -> Run:
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(source))
    finished = mpirun(nranks, ["-m", "alamo_mpi", str(app)], cwd=tmp_path)
    finished.check_clean()
    return finished


UNCLOSED = """\
    import sys
    from alamo_mpi import Batch, DDict

    def square(x):
        return x * x

    def keep(batch):
        sys.kept = batch                        # a client that nobody closes
        return batch.function(square, 3).run()

    def use_kept():
        try:
            sys.kept.function(square, 4).run()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def leave_work(d):
        inner = Batch()                         # never closed, its task not waited for
        inner.function(d.wait_for, "never").start()

    with DDict() as d, Batch(num_workers=1) as batch:
        assert batch.function(keep, batch).run() == 9
        print(batch.function(use_kept).run())
        assert batch.function(leave_work, d).run() is None
        assert batch.function(square, 5).run() == 25
    print("JOINED")
    """


@pytest.mark.parametrize("nranks", [1, 3])
def test_clients_of_tasks_that_are_not_closed_keep_nobody(tmp_path: Path, nranks: int) -> None:
    finished = run(tmp_path, UNCLOSED, nranks=nranks)
    assert finished.rc == 0, finished
    refused, joined = finished.stdout.splitlines()
    assert refused.startswith("TaskStateError: This Batch is closed"), finished
    assert joined == "JOINED"
    if nranks > 1:  # on one rank a warning may count as output of the task that runs
        assert "Batch 2 was dropped without close() and join()" in finished.stderr, finished
        assert "1 unfinished tasks are cancelled" in finished.stderr, finished


OPEN_COPY = """\
    from alamo_mpi import Batch

    def echo(thing):
        return thing

    batch = Batch()
    copy = batch.function(echo, batch).run()
    batch.close()
    try:
        batch.join(timeout=0.05)
    except TimeoutError as error:
        print(error)
    """


@pytest.mark.parametrize("nranks", [1, 3])
def test_a_copy_that_is_never_closed(tmp_path: Path, nranks: int) -> None:
    """The program ends, and says which batch was left open, by whom."""
    finished = run(tmp_path, OPEN_COPY, nranks=nranks)
    assert finished.rc == 0, finished
    assert "Batch 1 is not done after 0.05 s" in finished.stdout, finished
    warning = "Batch 1 was left at the end of the program by a client on rank 0"
    assert warning in finished.stderr, finished


END = """\
    import sys
    from alamo_mpi import Batch, DDict

    def wait(batch, d):
        d["waiting"] = True
        return batch.function(d.wait_for, "never").run()

    d = DDict()
    batch = Batch()
    for _ in range(4):
        batch.function(wait, batch, d).start()
    d.wait_for("waiting")
    {end}
    """


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise RuntimeError('a bad end')", 1)]
)
@pytest.mark.parametrize("nranks", [1, 3])
def test_the_program_ends_while_tasks_wait(
    tmp_path: Path, nranks: int, end: str, status: int
) -> None:
    finished = run(tmp_path, END.format(end=end), nranks=nranks)
    assert finished.rc == status, finished
    assert finished.seconds < 15, finished
    if nranks > 1:  # on one rank the traceback may count as output of the task that runs
        assert ("a bad end" in finished.stderr) == (status == 1), finished


FIBONACCI = """\
    from alamo_mpi import Batch

    def fib(batch, n):
        if n < 2:
            return n
        one, two = batch.function(fib, batch, n - 1), batch.function(fib, batch, n - 2)
        one.start()
        two.start()
        return one.result.get() + two.result.get()

    with Batch() as batch:
        print(batch.num_workers, batch.function(fib, batch, 14).run())
    """


def test_a_recursion_of_a_thousand_tasks_on_two_workers(tmp_path: Path) -> None:
    finished = run(tmp_path, FIBONACCI, nranks=3)
    assert (finished.rc, finished.stdout) == (0, "2 377\n"), finished
