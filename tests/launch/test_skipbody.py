"""`alamo_mpi.skipbody` without MPI: which bodies are skipped, and what is put back."""

from __future__ import annotations

import contextlib
import io
import os
import pdb
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest

from alamo_mpi.skipbody import BodySkipped, SkipBody, check_caller

ROOT = Path(__file__).resolve().parents[2]


class Skipping:
    """Skips its body, as `alamo_mpi.serve` does on a rank that served."""

    def __enter__(self) -> object:
        self._skip = SkipBody(check_caller(sys._getframe(1)))
        return object()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._skip.restore()
        return kind is BodySkipped


@pytest.fixture(autouse=True)
def _same_tracer() -> Iterator[None]:
    before = sys.gettrace()
    yield
    assert sys.gettrace() is before


def test_body_is_skipped_and_the_program_goes_on() -> None:
    ran = []
    with Skipping():
        ran.append("body")
        ran.append("more")
    ran.append("after")
    assert ran == ["after"]


def test_body_on_the_line_of_the_with() -> None:
    ran = []
    with Skipping(): ran.append("body")  # fmt: skip  # noqa: E701
    with Skipping() as alamo: ran.append(alamo)  # fmt: skip  # noqa: E701
    assert ran == []


def test_target_stays_unbound() -> None:
    with Skipping() as alamo:
        pass
    assert "alamo" not in locals()
    with Skipping() as (first, second):  # would fail to unpack if it were bound
        pass
    assert "first" not in locals()


def test_body_that_would_leave_the_block_otherwise() -> None:
    def returns() -> str:
        with Skipping():
            return "body"
        return "after"

    assert returns() == "after"
    seen = []
    for turn in range(3):
        with Skipping():
            break
        with Skipping():
            continue
        seen.append(turn)
    assert seen == [0, 1, 2]


def test_nested_functions_generators_and_loops() -> None:
    def outer() -> list[int]:
        def inner() -> int:
            with Skipping():
                while True:
                    pass
            return 7

        def numbers() -> Iterator[int]:
            with Skipping():
                yield 1
            yield inner()

        return list(numbers())

    assert outer() == [7]


def test_other_managers_of_the_same_with() -> None:
    """Those to the left are entered and left, those to the right are part of the body."""
    left = io.StringIO()
    with left, Skipping(), open("/nonexistent"):
        raise AssertionError
    assert left.closed


def test_skipping_inside_a_body_that_runs() -> None:
    ran = []
    with contextlib.nullcontext():
        with Skipping():
            ran.append("inner")
        ran.append("outer")
    assert ran == ["outer"]


def test_module_level() -> None:
    code = "with Skipping() as alamo:\n    ran.append(1)\nran.append('after')\n"
    scope: dict[str, object] = {"Skipping": Skipping, "ran": []}
    exec(compile(code, "module.py", "exec"), scope)
    assert scope["ran"] == ["after"]
    assert "alamo" not in scope


def test_an_error_behind_the_block_is_not_swallowed() -> None:
    def function() -> None:
        with Skipping():
            raise AssertionError
        raise KeyError("behind")

    with pytest.raises(KeyError, match="behind") as caught:
        function()
    assert caught.value.__context__ is None


def _traced(function: Callable[[], object]) -> list[tuple[str, int]]:
    """Return the events that a tracer sees of `function`, lines counted from its head."""
    events = []

    def tracer(frame: object, event: str, arg: object) -> object:
        code = frame.f_code
        if code is function.__code__:
            events.append((event, frame.f_lineno - code.co_firstlineno))
        return tracer

    previous = sys.gettrace()
    sys.settrace(tracer)
    try:
        function()
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    return events


def test_an_active_tracer_is_put_back() -> None:
    ran = []

    def function() -> int:
        before = 1
        with Skipping():
            ran.append(before)
        after = 2
        return after

    assert _traced(function) == [
        ("call", 0),
        ("line", 1),
        ("line", 2),
        ("line", 4),
        ("line", 5),
        ("return", 5),
    ]
    assert ran == []


def test_frame_settings_are_put_back() -> None:
    frame = sys._getframe()
    before = (frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines)
    with Skipping():
        pass
    assert (frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines) == before


def test_under_the_debugger() -> None:
    """A breakpoint behind a skipped body is still met."""
    code = textwrap.dedent("""\
        ran = []
        with Skipping() as alamo:
            ran.append(1)
        ran.append("after")
        ran.append("end")
        """)
    out = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("next\nnext\nnext\np ran\ncontinue\n"), stdout=out)
    debugger.use_rawinput = False
    scope = {"Skipping": Skipping}
    previous = sys.gettrace()
    try:
        debugger.run(compile(code, "debugged.py", "exec"), scope)
    finally:
        sys.settrace(previous)
    assert scope["ran"] == ["after", "end"]
    assert "['after']" in out.getvalue()


def _coverage_cores() -> list[str]:
    return ["ctrace", "pytrace"] + (["sysmon"] if sys.version_info >= (3, 12) else [])


@pytest.mark.slow
@pytest.mark.parametrize("core", _coverage_cores())
def test_under_coverage(core: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    program = tmp_path / "covered.py"
    program.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}]\n"
        "from tests.launch.test_skipbody import Skipping\n"
        "with Skipping():\n"
        "    print('body')\n"
        "print('after')\n"
    )
    env = {**os.environ, "COVERAGE_CORE": core, "COVERAGE_FILE": str(tmp_path / "data")}
    command = [sys.executable, "-m", "coverage"]
    run = subprocess.run(
        [*command, "run", str(program)], env=env, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.returncode) == ("after\n", 0), run.stderr
    report = subprocess.run(
        [*command, "report", "-m", f"--include={program}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.stdout.splitlines()[2].split()[1:] == ["6", "1", "83%", "5"], report.stdout


def test_entered_without_a_with_is_refused_before_anything_happens() -> None:
    with pytest.raises(RuntimeError, match="with` statement"):
        Skipping().__enter__()
    with pytest.raises(RuntimeError, match="ExitStack"), contextlib.ExitStack() as stack:
        stack.enter_context(Skipping())
    with pytest.raises(RuntimeError, match="compiled code"):
        check_caller(None)
