"""A program whose tasks are MPI programs: two at a time, one that crashes, and a step of Slurm."""

from __future__ import annotations

import socket

from alamo_mpi import Batch, JobError, Policy


def size() -> tuple[int, str]:
    """Return the size of the world of this process, and its host."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(1), socket.gethostname()


with Batch() as batch:
    pairs = [batch.job(size, (), 2) for _ in range(4)]
    wide = batch.job(size, (), batch.num_workers)
    step = batch.job(size, (), 2, policy=Policy(launch="srun"))
    crash = batch.job("sh", ("-c", "kill -SEGV $$"), 2)
    for task in (*pairs, wide, step, crash):
        task.start()
    print("pairs:", [[count for count, _ in pair.result.get()] for pair in pairs])
    print("wide:", len(wide.result.get()), sorted({host for _, host in wide.result.get()}))
    print("step:", [count for count, _ in step.result.get()])
    try:
        crash.result.get()
    except JobError as error:
        print("crash:", error.signal)
    print("after:", batch.function(pow, 2, 3).run())
