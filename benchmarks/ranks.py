"""Many ranks: what starting costs from 2 to 32 of them, and 10,000 tasks on 32.

    python benchmarks/ranks.py [--repeats 3] [--ranks 2,4,8,16,32]

A start lasts from calling the launcher to the first task's result; the bare one is a program of
mpi4py that sends one message.  On fewer cores than ranks both grow with the ranks, as each rank
imports Python's modules; what this package adds to each rank must stay the same.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import os
import statistics
import time

from taskbench import startup, worlds


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", default="2,4,8,16,32")
    options = parser.parse_args()
    sizes = [int(size) for size in options.ranks.split(",")]
    print(f"start-up, medians of {options.repeats}, {os.cpu_count()} cores")
    print(
        f"{'ranks':>5} {'bare, s':>9} {'batch, s':>9} {'batch/rank, s':>14} {'added/rank, s':>14}"
    )
    for size in sizes:
        batch, bare = map(statistics.median, startup.compare(size, options.repeats))
        print(
            f"{size:5} {bare:9.2f} {batch:9.2f} {batch / size:14.3f} {(batch - bare) / size:14.3f}",
            flush=True,
        )
    argv = worlds.launched(sizes[-1], "-m", "alamo_mpi", "-m", "taskbench.ten_thousand")
    begin = time.monotonic()
    seconds = worlds.run_json(argv, timeout_s=120, env=worlds.environment())["tasks_s"]
    whole = time.monotonic() - begin
    print(
        f"10,000 tasks on {sizes[-1]} ranks: {seconds:.2f} s for the tasks, "
        f"{whole:.1f} s from the launcher's start to its end"
    )


if __name__ == "__main__":
    main()
