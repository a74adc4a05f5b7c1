"""Measure dependency inference: seconds and peak memory, each case in a fresh process.

Run as ``python benchmarks/compile.py [--tasks N] [CASE ...]``; needs no MPI.  Each case declares N
tasks (default 1,000,000) of one read and one write, beside `BALLAST` bytes a task that stand for
the task objects which a program has as well, and infers their graph.  Times are given twice: of
the clock, and of the processor, which other programs on the machine disturb less.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from alamo_mpi.core.access import (
    CommunicationDomain,
    CommunicationObject,
    DataAccess,
    read,
    write,
)
from alamo_mpi.inference import infer

#: Bytes of a task object besides its accesses.
BALLAST = 350
#: The aims: processor seconds, and megabytes of the whole process.
AIM_S, AIM_MB = 5.0, 1000.0

Accesses = Iterator[tuple[DataAccess, ...]]

BASE = Path("/nonexistent/alamo/compile")
BOARD = CommunicationObject(CommunicationDomain(), "board")
SUM = CommunicationObject(CommunicationDomain(waw=False), "sum")


def file_chain(ntasks: int) -> Accesses:
    """Task i reads file i and writes file i + 1."""
    for i in range(ntasks):
        yield read(BASE, Path(f"file_{i}")), write(BASE, Path(f"file_{i + 1}"))


def file_random(ntasks: int) -> Accesses:
    """Each task reads and writes one of N/2 files, drawn at random."""
    draw = random.Random(1).randrange
    for _ in range(ntasks):
        yield (
            read(BASE, f"file_{draw(ntasks // 2)}"),
            write(BASE, f"file_{draw(ntasks // 2)}"),
        )


def object_chain(ntasks: int) -> Accesses:
    """Task i reads channel i of a communication object and writes channel i + 1."""
    for i in range(ntasks):
        yield read(BOARD, i), write(BOARD, i + 1)


def object_random(ntasks: int) -> Accesses:
    """Each task reads and writes one of N/2 channels, drawn at random."""
    draw = random.Random(1).randrange
    for _ in range(ntasks):
        yield read(BOARD, draw(ntasks // 2)), write(BOARD, draw(ntasks // 2))


def whole_files(ntasks: int) -> Accesses:
    """Make the file chain with each file given alone, as a path of its own."""
    for i in range(ntasks):
        yield read(BASE / f"file_{i}"), write(BASE / f"file_{i + 1}")


def reduction(ntasks: int) -> Accesses:
    """Make the object chain, with the whole object read at each tenth of the list."""
    for i in range(ntasks):
        if i % max(1, ntasks // 10) == ntasks // 10 - 1:
            yield (read(BOARD),)
        else:
            yield read(BOARD, i), write(BOARD, i + 1)


def accumulation(ntasks: int) -> Accesses:
    """Unordered writes and reads of one channel in turn: join nodes all the way."""
    for i in range(ntasks):
        yield (read(SUM, 0) if i % 10 == 9 else write(SUM, 0),)


def nothing(ntasks: int) -> Accesses:
    """No accesses at all."""
    for _ in range(ntasks):
        yield ()


CASES: dict[str, Callable[[int], Accesses]] = {
    make.__name__: make
    for make in (
        file_chain,
        file_random,
        object_chain,
        object_random,
        whole_files,
        reduction,
        accumulation,
        nothing,
    )
}


def peak_mb() -> float:
    """Return the peak resident memory of this process so far, in 10**6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(case: str, ntasks: int) -> dict[str, float]:
    """Run one case in this process."""
    gc.freeze()
    ballast = [bytes(BALLAST - sys.getsizeof(b"")) for _ in range(ntasks)]
    start = time.process_time()
    accesses = list(CASES[case](ntasks))
    declare_s = time.process_time() - start
    before_mb = peak_mb()
    start, clock = time.process_time(), time.perf_counter()
    graph = infer(accesses)
    infer_s, wall_s = time.process_time() - start, time.perf_counter() - clock
    return {
        "tasks": len(ballast),
        "declare_s": declare_s,
        "infer_s": infer_s,
        "wall_s": wall_s,
        "edges": graph.nedges,
        "joins": graph.nnodes - graph.ntasks,
        "before_mb": before_mb,
        "peak_mb": peak_mb(),
    }


def in_fresh_process(case: str, ntasks: int) -> dict[str, float]:
    """Run one case in a process of its own, so that peak memory is its own."""
    command = [sys.executable, __file__, "--tasks", str(ntasks), "--measure", case]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Print one table; the status is 1 if an aim was missed at the default number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        json.dump(measure(options.measure, options.tasks), sys.stdout)
        return 0
    print(f"{options.tasks:,} tasks; aims: infer <= {AIM_S} s (cpu), peak <= {AIM_MB:.0f} MB")
    print(
        f"{'case':15} {'declare s':>10} {'infer s':>8} {'(clock)':>8} {'us/task':>8}"
        f" {'edges':>10} {'joins':>8} {'before MB':>10} {'peak MB':>8}"
    )
    missed = False
    for case in options.cases or CASES:
        row = in_fresh_process(case, options.tasks)
        late = row["infer_s"] > AIM_S or row["peak_mb"] > AIM_MB
        missed |= late
        print(
            f"{case:15} {row['declare_s']:10.2f} {row['infer_s']:8.3f} {row['wall_s']:8.3f}"
            f" {1e6 * row['infer_s'] / options.tasks:8.3f} {row['edges']:10,.0f}"
            f" {row['joins']:8,.0f} {row['before_mb']:10.0f} {row['peak_mb']:8.0f}"
            f"{'  MISSED' if late else ''}",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
