"""What a benchmark of a service has on each rank, without the runtime above the memory pool."""

from __future__ import annotations

import time

__all__ = ["Ranks"]


class Ranks:
    """Open a world and its memory pool; collective."""

    def __init__(self, quick: bool) -> None:
        from alamo_mpi.mpi.world import World
        from alamo_mpi.runtime.pool import open_pool

        self.quick = quick
        self.world = World()
        self.rank, self.size = self.world.rank, self.world.size
        self.pool = open_pool(self.world)

    def barrier(self) -> None:
        """Wait for all ranks, asleep: a spinning rank would take a core from the measurement."""
        request = self.world.bulk.Ibarrier()
        while not request.Test():
            time.sleep(2e-3)
