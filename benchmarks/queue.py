"""How fast a `Queue` is, against multiprocessing, Redis lists, and DragonHPC's native queue.

    mpiexec -n 4 python benchmarks/queue.py [--quick] [--json FILE]

Prints one table: items a second from one producer to one consumer and from two to two (with four
ranks), as ``bytes`` and as numpy arrays, through queues that hold at most 16 items; then the round
trip of one item through two queues.  Ranks without a part sleep.  The peers are measured where they
are installed, in processes of their own, one after the other.  A missed target is printed as such
and is no error.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import json
import os
import pickle
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onranks import Ranks
from peers import measured, redis_server

SIZES = {"100 B": 100, "64 KiB": 1 << 16, "1 MiB": 1 << 20}
KINDS: dict[str, Callable[[int], Any]] = {"bytes": bytes, "array": lambda n: np.ones(n, "u1")}
SHAPES = ((1, 1), (2, 2))
MAXSIZE = 16
Figures = dict[str, float]


def count_of(nbytes: int, quick: bool) -> int:
    """Return how many items each producer sends: about as long for every size."""
    return max(200, min(30_000, (1 << 31) // (nbytes + (1 << 15)))) // (10 if quick else 1)


def send(queue: Any, item: Any, count: int) -> None:
    """Be a producer."""
    put = queue.put
    for _ in range(count):
        put(item)


def receive(queue: Any, count: int) -> None:
    """Be a consumer."""
    get = queue.get
    for _ in range(count):
        get()


def play(queue: Any, item: Any, count: int, produces: bool) -> tuple[float, float]:
    """Be either; return when it began and ended."""
    start = time.monotonic()
    (send(queue, item, count) if produces else receive(queue, count))
    return start, time.monotonic()


def ping(there: Any, back: Any, count: int) -> float:
    """Return the median time of a round trip, in microseconds."""
    times = []
    for i in range(count):
        start = time.perf_counter()
        there.put(i)
        back.get()
        times.append(time.perf_counter() - start)
    return statistics.median(times[count // 4 :]) * 1e6


def pong(there: Any, back: Any, count: int) -> None:
    """Answer."""
    for _ in range(count):
        back.put(there.get())


def rate(spans: list[tuple[float, float]], count: int) -> float:
    """Return items a second, from the first start to the last end."""
    return count / (max(end for _, end in spans) - min(start for start, _ in spans))


# -- peers: queues of any kind among processes of any kind ---------------------------------------


class RedisQueue:
    """A list in a Redis server."""

    def __init__(self, socket: str, name: str) -> None:
        import redis

        self._client, self._name = redis.Redis(unix_socket_path=socket), name

    def put(self, item: Any) -> None:
        """Append an item; wait while there are too many."""
        length = self._client.rpush(self._name, pickle.dumps(item, 5))
        while length > MAXSIZE:
            length = self._client.llen(self._name)

    def get(self) -> Any:
        """Wait for an item."""
        return pickle.loads(self._client.blpop(self._name)[1])


def _part(make: Callable[..., Any], args: tuple[Any, ...], job: tuple[Any, ...], out: Any) -> None:
    """Run one process's part: of an exchange, or of a round trip."""
    queues = [make(*each) for each in args]
    barrier, kind, nbytes, count, produces = job
    item = KINDS[kind](nbytes) if kind else None
    barrier.wait()
    if kind:
        out.put(play(queues[0], item, count, produces))
    else:
        out.put(ping(*queues, count) if produces else pong(*queues, count))


def measure_peer(multiprocessing: Any, make: Callable[..., Any], new: Any, quick: bool) -> Figures:
    """Measure queues that `make` opens in each process from what `new()` returns."""
    figures: Figures = {}

    def exchange(producers: int, consumers: int, kind: str, nbytes: int, count: int) -> list[Any]:
        parts = producers + consumers
        barrier, out = multiprocessing.Barrier(parts), multiprocessing.Queue()
        args = [new()] if kind else [new(), new()]
        processes = [
            multiprocessing.Process(
                target=_part, args=(make, args, (barrier, kind, nbytes, count, i < producers), out)
            )
            for i in range(parts)
        ]
        for process in processes:
            process.start()
        answers = [out.get() for _ in processes]
        for process in processes:
            process.join()
        return answers

    for label, nbytes in SIZES.items():
        count = count_of(nbytes, quick)
        for kind in KINDS:
            for shape in SHAPES:
                spans = exchange(*shape, kind, nbytes, count)
                figures[name_of(shape, label, kind)] = rate(spans, shape[0] * count)
    count = 300 if quick else 3000
    figures["round trip"] = next(t for t in exchange(1, 1, "", 0, count) if t is not None)
    return figures


def _itself(queue: Any) -> Any:
    return queue


def measure_multiprocessing(quick: bool) -> Figures:
    """Measure `multiprocessing.Queue`."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    return measure_peer(context, _itself, lambda: (context.Queue(MAXSIZE),), quick)


def measure_redis(quick: bool) -> Figures | None:
    """Measure Redis lists with `pickle`."""
    import itertools
    import multiprocessing

    numbers = itertools.count()
    with redis_server() as socket:
        if socket is None:
            return None
        context = multiprocessing.get_context("fork")
        return measure_peer(context, RedisQueue, lambda: (socket, f"q{next(numbers)}"), quick)


def measure_dragon(quick: bool) -> Figures:
    """Measure DragonHPC's native queue; under its launcher."""
    import multiprocessing

    import dragon
    from dragon.native.queue import Queue

    assert dragon
    multiprocessing.set_start_method("dragon")
    return measure_peer(multiprocessing, _itself, lambda: (Queue(MAXSIZE),), quick)


PEERS = {
    "multiprocessing": measure_multiprocessing,
    "redis": measure_redis,
    "dragon": measure_dragon,
}


def start_peer(name: str, quick: bool) -> Figures | None:
    """Measure one peer in a fresh process."""
    launcher = [sys.executable]
    if name == "dragon":
        found = shutil.which("dragon")
        if found is None:
            return None
        launcher = [found, "--single-node-override"]
    argv = [*launcher, str(Path(__file__).resolve()), "--peer", name]
    figures: Figures | None = measured(name, [*argv, *(["--quick"] if quick else [])])
    return figures


# -- ours, under MPI -----------------------------------------------------------------------------


def name_of(shape: tuple[int, int], label: str, kind: str) -> str:
    """Return the name of a row."""
    return f"{shape[0]} to {shape[1]}, {label} {kind}"


class Bench(Ranks):
    """The measurements that need the ranks; every method is called by all of them."""

    def __init__(self, quick: bool) -> None:
        from alamo_mpi.queue import Queue

        super().__init__(quick)
        self._make = Queue

    def queues(self, count: int, maxsize: int = MAXSIZE) -> list[Any]:
        """Make queues on rank 0 for all."""
        made = [self._make(maxsize) for _ in range(count)] if self.rank == 0 else None
        shared: list[Any] = self.world.comm.bcast(made)
        self.barrier()
        return shared

    def drop(self, queues: list[Any]) -> None:
        """Destroy them when all are done."""
        self.barrier()
        if self.rank == 0:
            for queue in queues:
                queue.destroy()

    def exchange(self, shape: tuple[int, int], nbytes: int, kind: str) -> float:
        """Return items a second."""
        queues, count = self.queues(1), count_of(nbytes, self.quick)
        span = None
        if self.rank < sum(shape):
            span = play(queues[0], KINDS[kind](nbytes), count, self.rank < shape[0])
        self.drop(queues)
        spans = [each for each in self.world.comm.allgather(span) if each is not None]
        return rate(spans, shape[0] * count)

    def many(self, batch: int = 100) -> float:
        """Return items of 100 B a second by `put_many` and `get_many`."""
        queues, count = self.queues(1, 0), (30_000 if self.quick else 300_000)
        items, span = [bytes(100)] * batch, None
        if self.rank < 2:
            start = time.monotonic()
            left = count
            while left > 0:
                if self.rank == 0:
                    queues[0].put_many(items)
                    left -= batch
                else:
                    left -= len(queues[0].get_many(batch))
            span = start, time.monotonic()
        self.drop(queues)
        spans = [each for each in self.world.comm.allgather(span) if each is not None]
        return rate(spans, count)

    def round_trip(self) -> float:
        """Return microseconds."""
        queues, count = self.queues(2), (300 if self.quick else 3000)
        found = 0.0
        if self.rank == 0:
            found = ping(*queues, count)
        elif self.rank == 1:
            pong(*queues, count)
        self.drop(queues)
        return found

    def figures(self) -> Figures:
        """Measure all."""
        found: Figures = {}
        for label, nbytes in SIZES.items():
            for kind in KINDS:
                for shape in SHAPES:
                    if sum(shape) <= self.size:
                        found[name_of(shape, label, kind)] = self.exchange(shape, nbytes, kind)
        found["put_many, 100 B"] = self.many()
        found["round trip"] = self.round_trip()
        return found

    def memcpy(self) -> float:
        """Return how often 1 MiB can be copied in and out by one core; a second."""
        found = 0.0
        if self.rank == 0:
            source, middle, target = (np.ones(1 << 20, "u1") for _ in range(3))
            times = []
            for _ in range(300):
                start = time.perf_counter()
                np.copyto(middle, source)
                np.copyto(target, middle)
                times.append(time.perf_counter() - start)
            found = 1 / statistics.median(times)
        self.barrier()
        return found


def targets(ours: Figures, peers: dict[str, Figures | None], memcpy: float) -> list[Any]:
    """Return (what, figure, limit, whether the figure must be at least that)."""
    found: list[Any] = []
    dragon, plain = peers["dragon"], peers["multiprocessing"]

    def least(what: str, figure: float, limit: float) -> None:
        found.append((what, figure, limit, True))

    for label, gain in ("64 KiB", 5), ("1 MiB", 20):
        name = name_of((1, 1), label, "bytes")
        if dragon:
            least(f"{name} / DragonHPC", ours[name] / dragon[name], 1)
        if plain:
            least(f"{name} / multiprocessing", ours[name] / plain[name], gain)
    least("1 MiB / memcpy in and out", ours[name_of((1, 1), "1 MiB", "bytes")] / memcpy, 0.5)
    name = name_of((1, 1), "100 B", "bytes")
    least(f"{name}, items/s", ours[name], 40_000)
    if plain:
        least(f"{name} / multiprocessing", ours[name] / plain[name], 2)
    least("put_many, 100 B, items/s", ours["put_many, 100 B"], 200_000)
    if plain:
        trip = ours["round trip"] / plain["round trip"]
        found.append(("round trip / multiprocessing", trip, 0.7, False))
    return found


def print_table(columns: dict[str, Figures | None]) -> None:
    """Print one row a measurement."""
    shown = {name: figures for name, figures in columns.items() if figures is not None}
    print(f"{'items a second':28}" + "".join(f"{name:>17}" for name in shown))
    for row in columns["Queue"] or ():
        cells = "".join(
            f"{figures[row]:17,.0f}" if row in figures else f"{'-':>17}"
            for figures in shown.values()
        )
        print(f"{row + ', µs' if row == 'round trip' else row:28}{cells}")
    for name, figures in columns.items():
        if figures is None:
            print(f"({name}: not installed)")


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer items")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(PEERS[options.peer](options.quick)))
        return
    bench = Bench(options.quick)
    load = os.getloadavg()[0]
    ours = bench.figures()
    memcpy = bench.memcpy()
    peers: dict[str, Figures | None] = {}
    if bench.rank == 0:
        peers = {name: start_peer(name, options.quick) for name in PEERS}
    bench.barrier()
    if bench.rank == 0:
        cores = len(os.sched_getaffinity(0))
        print(f"{bench.size} ranks on {cores} cores; load {load:.1f}\n")
        print_table({"Queue": ours, **peers})
        print(f"\n1 MiB copied in and out by one core: {memcpy:,.0f} a second\n")
        for what, figure, limit, is_least in targets(ours, peers, memcpy):
            met = figure >= limit if is_least else figure <= limit
            sign = ">=" if is_least else "<="
            print(f"{what:44}{figure:12,.2f}  {sign} {limit:<8g}{'met' if met else 'MISSED'}")
        if options.json:
            content = {"queue": ours, **peers, "memcpy": memcpy}
            options.json.write_text(json.dumps(content, indent=1) + "\n")
    bench.world.free()


if __name__ == "__main__":
    main()
