"""How long one-sided operations take: rank 0 on the memory of others, idle and computing.

Measured through the package's own pool and with its own workers, so that what is found is what a
`DDict` would meet.  A word of each arena's header that nothing else uses is the target.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from alamo_mpi.batch import Batch
from alamo_mpi.doctor.facts import RmaTimes
from alamo_mpi.mpi.window import SPARE_WORD, MpiWindow
from alamo_mpi.runtime.pool import Pool, current

__all__ = ["measure_idle_and_computing", "measure_operation", "operations", "spin"]

#: Operations measured of each kind, and the seconds that they may take together.
_COUNT = 100
_LIMIT_S = 0.4


def measure_idle_and_computing() -> Iterator[RmaTimes]:
    """Measure one neighbour and one rank of another host, where there are such; on rank 0.

    The workers must be free; they compute for a second or two.
    """
    pool = current()
    targets = _targets(pool)
    for where, rank in targets.items():
        yield _measure(pool.window, where, "idle", rank)
    with Batch() as batch:
        pool.window.write_word(0, SPARE_WORD, 0)
        seconds = 4 * _LIMIT_S * len(targets) + 0.2
        tasks = batch.compile([batch.function(spin, seconds) for _ in range(batch.num_workers)])
        tasks.start()
        _until_all_spin(pool.window, batch.num_workers)
        for where, rank in targets.items():
            yield _measure(pool.window, where, "computing", rank)
        tasks.wait()


def spin(seconds: float) -> int:
    """Compute in pure Python, and say so before in rank 0's spare word; a task.

    Returns
    -------
    int
        Rounds of the loop.
    """
    current().window.add(0, SPARE_WORD, 1)
    rounds = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        rounds += 1
    return rounds


def operations(window: MpiWindow, rank: int) -> dict[str, Callable[[], object]]:
    """Return one call of each kind on a rank's spare word."""
    return {
        "get": lambda: window.word(rank, SPARE_WORD),
        "put": lambda: window.write_word(rank, SPARE_WORD, 7),
        "add": lambda: window.add(rank, SPARE_WORD, 1),
        "swap": lambda: window.compare_and_swap(rank, SPARE_WORD, 0, 0),
    }


def measure_operation(
    operation: Callable[[], object], count: int, limit_s: float = _LIMIT_S
) -> list[float]:
    """Return the seconds of each of `count` calls, fewer where the time is over before."""
    times = []
    end = time.perf_counter() + limit_s
    for _ in range(count):
        began = time.perf_counter()
        operation()
        ended = time.perf_counter()
        times.append(ended - began)
        if ended > end:
            break
    return times


def _targets(pool: Pool) -> dict[str, int]:
    """Return one rank on rank 0's host and one on another, as far as there are."""
    targets: dict[str, int] = {}
    for rank in range(1, pool.size):
        near = pool.window.near(rank)
        targets.setdefault("one host" if near else "between hosts", rank)
    return targets


def _measure(window: MpiWindow, where: str, target: str, rank: int) -> RmaTimes:
    times = {
        name: measure_operation(operation, _COUNT)
        for name, operation in operations(window, rank).items()
    }
    correct = window.word(rank, SPARE_WORD) == 7 + len(times["add"])
    medians = {name: statistics.median(each) for name, each in times.items()}
    return RmaTimes(where, target, **medians, correct=correct)


def _until_all_spin(window: MpiWindow, count: int) -> None:
    deadline = time.perf_counter() + 10.0
    attempt = 0
    while window.word(0, SPARE_WORD) < count and time.perf_counter() < deadline:
        window.pause(attempt)
        attempt += 1
