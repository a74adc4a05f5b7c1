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


def placements(batch: Batch) -> list[str]:
    """Return on how many hosts jobs are, and what ran where it was told to."""
    said = []
    for placement, width in (("spread", 2), ("spread", 3), ("packed", 3)):
        placed = batch.job("hostname", (), width, policy=Policy(placement=placement))
        placed.run()
        there = {line.split("] ")[1] for line in placed.stdout.get().splitlines()}
        said.append(f"{placement} {width} on {len(there)}")
    for host in ("node1", "node2", "node3"):
        policy = Policy(host=host)
        try:
            tasks = [batch.function(socket.gethostname, policy=policy) for _ in range(4)]
        except ValueError:  # a Slurm step of two nodes
            continue
        batch.compile(tasks).run()
        assert {task.result.get() for task in tasks} == {host}
        said.append(f"on {host}")
    return said


def in_own_batch() -> list[str]:
    """Return the same, of a batch that a task makes."""
    with Batch() as inner:
        return placements(inner)


def main(launches: list[str]) -> None:
    """Run on all workers."""
    with Batch() as batch:
        width = batch.num_workers
        wanted = batch.job("hostname", (), width, policy=Policy(launch="pmi"))
        assert wanted.run() == [0] * width
        hosts = [line.split("] ")[1] for line in sorted(wanted.stdout.get().splitlines())]
        said = placements(batch)
        print(*said, sep="\n")
        assert batch.function(in_own_batch).run() == said
        assert batch.function(placements, batch).run() == said
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
