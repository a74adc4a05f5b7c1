"""The shell scripts' plain sentences, and the check for what a test run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support import leftovers

ROOT = Path(__file__).resolve().parents[2]


def bash(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def old_python(folder: Path) -> Path:
    """Make an interpreter that says that it is Python 3.8."""
    script = folder / "python3.8"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "sys.version_info = (3, 8, 20, 'final', 0)\n"
        "exec(sys.argv[2])\n"
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "tests/run.sh"])
def test_a_python_that_is_too_old_is_named_with_its_version(script: str, tmp_path: Path) -> None:
    old = old_python(tmp_path)
    done = bash(script, PYTHON=str(old))
    assert done.returncode == 1
    assert f"PYTHON={old} is Python 3.8.20" in done.stderr
    assert "needs 3.10 or newer" in done.stderr


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "tests/run.sh"])
def test_a_python_that_is_not_there_is_named(script: str) -> None:
    done = bash(script, PYTHON="/no/such/python3")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python3 is not a program" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["launch/quickstart.sh", "--fast"], {}, "usage:"),
        (["tests/run.sh", "everything"], {}, "no part 'everything'; there are: lint unit"),
        (["tests/run.sh", "lint"], {"MPIS": "lam"}, "mpich, openmpi or both"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], env: dict[str, str], says: str
) -> None:
    done = bash(*arguments, **env)
    assert done.returncode == 1
    assert says in done.stderr


def test_what_quickstart_runs_exists() -> None:
    text = (ROOT / "launch" / "quickstart.sh").read_text()
    assert "examples/matrix_powers_files.py" in text
    assert (ROOT / "examples" / "matrix_powers_files.py").is_file()


# ------------------------------------------------------------------------------ leftovers


@pytest.mark.parametrize("suffix", ["", "/inner"])
def test_a_marked_process_is_found_while_it_lives(suffix: str) -> None:
    mark = uuid.uuid4().hex
    env = {**os.environ, leftovers.ENVIRONMENT_NAME: mark + suffix}
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is running Python now, not this process's copy
        assert set(leftovers.marked_processes(mark)) == {process.pid}
        assert leftovers.marked_processes(mark[:-1]) == {}
        process.communicate(b"\n")
    assert leftovers.marked_processes(mark) == {}


def test_a_shared_file_is_leaked_once_nobody_has_it_open() -> None:
    path = leftovers.SHARED_MEMORY / f"alamo-test-{uuid.uuid4().hex}"
    before = leftovers.shared_files()
    with path.open("w"):
        assert str(path) not in leftovers.leaked_files(before)
    try:
        assert str(path) in leftovers.leaked_files(before)
    finally:
        path.unlink()
    assert str(path) not in leftovers.leaked_files(before)
