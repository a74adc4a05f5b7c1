"""What a program costs as a task: `Batch.process` of /bin/true, beside `subprocess.run` of it.

    mpiexec -n 2 python -m alamo_mpi benchmarks/processes.py [--quick]

Both on one process, one program after the other: rank 1's tasks, and a loop in a task on rank 1.
The rounds of the two alternate, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from alamo_mpi import Batch

COMMAND = ["/bin/true"]


def by_subprocess(count: int, capture: bool) -> float:
    """Return seconds per program of a loop around `subprocess.run`."""
    begun = time.perf_counter()
    for _ in range(count):
        subprocess.run(COMMAND, capture_output=capture, check=True)
    return (time.perf_counter() - begun) / count


def compiled(batch: Batch, count: int) -> float:
    """Return seconds per program of a list of process tasks."""
    task = batch.compile([batch.process(COMMAND) for _ in range(count)])
    begun = time.perf_counter()
    task.run()
    return (time.perf_counter() - begun) / count


def single(batch: Batch, count: int) -> float:
    """Return seconds from the start of one process task to its result."""
    begun = time.perf_counter()
    for _ in range(count):
        batch.process(COMMAND).run()
    return (time.perf_counter() - begun) / count


def main() -> None:
    """Print one line for each way, with its ratio to `subprocess.run`."""
    rounds, count = (3, 20) if "--quick" in sys.argv else (15, 100)
    with Batch(1) as batch:
        ways: dict[str, Callable[[], float]] = {
            "subprocess.run": lambda: batch.function(by_subprocess, count, False).run(),
            "subprocess.run, captured": lambda: batch.function(by_subprocess, count, True).run(),
            "process, compiled": lambda: compiled(batch, count),
            "process, one by one": lambda: single(batch, count),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        compiled(batch, count)  # the first program starts what the others need
        for _ in range(rounds):
            for way, measure in ways.items():
                times[way].append(measure())
    floor = times["subprocess.run"]
    print(f"{'way':26} {'median ms':>10} {'best ms':>8} {'ratio of medians':>17} {'of bests':>9}")
    for way, each in times.items():
        middle, best = statistics.median(each), min(each)
        ratios = middle / statistics.median(floor), best / min(floor)
        print(f"{way:26} {middle * 1e3:10.3f} {best * 1e3:8.3f} {ratios[0]:17.2f} {ratios[1]:9.2f}")


main()
