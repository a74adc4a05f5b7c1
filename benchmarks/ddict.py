"""How fast a `DDict` is, against raw one-sided MPI, Redis and a manager process.

    mpiexec -n 2 python benchmarks/ddict.py [--quick] [--json FILE]

Prints one table: the median time of one put and one get, for values of 8 B to 64 MiB, by one
client while the other ranks sleep; then the rates of all ranks at once; then the targets.  Raw is
``Win.Put`` or ``Win.Get`` with ``Flush`` of the same bytes at another rank, prepared buffers and
all: the floor of anything made from those calls.  Redis (over a unix socket, with pickle) and
``multiprocessing.Manager().dict()`` are measured where they are installed, by one client in a
process of its own, one after the other.  A missed target is printed as such and is no error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers import measured, redis_server

SIZES = {"8 B": 8, "1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20, "64 MiB": 1 << 26}
KEYS = 100
Figures = dict[str, dict[str, float]]


def value_of(nbytes: int) -> Any:
    """Return an int, bytes, or an array, as a program would store that many bytes."""
    if nbytes == 8:
        return 123_456_789
    if nbytes < 1 << 14:
        return bytes(nbytes)
    return np.ones(nbytes, "u1")


def repeats(nbytes: int, quick: bool) -> int:
    """Return how many operations to time: about as long for every size."""
    return max(5, min(20_000, (1 << 28) // (nbytes + (1 << 13))) // (10 if quick else 1))


def median_us(call: Callable[[int], Any], count: int) -> float:
    """Return the median time of one call in microseconds."""
    clock = time.perf_counter
    times = []
    for i in range(count + count // 4):
        start = clock()
        call(i)
        times.append(clock() - start)
    return statistics.median(times[count // 4 :]) * 1e6


def keys_for(nbytes: int) -> int:
    """Return how many keys to use: the values together stay below 128 MiB."""
    return max(1, min(KEYS, (1 << 27) // nbytes))


# -- peers, each in a process of its own -----------------------------------------------------


@contextlib.contextmanager
def redis_client() -> Iterator[Any]:
    """Give (put, get) of a Redis server, or None where there is none."""
    with redis_server() as socket:
        if socket is None:
            yield None
            return
        import redis

        client = redis.Redis(unix_socket_path=socket)
        yield (
            lambda key, value: client.set(key, pickle.dumps(value, 5)),
            lambda key: pickle.loads(client.get(key)),
        )
        client.close()


@contextlib.contextmanager
def manager_client() -> Iterator[Any]:
    """Give (put, get) of a dict in a manager process."""
    from multiprocessing import Manager

    with Manager() as manager:
        shared = manager.dict()
        yield shared.__setitem__, shared.__getitem__


PEERS = {"redis": redis_client, "manager": manager_client}


def measure_peer(name: str, quick: bool) -> Figures | None:
    """Measure one peer, in this process."""
    figures: Figures = {}
    with PEERS[name]() as calls:
        if calls is None:
            return None
        put, get = calls
        for label, nbytes in SIZES.items():
            value, nkeys, count = value_of(nbytes), keys_for(nbytes), repeats(nbytes, quick)
            count = min(count, 3000)
            for i in range(nkeys):
                put(str(i), value)
            figures[label] = {
                "put": median_us(lambda i: put(str(i % nkeys), value), count),  # noqa: B023
                "get": median_us(lambda i: get(str(i % nkeys)), count),  # noqa: B023
            }
    return figures


def start_peer(name: str, quick: bool) -> Figures | None:
    """Measure one peer in a fresh process."""
    argv = [sys.executable, __file__, "--peer", name, *(["--quick"] if quick else [])]
    found: Figures | None = measured(name, argv)
    return found


# -- ours, under MPI -----------------------------------------------------------------------------


class Bench:
    """The measurements that need the ranks; every method is called by all of them."""

    def __init__(self, quick: bool) -> None:
        from alamo_mpi.ddict import DDict
        from alamo_mpi.mpi.world import World
        from alamo_mpi.runtime.pool import open_pool

        self.quick = quick
        self.world = World()
        self.rank, self.size = self.world.rank, self.world.size
        self.pool = open_pool(self.world)
        self.other = 1 % self.size
        pair = (DDict(), DDict(near=self.other)) if self.rank == 0 else None
        self.own, self.far = self.world.comm.bcast(pair)

    def barrier(self) -> None:
        """Wait for all ranks, asleep: a spinning rank would take a core from the measurement."""
        request = self.world.bulk.Ibarrier()
        while not request.Test():
            time.sleep(2e-3)

    def alone(self, measure: Callable[[], Any]) -> Any:
        """Run on rank 0 while the others sleep."""
        found = measure() if self.rank == 0 else None
        self.barrier()
        return found

    def one_client(self) -> Figures:
        """Put into one's own memory, get from another rank's."""
        figures: Figures = {}
        for label, nbytes in SIZES.items():
            value, nkeys, count = value_of(nbytes), keys_for(nbytes), repeats(nbytes, self.quick)
            for i in range(nkeys):
                self.far[i] = self.own[i] = value
            put, get = self.own.__setitem__, self.far.__getitem__
            figures[label] = {
                "put": median_us(lambda i: put(i % nkeys, value), count),  # noqa: B023
                "get": median_us(lambda i: get(i % nkeys), count),  # noqa: B023
            }
            self.far.clear()
            self.own.clear()
        return figures

    def raw(self) -> Figures:
        """Move the bytes alone, by the calls that there are."""
        from mpi4py import MPI

        win, allocator = self.pool.window._win, self.pool.allocator
        figures: Figures = {}
        for label, nbytes in SIZES.items():
            pointer = allocator.write_block(1, 0, b"", bytes(nbytes), on=self.other)
            from alamo_mpi.core.layout import place

            rank, offset = place(pointer)
            buffer = np.ones(nbytes, "u1")
            origin, target = [buffer, nbytes, MPI.BYTE], (offset + 64, nbytes, MPI.BYTE)

            def put(i: int, args: Any = (origin, rank, target)) -> None:
                win.Put(*args)
                win.Flush(args[1])

            def get(i: int, args: Any = (origin, rank, target)) -> None:
                win.Get(*args)
                win.Flush(args[1])

            count = repeats(nbytes, self.quick)
            figures[label] = {"put": median_us(put, count), "get": median_us(get, count)}
            allocator.retire(pointer)
        return figures

    def memcpy(self) -> float:
        """Copy 64 MiB between two arrays that are there; microseconds."""
        source, target = np.ones(1 << 26, "u1"), np.ones(1 << 26, "u1")
        return median_us(lambda i: np.copyto(target, source), 8)

    def insert(self) -> float:
        """Store new small keys; microseconds each."""
        return median_us(lambda i: self.own.__setitem__(("new", i), i), repeats(8, self.quick))

    def busy_owner(self) -> float:
        """Get small values while their owner computes in pure Python; microseconds."""
        if self.rank == 0:
            for i in range(KEYS):
                self.far[i] = i
        self.barrier()
        figure = 0.0
        if self.rank == 0:
            figure = median_us(lambda i: self.far[i % KEYS], repeats(8, self.quick))
            self.far["stop"] = 1
        elif self.rank == self.other:
            x = 0
            while x % 10_000 or "stop" not in self.far:
                x += 1
        self.barrier()
        if self.rank == 0:
            self.far.clear()
        self.barrier()
        return figure

    def rates(self, together: bool) -> dict[str, float]:
        """Operations a second on small values: of one rank, or of all ranks at once in sum."""
        count = 4000 if self.quick else 20_000
        mine = [(self.rank, i) for i in range(KEYS)]
        for key in mine:
            self.own[key] = 1
        self.barrier()
        found = {}
        for name in "get", "put":
            self.barrier()
            start = time.perf_counter()
            if self.rank == 0 or together:
                for i in range(count):
                    if name == "get":
                        self.own[mine[i % KEYS]]
                    else:
                        self.own[mine[i % KEYS]] = i
            took = time.perf_counter() - start
            self.barrier()
            times = self.world.comm.allgather(took)
            found[name] = sum(count / t for t in times) if together else count / times[0]
        return found


def print_table(columns: dict[str, Figures | None]) -> None:
    """Print the times of one operation."""
    shown = {name: figures for name, figures in columns.items() if figures is not None}
    print(f"{'one operation, µs':20}" + "".join(f"{name:>12}" for name in shown))
    for label in SIZES:
        for name in "put", "get":
            cells = "".join(f"{figures[label][name]:12.1f}" for figures in shown.values())
            print(f"{name} {label:16}{cells}")
    for name, figures in columns.items():
        if figures is None:
            print(f"({name}: not installed)")


def targets(
    ours: Figures,
    raw: Figures,
    redis: Figures | None,
    extra: dict[str, Any],
    nranks: int,
) -> list[tuple[str, float, float, bool]]:
    """Return (what, figure, limit, whether the figure must be at least that)."""
    found: list[tuple[str, float, float, bool]] = []
    for label in "8 B", "1 KiB":
        found.append((f"get {label} / raw", ours[label]["get"] / raw[label]["get"], 6, False))
        found.append((f"put {label} / raw", ours[label]["put"] / raw[label]["put"], 15, False))
        if redis:
            gain = redis[label]["get"] / ours[label]["get"]
            found.append((f"get {label}: faster than Redis by", gain, 10, True))
            gain = redis[label]["put"] / ours[label]["put"]
            found.append((f"put {label}: faster than Redis by", gain, 5, True))
    for name in "get", "put":
        found.append(
            (f"{name} 64 MiB: of memcpy", extra["memcpy"] / ours["64 MiB"][name], 0.7, True)
        )
    if nranks > 1:
        slower = extra["busy"] / ours["8 B"]["get"]
        found.append(("get 8 B, owner in pure Python / idle", slower, 2, False))
        cores = min(nranks, len(os.sched_getaffinity(0)))
        for name in "get", "put":
            gain = extra["together"][name] / extra["single"][name]
            found.append((f"{name} rate, {nranks} ranks / one", gain, 0.7 * cores, True))
    return found


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer operations")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(measure_peer(options.peer, options.quick)))
        return
    bench = Bench(options.quick)
    load = os.getloadavg()[0]
    ours = bench.alone(bench.one_client)
    raw = bench.alone(bench.raw)
    extra = {
        "memcpy": bench.alone(bench.memcpy),
        "insert": bench.alone(bench.insert),
        "busy": bench.busy_owner(),
        "single": bench.rates(together=False),
        "together": bench.rates(together=True),
    }
    peers = bench.alone(lambda: {name: start_peer(name, options.quick) for name in PEERS})
    if bench.rank == 0:
        cores = len(os.sched_getaffinity(0))
        print(f"{bench.size} ranks on {cores} cores; load {load:.1f}; medians\n")
        print_table({"DDict": ours, "raw MPI": raw, **peers})
        rates = extra["single"], extra["together"]
        print(
            f"\ninsert of a new small key: {extra['insert']:.1f} µs; memcpy of 64 MiB: "
            f"{extra['memcpy'] / 1e3:.1f} ms"
        )
        for name in "get", "put":
            print(f"{name}s a second: one rank {rates[0][name]:,.0f}, all {rates[1][name]:,.0f}")
        print()
        for what, figure, limit, least in targets(ours, raw, peers["redis"], extra, bench.size):
            met = figure >= limit if least else figure <= limit
            sign = ">=" if least else "<="
            print(f"{what:40}{figure:8.2f}  {sign} {limit:<6g}{'met' if met else 'MISSED'}")
        if options.json:
            content = {"ddict": ours, "raw": raw, **peers, "extra": extra}
            options.json.write_text(json.dumps(content, indent=1) + "\n")
    bench.world.free()


if __name__ == "__main__":
    main()
