"""The documents are true: links lead somewhere, code blocks are tested, tables are complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alamo_mpi
from tests.support import seed_api
from tests.support.documents import HOWS, ROOT, Block, all_blocks, blocks, pages

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
BLOCKS = [pytest.param(block, id=block.where) for block in all_blocks()]


def blocks_tested_by(how: str) -> list[object]:
    return [pytest.param(block, id=block.where) for block in all_blocks() if block.how == how]


# ---------------------------------------------------------------------------- code blocks


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_says_how_it_is_tested(block: Block) -> None:
    assert block.how in HOWS, f"{block.where}: no <!-- test: ... --> line before the block"


@pytest.mark.parametrize("block", blocks_tested_by("file"))
def test_a_block_from_a_file_is_that_file(block: Block) -> None:
    assert block.text == (ROOT / block.argument).read_text()


@pytest.mark.parametrize("block", blocks_tested_by("run.sh"))
def test_commands_run_elsewhere_are_run_there(block: Block) -> None:
    """`tests/run.sh` cannot run itself; CI does, and it runs the other scripts."""
    for line in block.text.splitlines():
        command = line.partition("#")[0].split()
        assert command[0] == "bash"
        script = command[1]
        assert (ROOT / script).is_file()
        runner = ".ci/run" if script == "tests/run.sh" else "tests/run.sh"
        assert f"bash {script}" in (ROOT / runner).read_text()


@pytest.mark.parametrize("block", [p for p in BLOCKS if p.values[0].language == "python"])
def test_python_blocks_compile_and_import_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "alamo_mpi":
            assert {alias.name for alias in node.names} <= set(alamo_mpi.__all__)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "alamo_mpi":
            assert node.attr in alamo_mpi.__all__


def test_the_readme_begins_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md")[0]
    commands = [line.partition("#")[0].strip() for line in first.text.splitlines()]
    assert commands == ["bash launch/quickstart.sh", "bash tests/run.sh"]


# ---------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_titles_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(goal), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_code_font_exist(page: Path) -> None:
    folders = ("alamo_mpi", "benchmarks", "docs", "examples", "launch", "slurm", "tests", ".ci")
    for name in re.findall(r"`([\w./]+/[\w./]*)`", page.read_text()):
        if name.split("/")[0] in folders:
            assert (ROOT / name).exists(), f"{page.name} names {name}"


# ------------------------------------------------------------------------------- contents


def status_table() -> dict[str, str]:
    """Return item -> last cell of the README's table of the API."""
    text = (ROOT / "README.md").read_text()
    table = text.partition("| item | arguments | status |")[2].partition("\n\n")[0]
    rows = {}
    for line in table.splitlines()[2:]:
        items, _, status = (cell.strip() for cell in line.strip("|").split("|"))
        for item in re.findall(r"`([\w.]+)`", items):
            rows[item] = status
    return rows


def test_the_readme_lists_each_item_of_the_api_with_its_status() -> None:
    rows = status_table()
    wanted = {item.removesuffix(".__init__") for item in seed_api.items()}
    assert set(rows) == wanted
    planned = {item for item, status in rows.items() if status.startswith("planned")}
    assert planned == seed_api.PLANNED
    assert all(status.startswith(("works", "planned")) for status in rows.values())


@pytest.mark.parametrize("page", [ROOT / "docs" / "failures.md"], ids=["docs/failures.md"])
def test_each_error_has_its_place_in_the_page_of_failures(page: Path) -> None:
    titles = re.findall(r"^#+ .*$", page.read_text(), re.MULTILINE)
    named = {name for title in titles for name in re.findall(r"`(\w+)`", title)}
    errors = {name for name in alamo_mpi.__all__ if name.endswith(("Error", "Traceback"))}
    assert errors - {"AlamoError"} <= named


def test_the_reference_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, "docs/build_api.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (
        "docs/api.md is out of date: python docs/build_api.py\n" + done.stdout[:3000] + done.stderr
    )


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == "Unreleased"


def test_contributing_lists_the_parts_of_the_test_run() -> None:
    script = (ROOT / "tests" / "run.sh").read_text()
    declared = re.search(r"^ALL_PARTS=\((.+)\)$", script, re.MULTILINE)
    assert declared
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert table == declared[1].split()
