"""What the tests of faults share: programs written to a folder, and runs of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a program, given in parts, to a folder that is its working directory too."""

    def write(*parts: str) -> Path:
        path = tmp_path / "app.py"
        path.write_text("".join(textwrap.dedent(part) for part in parts))
        return path

    return write
