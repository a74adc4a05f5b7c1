"""The floor: what raw mpi4py does with the same tasks and no features at all.

One manager, the other ranks workers.  A chunk of tasks is a list of ``(number, function, args)``
tuples, sent with mpi4py's pickling ``send``; its results return as a list of ``(number, value)``
tuples.  Each worker is kept one chunk ahead.  Every wait is an ``Iprobe`` loop with
``sched_yield``: with blocking receives, which spin without yielding, the figure swings tenfold
as soon as there are more ranks than cores.

There is no error handling, no capture of output, no dependencies, no handles: a system with
features is judged by the share of this rate that it keeps.

Run in ``benchmarks`` as ``mpiexec -n 3 python -m taskbench.floor``; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from taskbench import work

__all__ = ["chain", "farm", "serve"]

TAG = 1
AHEAD = 2  # chunks in flight for each worker: one running, one waiting

Item = tuple[int, Callable[..., Any], tuple[Any, ...]]


def wait(comm: MPI.Comm, status: MPI.Status) -> None:
    """Return when a message has arrived; ``status`` tells from where."""
    while not comm.Iprobe(MPI.ANY_SOURCE, TAG, status):
        os.sched_yield()


def serve(comm: MPI.Comm) -> None:
    """Run chunks from rank 0 until an empty one comes."""
    status = MPI.Status()
    while True:
        wait(comm, status)
        chunk: list[Item] = comm.recv(source=0, tag=TAG)
        if not chunk:
            return
        comm.send([(number, func(*args)) for number, func, args in chunk], 0, TAG)


def farm(comm: MPI.Comm, ntasks: int, chunk_size: int) -> float:
    """Run ``ntasks`` no-op tasks on the workers; return the seconds until all results are here."""
    status = MPI.Status()
    results: list[int | None] = [None] * ntasks
    begin = time.perf_counter()
    position = 0

    def send_next(rank: int) -> int:
        nonlocal position
        stop = min(position + chunk_size, ntasks)
        if stop == position:
            return 0
        chunk = [(number, work.nothing, (number,)) for number in range(position, stop)]
        position = stop
        comm.send(chunk, rank, TAG)
        return 1

    pending = sum(send_next(rank) for _ in range(AHEAD) for rank in range(1, comm.size))
    while pending:
        wait(comm, status)
        rank = status.Get_source()
        for number, value in comm.recv(source=rank, tag=TAG):
            results[number] = value
        pending += send_next(rank) - 1
    seconds = time.perf_counter() - begin
    if results != list(range(ntasks)):
        raise RuntimeError("The floor lost a result.")
    return seconds


def chain(comm: MPI.Comm, length: int) -> float:
    """Run a chain of dependent tasks, a round trip each; return the seconds it took."""
    status = MPI.Status()
    value = 0
    begin = time.perf_counter()
    for number in range(length):
        comm.send([(number, work.successor, (value,))], 1, TAG)
        wait(comm, status)
        ((_, value),) = comm.recv(source=1, tag=TAG)
    seconds = time.perf_counter() - begin
    if value != length:
        raise RuntimeError("The floor's chain came out wrong.")
    return seconds


def share(comm: MPI.Comm, ntasks: int, nbytes: int) -> float:
    """Run tasks that share one array, one chunk for each worker; return the seconds it took.

    Within a chunk pickle writes the array once, so it crosses to each worker once.
    """
    status = MPI.Status()
    array = np.ones(nbytes // 8)
    nworkers = comm.size - 1
    begin = time.perf_counter()
    for rank in range(1, comm.size):
        numbers = range(rank - 1, ntasks, nworkers)
        comm.send([(number, work.first_element, (array, number)) for number in numbers], rank, TAG)
    count = 0
    for _ in range(nworkers):
        wait(comm, status)
        results = comm.recv(source=status.Get_source(), tag=TAG)
        count += sum(value == 1.0 + number for number, value in results)
    seconds = time.perf_counter() - begin
    if count != ntasks:
        raise RuntimeError("A result from the floor's shared array is missing or wrong.")
    return seconds


def main() -> None:
    """Measure each form four times and print the best rates as JSON on rank 0."""
    parser = argparse.ArgumentParser(description="The floor of the task benchmark.")
    parser.add_argument("--many", type=int, default=100_000, help="tasks in chunks of 64")
    parser.add_argument("--single", type=int, default=10_000, help="tasks in chunks of 1")
    parser.add_argument("--length", type=int, default=1_000, help="tasks of the chain")
    parser.add_argument("--shared", type=int, default=1_000, help="tasks that share an array")
    parser.add_argument("--nbytes", type=int, default=8_000_000, help="size of that array")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size < 2:
        parser.error("start it with mpiexec -n 2 or more")
    if comm.rank:
        serve(comm)
        return
    best_of = 4
    chunks_64 = [farm(comm, options.many, 64) for _ in range(best_of)]
    chunks_1 = [farm(comm, options.single, 1) for _ in range(best_of)]
    chains = [chain(comm, options.length) for _ in range(best_of)]
    shares = [share(comm, options.shared, options.nbytes) for _ in range(best_of)]
    for rank in range(1, comm.size):
        comm.send([], rank, TAG)
    figures = {
        "chunks_64_per_s": options.many / min(chunks_64),
        "chunks_1_per_s": options.single / min(chunks_1),
        "chain_us": 1e6 * min(chains) / options.length,
        "shared_s": min(shares),
        "all_chunks_64_per_s": [options.many / s for s in chunks_64],
        "all_chunks_1_per_s": [options.single / s for s in chunks_1],
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
