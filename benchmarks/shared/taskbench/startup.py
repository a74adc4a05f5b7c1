"""Start-up: from calling the launcher to the first result, against a bare mpi4py program."""

from __future__ import annotations

import tempfile
import time

from taskbench import worlds

__all__ = ["compare"]


def seconds_to_print(argv: list[str], env: dict[str, str]) -> float:
    """Start a program and return how long it took until it printed its result."""
    begin = time.monotonic()
    return float(worlds.run_json(argv, timeout_s=120, env=env)["at_s"]) - begin


def compare(nranks: int, repeats: int) -> tuple[list[float], list[float]]:
    """Start both programs in turn; return the seconds of the batch's and of the bare one's runs.

    They alternate so that a change in the machine's load meets both alike.  The first pair is not
    counted: it fills a folder of compiled modules, which an installed package comes with.
    """
    bare = worlds.launched(nranks, "-m", "taskbench.startup_bare")
    batch = worlds.launched(nranks, "-m", "alamo_mpi", "-m", "taskbench.startup_batch")
    with tempfile.TemporaryDirectory() as folder:
        env = worlds.environment(PYTHONPYCACHEPREFIX=folder)
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        pairs = [
            (seconds_to_print(batch, env), seconds_to_print(bare, env)) for _ in range(repeats + 1)
        ]
    return [ours for ours, _ in pairs[1:]], [theirs for _, theirs in pairs[1:]]
