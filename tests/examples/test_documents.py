"""The programs and commands in the README and in docs/ run as printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.documents import ROOT, Block, all_blocks, blocks, pages
from tests.support.mpirun import Started, mpirun

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0


def blocks_tested_by(how: str) -> list[object]:
    return [pytest.param(block, id=block.where) for block in all_blocks() if block.how == how]


def parts(page: Path) -> str:
    """The page's parts, with each line where it stands in the page: tracebacks then name it."""
    lines: list[str] = []
    for block in blocks(page):
        if block.how == "part":
            lines += [""] * (block.line - len(lines))
            lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


PAGES_WITH_PARTS = [
    pytest.param(page, id=page.relative_to(ROOT).as_posix())
    for page in pages()
    if parts(page).strip()
]


def check_program(text: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(text)
    run = mpirun(3, ["-m", "alamo_mpi", str(program)], timeout_s=TIMEOUT_S)
    assert run.rc == 0, str(run)
    assert "Traceback" not in run.stderr
    run.check_clean()


@pytest.mark.parametrize("block", blocks_tested_by("program"))
def test_programs_run(block: Block, tmp_path: Path) -> None:
    check_program(block.text, tmp_path)


@pytest.mark.parametrize("page", PAGES_WITH_PARTS)
def test_the_parts_of_a_page_make_one_program_that_runs(page: Path, tmp_path: Path) -> None:
    check_program(parts(page), tmp_path)


@pytest.mark.parametrize("block", blocks_tested_by("shell"))
def test_commands_run(block: Block) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    with Started(command, env={"PATH": path}, cwd=ROOT, timeout_s=TIMEOUT_S) as started:
        run = started.finish()
    assert run.rc == 0, str(run)
    run.check_clean()
