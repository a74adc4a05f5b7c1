"""What a batch meets outside of its own program: ``__main__``, other programs, no program."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow


def run(tmp_path: Path, source: str, *, nranks: int, module: bool = True) -> Run:
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(source))
    way = ["-m", "alamo_mpi"] if module else []
    finished = mpirun(nranks, [*way, str(app)], cwd=tmp_path)
    finished.check_clean()
    return finished


MAIN = """\
    from dataclasses import dataclass
    from alamo_mpi import Batch

    OFFSET = 40

    @dataclass
    class Point:
        x: int

        def moved(self, by):
            return Point(self.x + by)

    class Trouble(Exception):
        pass

    def helper(x):
        return OFFSET + x

    def call(x):
        return helper(x)

    def trouble(text):
        raise Trouble(text)

    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    with Batch() as batch:
        assert batch.function(call, 2).run() == 42
        OFFSET = 50
        assert batch.function(call, 2).run() == 52
        assert batch.function(factorial, 10).run() == 3628800
        assert batch.function(Point(1).moved, 2).run() == Point(3)
        one = batch.function(Point, 1)
        two = batch.function(Point.moved, one, 4)
        batch.compile([one, two]).run()
        assert two.result.get() == Point(5)
        try:
            batch.function(trouble, "in main").run()
        except Trouble as error:
            assert error.args == ("in main",)
        else:
            raise AssertionError("nothing was raised")
    print("ALL RIGHT")
    """


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("nranks", [1, 3])
def test_functions_and_classes_of_the_main_program(
    tmp_path: Path, nranks: int, module: bool
) -> None:
    finished = run(tmp_path, MAIN, nranks=nranks, module=module)
    assert (finished.rc, finished.stdout) == (0, "ALL RIGHT\n"), finished


OUTLIVED = """\
    from mpi4py import MPI
    import alamo_mpi
    from alamo_mpi import Batch, TaskStateError

    with alamo_mpi.serve(MPI.COMM_WORLD):
        batch = Batch()
        done = batch.function(pow, 2, 5)
        late = batch.function(pow, 2, 6)
        assert done.run() == 32
        batch.close()
        batch.join()
        other = Batch()
    if MPI.COMM_WORLD.rank == 0:
        assert done.result.get() == 32
        for task in (late, other.function(pow, 2, 7)):
            try:
                task.start()
            except TaskStateError as error:
                print("refused:", error)
    with alamo_mpi.serve(MPI.COMM_WORLD):
        with Batch() as fresh:
            try:
                fresh.function(abs, done)
            except ValueError as error:
                print("refused:", error)
            assert fresh.function(pow, 2, 8).run() == 256
    if MPI.COMM_WORLD.rank == 0:
        print("ALL RIGHT")
    """


@pytest.mark.parametrize("nranks", [1, 3])
def test_a_batch_that_has_outlived_its_program(tmp_path: Path, nranks: int) -> None:
    finished = run(tmp_path, OUTLIVED, nranks=nranks, module=False)
    assert finished.rc == 0, finished
    lines = finished.stdout.splitlines()
    assert lines[-1] == "ALL RIGHT", finished
    assert [line.startswith("refused:") for line in lines[:-1]] == [True] * 3, finished
    assert "left at the end of the program" in finished.stderr, finished
