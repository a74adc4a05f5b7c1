"""Run every system, one after another, and turn what they measured into rows.

The targets stand here, each beside the figure that it judges.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alamo_mpi import Batch
from taskbench import ours, startup, worlds
from taskbench.table import Row

__all__ = ["FULL", "QUICK", "Sizes", "measure", "rows"]


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    many: int
    single: int
    length: int
    shared: int
    repeats: int
    peer_repeats: int
    starts: int
    idle_s: float


FULL = Sizes(100_000, 10_000, 1_000, 1_000, repeats=5, peer_repeats=3, starts=7, idle_s=10.0)
QUICK = Sizes(20_000, 2_000, 1_000, 200, repeats=2, peer_repeats=1, starts=2, idle_s=2.0)

SLEEPERS, SLEEP_S = 64, 0.010
ARRAY_NBYTES = 8_000_000
PAUSE_S = 0.5
START_RANKS = 4

Raw = dict[str, Any]
Say = Callable[[str], None]


def floor_and_peers(sizes: Sizes, nworkers: int, say: Say) -> Raw:
    """Measure the systems that are programs of their own."""
    nranks = nworkers + 1
    counts = ["--many", str(sizes.many), "--single", str(sizes.single)]
    more = ["--length", str(sizes.length), "--shared", str(sizes.shared)]
    more += ["--nbytes", str(ARRAY_NBYTES)]
    peer = [*counts, "--workers", str(nworkers), "--repeats", str(sizes.peer_repeats)]
    say("floor: raw mpi4py")
    floor = worlds.run_json(
        worlds.launched(nranks, "-m", "taskbench.floor", *counts, *more),
        timeout_s=300,
    )
    say("peer: mpi4py.futures")
    futures = worlds.run_json(
        worlds.launched(nranks, "-m", "mpi4py.futures", "-m", "taskbench.peers", "mpi4py", *peer),
        timeout_s=600,
    )
    say("peer: ProcessPoolExecutor")
    pool = worlds.run_json([sys.executable, "-m", "taskbench.peers", "pool", *peer], timeout_s=900)
    return {"floor": floor, "mpi4py.futures": futures, "ProcessPoolExecutor": pool}


def batch_figures(sizes: Sizes, nworkers: int, say: Say) -> Raw:
    """Measure the batch on this program's own ranks."""
    raw: Raw = {}
    repeats = range(sizes.repeats)
    with Batch(num_workers=nworkers) as batch, tempfile.TemporaryDirectory() as folder:
        say(f"batch: {sizes.many:,} tasks, compiled")
        ours.compiled(batch, sizes.many // 10)  # the workers know the function; caches are warm
        raw["compiled"] = [vars(ours.compiled(batch, sizes.many)) for _ in repeats]
        say(f"batch: {sizes.single:,} tasks, one by one")
        raw["one_by_one_s"] = [ours.one_by_one(batch, sizes.single) for _ in repeats]
        say(f"batch: a chain of {sizes.length:,}")
        raw["chain_s"] = [ours.chain(batch, sizes.length, Path(folder)) for _ in repeats]
        say("batch: sleepers")
        raw["sleepers_s"] = [ours.sleepers(batch, SLEEPERS, SLEEP_S) for _ in repeats]
        say("batch: one array for many tasks")
        shared = [ours.shared_array(batch, sizes.shared, ARRAY_NBYTES) for _ in repeats]
        raw["shared_s"] = [seconds for seconds, _ in shared]
        raw["shared_nbytes"] = [sent for _, sent in shared]
        say("batch: single tasks after a pause")
        raw["paused_s"] = ours.after_a_pause(batch, sizes.starts, PAUSE_S)
        say(f"batch: idle for {sizes.idle_s:g} s")
        raw["idle"] = ours.idle(batch, nworkers, sizes.idle_s)
    return raw


def measure(sizes: Sizes, nworkers: int, say: Say) -> Raw:
    """Measure everything; each system runs while nothing else does."""
    raw = floor_and_peers(sizes, nworkers, say)
    raw["batch"] = batch_figures(sizes, nworkers, say)
    say(f"start-up on {START_RANKS} ranks")
    batch_s, bare_s = startup.compare(START_RANKS, sizes.starts)
    raw["startup"] = {"batch_s": batch_s, "bare_s": bare_s}
    return raw


def throughput_rows(sizes: Sizes, raw: Raw) -> list[Row]:
    """Rows of the many independent tasks."""
    median = statistics.median
    runs = raw["batch"]["compiled"]
    started = median(sizes.many / run["run_s"] for run in runs)
    gotten = median(sizes.many / (run["run_s"] + run["get_s"]) for run in runs)
    whole = median(sizes.many / sum(run.values()) for run in runs)
    single = median(sizes.single / seconds for seconds in raw["batch"]["one_by_one_s"])
    floor, pool, futures = raw["floor"], raw["ProcessPoolExecutor"], raw["mpi4py.futures"]
    floor_64, floor_1 = floor["chunks_64_per_s"], floor["chunks_1_per_s"]
    pool_submit = median(pool["submit_many_per_s"])
    k = sizes.repeats

    def row(figure: str, value: float, against: str, reference: float, **target: float) -> Row:
        return Row(figure, value, "tasks/s", k, against, reference, **target)  # type: ignore[arg-type]

    many = f"{sizes.many:,} compiled"
    one = f"{sizes.single:,} one by one"
    start, get, make = "start to results", "start to get() of each", "made, compiled, run, got"
    return [
        row(f"{many}, {start}", started, "floor, chunks of 64", floor_64, at_least=0.15),
        row(f"{many}, {start}", started, "ProcessPool submit", pool_submit, at_least=10),
        row(f"{many}, {start}", started, "ProcessPool map, 64", median(pool["map_64_per_s"])),
        row(f"{many}, {start}", started, "mpi4py.futures map, 64", median(futures["map_64_per_s"])),
        row(f"{many}, {get}", gotten, "floor, chunks of 64", floor_64, at_least=0.15),
        row(f"{many}, {get}", gotten, "ProcessPool submit", pool_submit, at_least=10),
        row(f"{many}, {make}", whole, "ProcessPool submit", pool_submit, at_least=5),
        row(f"{many}, {make}", whole, "floor, chunks of 64", floor_64),
        row(one, single, "floor, chunks of 1", floor_1, at_least=0.3),
        row(
            one,
            single,
            "mpi4py.futures submit",
            median(futures["submit_single_per_s"]),
            at_least=5,
        ),
        row(one, single, "ProcessPool submit", median(pool["submit_single_per_s"])),
    ]


def other_rows(sizes: Sizes, nworkers: int, raw: Raw) -> list[Row]:
    """Rows of the chain, the sleepers, the shared array, the start-up and the idle batch."""
    median = statistics.median
    batch = raw["batch"]
    chain_us = 1e6 * median(batch["chain_s"]) / sizes.length
    ideal_s = SLEEPERS * SLEEP_S / nworkers
    shared = f"{sizes.shared:,} tasks sharing {ARRAY_NBYTES / 1e6:g} MB"
    sleepers = 100 * ideal_s / median(batch["sleepers_s"])
    start_s, bare_s = median(raw["startup"]["batch_s"]), median(raw["startup"]["bare_s"])
    return [
        Row(
            f"chain of {sizes.length:,}, compiled",
            chain_us,
            "us/task",
            sizes.repeats,
            "floor, a round trip each",
            raw["floor"]["chain_us"],
            at_most=20,
            on_value=True,
        ),
        Row(
            f"{SLEEPERS} sleeps of {1000 * SLEEP_S:g} ms on {nworkers} workers",
            sleepers,
            "% of ideal",
            sizes.repeats,
            "ideal",
            100.0,
            at_least=95,
            on_value=True,
        ),
        Row(
            f"{shared}, most sent to a worker",
            median(max(sent) for sent in batch["shared_nbytes"]) / 1e6,
            "MB",
            sizes.repeats,
            "the array, once",
            ARRAY_NBYTES / 1e6,
            at_most=1.1,
        ),
        Row(
            f"{shared}, start to results",
            1000 * median(batch["shared_s"]),
            "ms",
            sizes.repeats,
            "floor, a chunk each",
            1000 * raw["floor"]["shared_s"],
        ),
        Row(
            f"one task after {PAUSE_S:g} s with none",
            1e6 * median(batch["paused_s"]),
            "us",
            sizes.starts,
            "floor, a round trip",
            raw["floor"]["chain_us"],
        ),
        Row(
            f"start-up, {START_RANKS} ranks to the first result",
            start_s,
            "s",
            sizes.starts,
            "bare mpi4py, one message",
            bare_s,
            at_most=1.5,
        ),
        Row(
            f"idle for {sizes.idle_s:g} s, the busiest rank",
            100 * max(batch["idle"]),
            "% of a core",
            1,
            "a wait that spins",
            100.0,
            at_most=2,
            on_value=True,
        ),
    ]


def rows(sizes: Sizes, nworkers: int, raw: Raw) -> list[Row]:
    """Turn raw measurements into the rows of the table."""
    return [*throughput_rows(sizes, raw), *other_rows(sizes, nworkers, raw)]
