"""Estimate pi from independent tasks; a callback refines the estimate as each one ends.

    mpiexec -n 4 python -m alamo_mpi examples/monte_carlo_pi.py [--tasks 64] [--points 1000000]

The tasks do not depend on one another, so none declares what it reads or writes.  Each has a
random stream of its own, made from one seed: the estimate is the same on any number of workers.
Callbacks run on rank 0, in this program, one at a time: they may change its variables freely.
"""

import argparse
import math
import time

import numpy as np

from alamo_mpi import Batch


def points_inside(seed: np.random.SeedSequence, npoints: int) -> int:
    """Count how many of `npoints` random points of the unit square lie in the quarter circle."""
    x, y = np.random.default_rng(seed).random((2, npoints))
    return int(np.count_nonzero(x * x + y * y < 1.0))


class Estimate:
    """The running estimate; the callbacks feed it."""

    def __init__(self) -> None:
        self.inside = 0
        self.points = 0
        self.tasks = 0

    def add(self, inside: int, npoints: int, ntasks: int) -> None:
        """Take in one task's count, and show the estimate eight times on the way."""
        self.inside += inside
        self.points += npoints
        self.tasks += 1
        if self.tasks * 8 % ntasks < 8:
            print(f"{self.tasks:5d} of {ntasks} tasks: pi is about {self.value:.6f}")

    @property
    def value(self) -> float:
        """The estimate of pi from the points so far."""
        return 4.0 * self.inside / self.points


def main() -> None:
    """Run the tasks and print the estimate beside its standard error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=64, help="number of tasks")
    parser.add_argument("--points", type=int, default=1_000_000, help="points of each task")
    options = parser.parse_args()

    estimate = Estimate()
    begin = time.perf_counter()
    with Batch() as batch:
        tasks = [
            batch.function(
                points_inside,
                seed,
                options.points,
                callback_func=estimate.add,
                callback_args=(options.points, options.tasks),
            )
            for seed in np.random.SeedSequence(2024).spawn(options.tasks)
        ]
        batch.compile(tasks).run()
    seconds = time.perf_counter() - begin

    error = math.sqrt(math.pi * (4.0 - math.pi) / estimate.points)
    off = abs(estimate.value - math.pi) / error
    print(f"pi = {estimate.value:.6f} +- {error:.6f}, off by {off:.2f} standard errors")
    print(f"{estimate.points:,} points in {seconds:.2f} s")


if __name__ == "__main__":
    main()
