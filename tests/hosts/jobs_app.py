"""A program for several hosts that runs jobs on all of its workers, by each launch it is told."""

from __future__ import annotations

import socket
import sys
from typing import Any

from alamo_mpi import Batch, JobError, Policy


def with_mpi() -> tuple[str, int]:
    """Return the host's name, and a sum over all ranks."""
    from mpi4py import MPI

    return socket.gethostname(), MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank)


def on_ranks(comm: Any) -> tuple[str, int]:
    """Return the host's name, and a sum over all ranks."""
    return socket.gethostname(), comm.allreduce(comm.rank)


def main(launches: list[str]) -> None:
    """Run on all workers."""
    with Batch() as batch:
        width = batch.num_workers
        wanted = batch.job("hostname", (), width, policy=Policy(launch="pmi"))
        assert wanted.run() == [0] * width
        hosts = [line.split("] ")[1] for line in sorted(wanted.stdout.get().splitlines())]
        for placement, width_of in (("spread", 2), ("spread", 3), ("packed", 3)):
            placed = batch.job("hostname", (), width_of, policy=Policy(placement=placement))
            placed.run()
            there = {line.split("] ")[1] for line in placed.stdout.get().splitlines()}
            print(placement, width_of, "on", len(there))
        for launch in launches:
            policy = Policy(launch=launch)
            target = on_ranks if launch == "ranks" else with_mpi
            job = batch.job(target, (), width, policy=policy)
            assert job.run() == [(host, sum(range(width))) for host in hosts], job.result.get()
            if launch != "ranks":
                crash = batch.job("sh", ("-c", "kill -SEGV $$"), width, policy=policy)
                try:
                    crash.run()
                except JobError as error:
                    print("crash:", error.signal)
            print("launch:", launch)
        print("hosts:", *sorted(set(hosts)))


main(sys.argv[1:])
