"""How a warden starts programs: whichever way it takes, as `subprocess` does."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi.runtime.processes import Invocation, _request
from alamo_mpi.runtime.wardship import Wardship

#: Each program is started as an ordinary one, and by what can do everything.
WAYS: list[dict[str, Any]] = [{}, {"umask": 0o22}]


@pytest.fixture(scope="module")
def wardship() -> Iterator[Wardship]:
    made = Wardship()
    yield made
    made.close()


@pytest.fixture(params=WAYS, ids=["ordinary", "special"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = request.param
    return chosen


def run(wardship: Wardship, out: Path, args: list[str], **more: Any) -> int | None:
    request = {"args": args, "env": dict(os.environ), "cpus": None, "preexec": None, **more}
    with open(os.devnull) as null, out.open("wb") as file:
        return wardship.run(request, [null.fileno(), file.fileno(), file.fileno()], 30.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with what a search may meet."""
    (tmp_path / "first" / "tool").mkdir(parents=True)
    for name, mode in {"second": 0o644, "third": 0o755, "fourth": 0o755}.items():
        tool = tmp_path / name / "tool"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\necho {name} $(pwd -P)\n")
        tool.chmod(mode)
    (tmp_path / "plain").write_text("echo no interpreter\n")
    (tmp_path / "plain").chmod(0o755)
    return tmp_path


def test_a_bare_name_is_looked_for_on_the_path_of_the_program(
    wardship: Wardship, folder: Path, way: dict[str, Any]
) -> None:
    path = ":".join(str(folder / name) for name in ("none", "first", "second", "third", "fourth"))
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    out = folder / "out"
    assert run(wardship, out, ["tool"], env=env, cwd=bytes(folder), **way) == 0
    assert out.read_text() == f"third {folder.resolve()}\n"


def test_a_relative_path_starts_where_the_program_does(
    wardship: Wardship, folder: Path, way: dict[str, Any]
) -> None:
    out = folder / "out"
    assert run(wardship, out, ["fourth/tool"], cwd=bytes(folder), **way) == 0
    assert out.read_text() == f"fourth {folder.resolve()}\n"
    # The warden itself stays where it keeps nobody from unmounting anything.
    assert os.readlink(f"/proc/{wardship._process.pid}/cwd") == "/"


def test_a_program_has_three_descriptors_and_a_session(
    wardship: Wardship, tmp_path: Path, way: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    script = "ls /proc/$$/fd; ps -o sid= -o pgid= -p $$ | tr -s ' ' '\n' | grep -cx $$"
    for _ in range(2):
        assert run(wardship, out, ["sh", "-c", script], **way) == 0
        assert out.read_text().split() == ["0", "1", "2", "2"]


def test_signals_that_a_python_ignores_are_restored(
    wardship: Wardship, tmp_path: Path, way: dict[str, Any]
) -> None:
    status = run(wardship, tmp_path / "out", ["sh", "-c", "kill -PIPE $$"], **way)
    assert status == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (["no-such-program"], {}),
        (["none/tool"], {}),
        (["second/tool"], {}),
        (["first"], {}),
        (["./plain"], {}),
        (["true"], {"cwd": b"/no/such/folder"}),
        (["true"], {"env": {"A=B": "c"}}),
        (["true", "nul\0"], {}),
    ],
)
def test_what_cannot_be_started_is_told_as_by_subprocess(
    wardship: Wardship, folder: Path, args: list[str], more: dict[str, Any]
) -> None:
    given = {"cwd": bytes(folder), **more}
    with pytest.raises(Exception) as expected:  # noqa: PT011
        subprocess.Popen(args, **given)
    with pytest.raises(type(expected.value)) as told:
        run(wardship, folder / "out", args, **given)
    assert str(told.value) == str(expected.value)


def test_an_environment_that_is_the_same_travels_once(
    wardship: Wardship, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cwd": None, "env": None}
    invocation = Invocation(["env"], options, None, None, None, None, False, None, None)

    def requested() -> dict[str, Any]:
        return _request(invocation, bytes(tmp_path))

    first = requested()["env"]
    assert requested()["env"] is first
    monkeypatch.setenv("ALAMO_TEST_NEW", "one more")
    assert requested()["env"]["ALAMO_TEST_NEW"] == "one more"
    out = tmp_path / "out"
    for value in ("two", "three"):
        monkeypatch.setenv("ALAMO_TEST_NEW", value)
        for _ in range(2):
            request = requested()
            with open(os.devnull) as null, out.open("wb") as file:
                fds = [null.fileno(), file.fileno(), file.fileno()]
                assert wardship.run(request, fds, 30.0) == 0
            assert f"ALAMO_TEST_NEW={value}\n" in out.read_text()
            assert wardship._sent is request["env"]


def test_after_a_preexec_fn_nothing_that_it_opened_is_inherited(tmp_path: Path) -> None:
    opens = "import os\nkept = os.open('/dev/null', 0)\nos.set_inheritable(kept, True)\n"
    (tmp_path / "opens_a_file.py").write_text(opens + "def prepare(): pass\n")
    # What a pickle of the function by its name looks like.
    pickled = b"copens_a_file\nprepare\n."
    assert pickle.loads(b"cos\ngetpid\n.") is os.getpid
    wardship, out = Wardship(), tmp_path / "out"
    try:
        assert run(wardship, out, ["true"], preexec=(pickled, [str(tmp_path)])) == 0
        assert run(wardship, out, ["sh", "-c", "ls /proc/$$/fd"]) == 0
    finally:
        wardship.close()
    assert out.read_text().split() == ["0", "1", "2"]
