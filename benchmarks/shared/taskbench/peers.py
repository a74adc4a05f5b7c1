"""The same no-op tasks on the executors that a user would reach for otherwise.

In ``benchmarks``, ``python -m taskbench.peers pool`` measures `ProcessPoolExecutor`, and
``mpiexec -n 3 python -m mpi4py.futures -m taskbench.peers mpi4py`` measures `mpi4py.futures`, each
with as many workers as asked for, started up before the clock runs.  Each prints one line of JSON:
the rates of all repeats, in tasks per second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor

from taskbench import work

__all__ = ["main"]


def by_submit(executor: Executor, ntasks: int) -> float:
    """Submit one by one, then take every result; return the seconds."""
    begin = time.perf_counter()
    futures = [executor.submit(work.nothing, number) for number in range(ntasks)]
    results = [future.result() for future in futures]
    seconds = time.perf_counter() - begin
    check(results, ntasks)
    return seconds


def by_map(executor: Executor, ntasks: int, chunk_size: int = 64) -> float:
    """Map with chunks of 64 and take every result; return the seconds."""
    begin = time.perf_counter()
    results = list(executor.map(work.nothing, range(ntasks), chunksize=chunk_size))
    seconds = time.perf_counter() - begin
    check(results, ntasks)
    return seconds


def check(results: list[int], ntasks: int) -> None:
    """Raise unless every task gave its own number."""
    if results != list(range(ntasks)):
        raise RuntimeError("A result is missing or wrong.")


def rates(measure: Callable[[], float], ntasks: int, repeats: int) -> list[float]:
    """Tasks per second of each repeat."""
    return [ntasks / measure() for _ in range(repeats)]


def main() -> None:
    """Measure one executor and print its rates as JSON."""
    parser = argparse.ArgumentParser(description="Peers of the task benchmark.")
    parser.add_argument("system", choices=["pool", "mpi4py"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--single", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    executor: Executor
    if options.system == "pool":
        executor = ProcessPoolExecutor(options.workers)
    else:
        from mpi4py.futures import MPIPoolExecutor

        executor = MPIPoolExecutor(options.workers)
    with executor:
        list(executor.map(work.nap, [0.05] * 2 * options.workers))  # every worker is up
        figures = {}
        if options.system == "pool":  # the peer of the compiled figures; mpi4py's is its map
            figures["submit_many_per_s"] = rates(
                lambda: by_submit(executor, options.many), options.many, options.repeats
            )
        figures["submit_single_per_s"] = rates(
            lambda: by_submit(executor, options.single), options.single, options.repeats
        )
        figures["map_64_per_s"] = rates(
            lambda: by_map(executor, options.many), options.many, options.repeats
        )
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
