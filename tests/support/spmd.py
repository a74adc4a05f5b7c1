"""What the programs that use one service from all ranks at once, without tasks, have in common.

Every rank runs the same part on its own memory pool; a failure on any rank ends the job.  Between
hosts each rank needs MPI progress while it computes: a thread polls, as a worker's service thread
does.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from alamo_mpi.mpi.world import World
from alamo_mpi.runtime.pool import open_pool


class Progress(threading.Thread):
    """Polls MPI each millisecond."""

    def __init__(self, poll: Any) -> None:
        super().__init__(daemon=True)
        self._poll = poll
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(1e-3):
            self._poll()

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def barrier(world: World) -> None:
    """Wait for all ranks without burning the core that they need."""
    request = world.bulk.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)


def signed(rank: int, number: int, nbytes: int) -> tuple[int, int, bytes, int]:
    body = random.Random(rank << 32 | number).randbytes(nbytes)
    return rank, number, body, zlib.crc32(b"%d %d" % (rank, number) + body)


def check(value: tuple[int, int, bytes, int]) -> tuple[int, int]:
    rank, number, body, crc = value
    assert zlib.crc32(b"%d %d" % (rank, number) + body) == crc, "torn value"
    return rank, number


def main(
    parts: dict[str, Callable[[World, Any, float], None]], make: Callable[[], Any], default: str
) -> None:
    """Run ``PROGRAM [part] [seconds]``: rank 0 makes the service, all ranks get it."""
    name = sys.argv[1] if len(sys.argv) > 1 else default
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    world = World()
    try:
        pool = open_pool(world)
        progress = Progress(pool.window.progress)
        service = world.comm.bcast(make() if world.rank == 0 else None)
        parts[name](world, service, seconds)
        barrier(world)
        progress.stop()
        print(f"rank {world.rank}: {name} ok")
        world.free()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        world.abort(1)
