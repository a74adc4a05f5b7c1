"""The ways to start a program, each by a real launcher: who runs what, with which arguments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.mpirun import Run, Started, launcher, mpirun

pytestmark = pytest.mark.slow

#: Tells everything about its process that a program can see, then uses a worker.
APP = """\
    import json, os, sys
    import alamo_mpi
    import beside

    def where():
        import beside
        return beside.NAME, os.getpid()

    if __name__ == "__main__":
        before = [name for name in sys.modules if name.startswith("mpi4py")]
        with alamo_mpi.Batch() as batch:
            name, pid = batch.function(where).run()
        size = alamo_mpi.init().world.size
        print("SEEN", json.dumps({
            "size": size, "argv": sys.argv, "file": __file__, "path": sys.path[0],
            "main": sys.modules["__main__"].__dict__ is globals(), "spec": __spec__ is not None,
            "package": __package__, "beside": name, "own": pid == os.getpid(),
            "doc": __doc__, "builtins": hasattr(__builtins__, "len") or "len" in __builtins__,
        }))
    """

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def app(write: Write) -> Path:
    write("app/beside.py", "NAME = 'module beside the program'\n")
    return write("app/app.py", APP)


def seen(run: Run) -> dict[str, Any]:
    """Return what `APP` told, after checking that it ran once and left nothing."""
    run.check_clean()
    assert run.rc == 0, str(run)
    told = [line for line in run.stdout.splitlines() if line.startswith("SEEN ")]
    assert len(told) == 1, str(run)
    result: dict[str, Any] = json.loads(told[0].removeprefix("SEEN "))
    assert result["beside"] == "module beside the program"
    assert result["main"]
    assert result["builtins"]
    return result


def test_module_with_script(app: Path, tmp_path: Path) -> None:
    result = seen(mpirun(3, ["-m", "alamo_mpi", str(app), "-n", "x", "--y"], cwd=tmp_path))
    assert result["size"] == 3
    assert result["argv"] == [str(app), "-n", "x", "--y"]
    assert result["file"] == str(app)
    assert result["path"] == str(app.parent)
    assert not result["own"]
    assert (result["spec"], result["package"]) == (False, None)


def test_module_with_a_relative_script(app: Path) -> None:
    result = seen(mpirun(2, ["-m", "alamo_mpi", "app.py"], cwd=app.parent))
    assert result["argv"] == ["app.py"]
    assert result["file"] == str(app)
    assert result["path"] == str(app.parent)


def test_module_with_module(app: Path) -> None:
    result = seen(mpirun(2, ["-m", "alamo_mpi", "-m", "app", "1"], cwd=app.parent))
    assert result["argv"] == [str(app), "1"]
    assert (result["spec"], result["package"]) == (True, "")


def test_module_with_package(app: Path, write: Write) -> None:
    write("pkg/__init__.py", "")
    write("pkg/__main__.py", APP)
    shutil.copy(app.parent / "beside.py", app.parent.parent)
    run = mpirun(2, ["-m", "alamo_mpi", "-m", "pkg", "1"], cwd=app.parent.parent)
    assert seen(run)["package"] == "pkg"


def test_module_with_directory_and_zip(app: Path, tmp_path: Path) -> None:
    folder = app.parent
    shutil.copy(app, folder / "__main__.py")
    assert seen(mpirun(2, ["-m", "alamo_mpi", str(folder)]))["path"] == str(folder)
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("__main__.py", "beside.py"):
            file.write(folder / name, name)
    assert seen(mpirun(2, ["-m", "alamo_mpi", str(archive)]))["path"] == str(archive)


def test_script_under_the_launcher(app: Path) -> None:
    result = seen(mpirun(3, [str(app), "1"]))
    assert (result["size"], result["own"]) == (3, False)
    assert result["argv"] == [str(app), "1"]


def test_other_ranks_stop_at_the_first_service(write: Write) -> None:
    path = write(
        "app.py",
        """\
        import sys
        import alamo_mpi
        from alamo_mpi.mpi.world import MPI

        def say(*words):
            sys.stdout.write(" ".join(map(str, words)) + "\\n")

        say("BEFORE", MPI.COMM_WORLD.rank)
        try:
            alamo_mpi.init()
        except SystemExit as leaving:
            say("LEAVES", leaving.code)
            try:
                alamo_mpi.init()
            except SystemExit as again:
                say("AGAIN", again.code)
            raise
        say("AFTER", MPI.COMM_WORLD.rank, alamo_mpi.init() is alamo_mpi.init())
        """,
    )
    run = mpirun(3, [str(path)])
    run.check_clean()
    assert run.rc == 0, str(run)
    assert sorted(run.stdout.splitlines()) == [
        *("AFTER 0 True", "AGAIN 0", "AGAIN 0", "BEFORE 0", "BEFORE 1", "BEFORE 2"),
        *("LEAVES 0", "LEAVES 0"),
    ], str(run)


@pytest.mark.parametrize("command", [["-m", "alamo_mpi"], ["-m", "alamo_mpi.cli", "run"]])
def test_minus_n_finds_the_launcher(command: list[str], app: Path) -> None:
    result = seen(mpirun(0, [*command, "-n", "3", str(app), "-n", "5"]))
    assert (result["size"], result["own"]) == (3, False)
    assert result["argv"] == [str(app), "-n", "5"]


def test_minus_n_keeps_the_options_of_python(write: Write) -> None:
    path = write("app.py", "import sys\nprint('OPTIONS', sys.warnoptions, sys.flags.dev_mode)\n")
    run = mpirun(
        0, ["-X", "dev", "-W", "error::UserWarning", "-m", "alamo_mpi", "-n", "2", str(path)]
    )
    run.check_clean()
    assert "OPTIONS ['default', 'error::UserWarning'] True" in run.stdout, str(run)


def test_minus_n_under_a_launcher_is_refused(app: Path) -> None:
    run = mpirun(2, ["-m", "alamo_mpi", "-n", "2", str(app)])
    run.check_clean()
    assert run.rc != 0
    assert run.stderr.count("leave -n to the outer command") == 1, str(run)


def test_minus_n_without_a_launcher(app: Path) -> None:
    run = mpirun(0, ["-m", "alamo_mpi", "-n", "2", str(app)], env={"MPIEXEC": "/no/mpiexec"})
    assert run.rc == 1
    assert "/no/mpiexec cannot be started" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("command", [[], ["-m", "alamo_mpi"]])
def test_one_rank_without_a_launcher(command: list[str], app: Path) -> None:
    result = seen(mpirun(0, [*command, str(app)]))
    assert (result["size"], result["own"]) == (1, True)


def test_one_rank_says_how_to_get_more(write: Write) -> None:
    path = write(
        "app.py",
        """\
        import logging
        logging.basicConfig(level=logging.INFO)
        import alamo_mpi
        alamo_mpi.init()
        """,
    )
    run = mpirun(0, [str(path)])
    run.check_clean()
    assert run.stderr.count("python -m alamo_mpi -n N app.py") == 1, str(run)


@pytest.mark.parametrize("command", [[], ["-m", "alamo_mpi"]])
def test_separate_programs_are_refused(command: list[str], app: Path) -> None:
    """The launcher of another MPI starts N programs that know nothing of each other."""
    name = "OMPI_COMM_WORLD_SIZE" if launcher().family == "MPICH" else "PMI_SIZE"
    run = mpirun(0, [*command, str(app)], env={name: "3"})
    run.check_clean()
    assert run.rc == 1
    assert "3 separate programs of one rank" in run.stderr
    assert run.stderr.count("Traceback") == (0 if command else 1)
    assert "SEEN" not in run.stdout


@pytest.mark.parametrize("command", [[], ["-m", "alamo_mpi"]])
def test_an_error_of_all_ranks_is_told_once(command: list[str], app: Path) -> None:
    run = mpirun(3, [*command, str(app)], env={"ALAMO_POOL_BYTES": "many"})
    run.check_clean()
    assert run.rc == 1, str(run)
    assert run.stderr.count("'many' is not a number of bytes") == 1, str(run)
    assert run.stderr.count("Traceback") == (0 if command else 1)
    assert "SEEN" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.py"], "there is no file 'missing.py'"),
        (["-m", "missing_module"], "there is no module 'missing_module'"),
        (["-m", "missing_package.module"], "no module 'missing_package.module'"),
        (["folder"], "'folder' has no __main__.py"),
    ],
)
@pytest.mark.parametrize("nranks", [0, 3])
def test_missing_program(nranks: int, arguments: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    run = mpirun(nranks, ["-m", "alamo_mpi", *arguments], cwd=tmp_path)
    run.check_clean()
    assert run.rc == 2, str(run)
    assert run.stderr.count(sentence) == 1, str(run)
    assert "Traceback" not in run.stderr


def test_a_syntax_error_is_shown_once(write: Write) -> None:
    path = write("app.py", "x = (\n")
    run = mpirun(2, ["-m", "alamo_mpi", str(path)])
    run.check_clean()
    assert run.rc == 1
    assert run.stderr.count("SyntaxError") == 1, str(run)
    assert "application.py" not in run.stderr


def test_no_program_is_a_usage_error() -> None:
    run = mpirun(0, ["-m", "alamo_mpi"])
    assert run.rc == 2
    assert "which program?" in run.stderr


@pytest.mark.parametrize("command", [["-m", "alamo_mpi"], ["-m", "alamo_mpi.cli", "run"]])
def test_help_and_version(command: list[str]) -> None:
    assert "mpiexec -n N python -m alamo_mpi app.py" in mpirun(0, [*command, "--help"]).stdout
    assert mpirun(0, [*command, "--version"]).stdout.startswith("alamo_mpi ")
    assert mpirun(0, ["-m", "alamo_mpi.cli", "--version"]).stdout.startswith("alamo_mpi ")
    assert "COMMAND" in mpirun(0, ["-m", "alamo_mpi.cli", "--help"]).stdout


def test_importing_starts_no_mpi() -> None:
    code = (
        "import sys, alamo_mpi\n"
        "from alamo_mpi import Batch, Task, AsyncDict, DataAccess, init, serve\n"
        "from alamo_mpi import CommunicationDomain, CommunicationObject\n"
        "print('mpi4py.MPI' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert run.stdout == "False\n", run.stderr


def test_a_run_past_its_limit_shows_its_stacks(write: Write) -> None:
    """The support of all these tests: a hang is told, with the place, and nothing survives it."""
    path = write("app.py", "import time\ndef stuck():\n    time.sleep(600)\nstuck()\n")
    with Started([sys.executable, str(path)], timeout_s=1.0) as started:
        run = started.finish()
    assert run.timed_out
    assert "in stuck" in run.stderr
    assert started.pids() == []
