"""What a task costs in a process of its own: `isolate=True`, beside the same tasks in the rank.

    mpiexec -n 2 python -m alamo_mpi benchmarks/isolation.py [--quick]

Compiled lists of ``pow(2, 10)`` on one worker, and a sum over an array of 64 MiB that comes and
goes.  The rounds of the ways alternate, so that what else the machine does meets all alike.  The
floor is a packet to and fro between two processes on rank 1's host, measured in a task there: with
fewer free cores than busy processes (two ranks, a cell) it is far above an idle machine's 10 us.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from alamo_mpi import Batch

ARRAY_NBYTES = 64 << 20


ECHO = """\
import socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while packet := connection.recv(1 << 16):
    connection.send(packet)
"""


def floor(count: int) -> float:
    """Return seconds for a packet to another process and back."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        command = [sys.executable, "-S", "-c", ECHO, str(far.fileno())]
        with subprocess.Popen(command, pass_fds=[far.fileno()]):
            far.close()
            near.send(b"up?")
            near.recv(1 << 16)
            begun = time.perf_counter()
            for _ in range(count):
                near.send(bytes(64))
                near.recv(1 << 16)
            seconds = (time.perf_counter() - begun) / count
            near.close()
    return seconds


def compiled(batch: Batch, count: int, isolate: bool) -> float:
    """Return seconds per task of a list of short ones."""
    task = batch.compile([batch.function(pow, 2, 10, isolate=isolate) for _ in range(count)])
    begun = time.perf_counter()
    task.run()
    return (time.perf_counter() - begun) / count


def total(array: Any) -> float:
    """Read all of an array."""
    return float(array.sum())


def reads(batch: Batch, array: Any, isolate: bool) -> float:
    """Return seconds for a task that reads a large argument, which its worker has already."""
    task = batch.function(total, array, isolate=isolate)
    begun = time.perf_counter()
    task.run()
    return time.perf_counter() - begun


def makes(batch: Batch, isolate: bool) -> float:
    """Return seconds for a task with a large result, without fetching it."""
    task = batch.function(np.ones, ARRAY_NBYTES // 8, isolate=isolate)
    begun = time.perf_counter()
    task.start()
    task.wait()
    return time.perf_counter() - begun


def main() -> None:
    """Print a line for each way; ratios are of an isolated task to the same one in the rank."""
    rounds, count = (5, 200) if "--quick" in sys.argv else (25, 1000)
    array = np.ones(ARRAY_NBYTES // 8)
    with Batch(1) as batch:
        ways: dict[str, Callable[[], float]] = {
            "floor, a packet to and fro": lambda: batch.function(floor, count).run(),
            "pow, in the rank": lambda: compiled(batch, count, False),
            "pow, isolated": lambda: compiled(batch, count, True),
            "64 MiB argument, in the rank": lambda: reads(batch, array, False),
            "64 MiB argument, isolated": lambda: reads(batch, array, True),
            "64 MiB result, in the rank": lambda: makes(batch, False),
            "64 MiB result, isolated": lambda: makes(batch, True),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for measure in ways.values():  # the first of each starts what the others need
            measure()
        for _ in range(rounds):
            for way, measure in ways.items():
                times[way].append(measure())
    print(f"{'way':30} {'median us':>10} {'best us':>10} {'ratio':>7}")
    before = 0.0
    for way, each in times.items():
        middle = statistics.median(each)
        ratio = f"{middle / before:7.2f}" if "isolated" in way else ""
        print(f"{way:30} {middle * 1e6:10.1f} {min(each) * 1e6:10.1f} {ratio}")
        before = middle


main()
