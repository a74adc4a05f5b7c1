"""What the gateway costs: services used by a program that a task has started, and by the task.

    mpiexec -n 2 python benchmarks/gateway.py [--quick]

Prints one table: the median time of one put and one get of 8 B, 64 KiB and 64 MiB in a `DDict`, and
of the smaller two in a `Queue`, on a worker and in a process attached to it, one after the other;
what an attachment takes; what ``batch.function(pow, 2, 10).run()`` takes in a task and in such a
process; then the targets.  A missed target is printed as such and is no error.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddict import median_us, repeats, value_of

import alamo_mpi
from alamo_mpi import Batch, DDict, Queue

SIZES = {"8 B": 8, "64 KiB": 1 << 16, "64 MiB": 1 << 26}
TARGET_US = 150.0
Figures = dict[str, list[float]]


def measure(d: DDict[Any, Any], quick: bool) -> Figures:
    """Return the microseconds of a put and a get by size."""
    figures: Figures = {}
    for label, nbytes in SIZES.items():
        value = value_of(nbytes)
        count = min(repeats(nbytes, quick), 5000)
        put = median_us(lambda i: d.__setitem__("key", value), count)  # noqa: B023
        figures[f"DDict {label}"] = [put, median_us(lambda i: d["key"], count)]
    for label in list(SIZES)[:2]:
        value = value_of(SIZES[label])
        count = min(repeats(SIZES[label], quick), 1000)
        with Queue[Any]() as q:
            put = median_us(lambda i: q.put(value), count)  # noqa: B023
            figures[f"Queue {label}"] = [put, median_us(lambda i: q.get(), count)]
    return figures


def measure_tasks(quick: bool) -> float:
    """Return the microseconds of a task that is started and waited for, in a batch made here."""
    with Batch() as batch:
        return median_us(lambda _: batch.function(pow, 2, 10).run(), 200 if quick else 2000)


def measure_attached(d: DDict[Any, Any], quick: bool) -> Figures:
    """Measure in a program of its own, started here."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(pickle.dumps(d))
        file.flush()
        argv = [sys.executable, __file__, "--attached", file.name, *(["--quick"] * quick)]
        with alamo_mpi.waiting():  # its tasks need this worker
            done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: Figures = json.loads(done.stdout)
    return found


def attached(path: Path, quick: bool) -> None:
    """Measure here, in that program, and print the figures."""
    begin = time.perf_counter()
    d = pickle.loads(path.read_bytes())
    d.get("key")
    attach_us = (time.perf_counter() - begin) * 1e6
    figures = {**measure(d, quick), "attach": [attach_us], "task": [measure_tasks(quick)]}
    print(json.dumps(figures))


def show(rank: Figures, task_us: float, gateway: Figures) -> None:
    """Print the table and the targets."""
    print(f"{'':14}{'on the rank, µs':>24}{'attached, µs':>24}")
    print(f"{'':14}{'put':>12}{'get':>12}{'put':>12}{'get':>12}")
    for label in rank:
        cells = "".join(f"{figure:12,.1f}" for figure in (*rank[label], *gateway[label]))
        print(f"{label:14}{cells}")
    print(f"\nattaching, imports included: {gateway['attach'][0] / 1e3:.1f} ms")
    worst = max(*gateway["DDict 8 B"], *gateway["Queue 8 B"])
    met = "met" if worst <= TARGET_US else "MISSED"
    print(f"a small operation through the gateway: {worst:.0f} µs <= {TARGET_US:.0f} µs  {met}")
    (attached_us,) = gateway["task"]
    more = attached_us - task_us
    met = "met" if more <= TARGET_US else "MISSED"
    print(
        f"a task, started and waited for: {task_us:.0f} µs in a task, {attached_us:.0f} µs "
        f"attached, {more:.0f} µs more <= {TARGET_US:.0f} µs  {met}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--attached", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attached:
        attached(options.attached, options.quick)
        return
    with Batch() as batch, DDict() as d:
        rank = batch.function(measure, d, options.quick).run()
        task_us = batch.function(measure_tasks, options.quick).run()
        gateway = batch.function(measure_attached, d, options.quick).run()
        cores = len(os.sched_getaffinity(0))
        print(f"{cores} cores; load {os.getloadavg()[0]:.1f}; medians\n")
        show(rank, task_us, gateway)


if __name__ == "__main__":
    main()
