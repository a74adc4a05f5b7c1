"""Lend the ranks of an MPI program to a batch, twice, and have them back in between.

    mpiexec -n 4 python examples/existing_mpi_code.py

Every rank runs this program, as MPI programs do.  ``with alamo_mpi.serve(comm)`` is collective
over ``comm``: the block runs on its rank 0 only, the other ranks work for it until it ends, and
then all of them go on behind it.  The batch talks over communicators of its own, so the program's
messages, here the ``Allreduce`` of each time step, cannot meet the batch's.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import alamo_mpi

STEPS = 2
CELLS = 1000


def analyse(step: int, values: NDArray[np.float64]) -> tuple[int, float]:
    """Reduce a part of the field; a task, so it runs on any rank."""
    return step, float(values.sum())


def main() -> None:
    """Alternate a time step on all ranks with an analysis by tasks."""
    comm = MPI.COMM_WORLD
    field = np.full(CELLS, float(comm.rank))

    for step in range(STEPS):
        field += 1.0
        mean = comm.allreduce(field.sum()) / (CELLS * comm.size)
        everything = comm.gather(field)

        with alamo_mpi.serve(comm):
            # Only rank 0 is here; the other ranks run the tasks.
            assert everything is not None
            with alamo_mpi.Batch() as batch:
                tasks = [batch.function(analyse, step, part) for part in everything]
                batch.compile(tasks).run()
                sums = [task.result.get() for task in tasks]
            total = sum(value for _, value in sums)
            print(f"step {step}: {len(sums)} tasks, mean {total / (CELLS * comm.size):.6f}")
            print(f"step {step}: by Allreduce,  mean {mean:.6f}")

        # Every rank is here again, and its communicator is as it was.
        comm.Barrier()

    counted = comm.allreduce(1)
    if comm.rank == 0:
        print(f"all {counted} ranks went through {STEPS} steps")


if __name__ == "__main__":
    main()
