"""The documents' code blocks, and how each is tested.

A fenced block of Python or shell has a comment on the line before it:

    <!-- test: file examples/hello.py -->   the block is that file, which has a test of its own
    <!-- test: run.sh -->                   the commands are what tests/run.sh and CI run
    <!-- test: shell -->                    run by bash, in the tests' environment
    <!-- test: program -->                  a whole program, run on three ranks
    <!-- test: part -->                     the page's parts together make one program, run likewise
    <!-- test: names -->                    compiles, and imports only names that exist
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "bash")
HOWS = ("file", "run.sh", "shell", "program", "part", "names")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language, how it is tested, its text."""

    page: str
    line: int
    language: str
    how: str
    argument: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return the documents, without those that are made from sources."""
    return [
        *(path for path in sorted(ROOT.glob("*.md"))),
        *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "api.md"),
    ]


def blocks(page: Path) -> list[Block]:
    """Return the Python and shell blocks of a page, marked or not, in order."""
    lines = page.read_text().splitlines()
    found: list[Block] = []
    index = 0
    while index < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[index])
        if not fence:
            index += 1
            continue
        end = lines.index("```", index + 1)
        if fence[1] in LANGUAGES:
            before = lines[index - 1] if index else ""
            mark = re.fullmatch(r"<!-- test: (\S+) ?(.*?) ?-->", before)
            how, argument = (mark[1], mark[2]) if mark else ("", "")
            text = "\n".join(lines[index + 1 : end]) + "\n"
            name = page.relative_to(ROOT).as_posix()
            found.append(Block(name, index + 1, fence[1], how, argument, text))
        index = end + 1
    return found


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]
