"""A program for several hosts: where its tasks ran, and a big result that moves between them."""

from __future__ import annotations

import socket

from alamo_mpi import Batch


def where(_: int) -> str:
    """Return the host's name."""
    return socket.gethostname()


def make(nbytes: int) -> bytes:
    """Return something too big to ride along with a report."""
    return bytes(range(256)) * (nbytes // 256)


def check(data: bytes, nbytes: int) -> bool:
    """Tell whether `make` made it."""
    return data == bytes(range(256)) * (nbytes // 256)


def main() -> None:
    """Run on all workers."""
    with Batch() as batch:
        tasks = [batch.function(where, i) for i in range(200)]
        batch.compile(tasks).run()
        names = sorted({task.result.get() for task in tasks})
        made = [batch.function(make, 1 << 20) for _ in range(8)]
        checked = [batch.function(check, task, 1 << 20) for task in made]
        batch.compile([*made, *checked]).run()
        print("hosts:", *names)
        print("moved:", all(task.result.get() for task in checked))
        print("workers:", batch.num_workers)


main()
