"""Wait for something that another program brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    condition: Callable[[], bool], story: Callable[[], object], *, timeout_s: float = 60.0
) -> None:
    """Ask `condition` until it is true; past the time fail with what `story` says."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {story()}"
        time.sleep(0.2)
