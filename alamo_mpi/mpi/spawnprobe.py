"""Spawn one child and hear from it: run as a program of its own, since it may hang or crash.

mpiexec -n 1 python -m alamo_mpi.mpi.spawnprobe
"""

from __future__ import annotations

import sys

__all__ = ["SPAWNED", "spawn_once"]

#: What the program prints when all went well.
SPAWNED = "spawned and heard"
_NAME = "alamo_mpi.mpi.spawnprobe"


def spawn_once() -> None:
    """Spawn this module and wait for its word; as the child, say it."""
    from mpi4py import MPI

    parent = MPI.Comm.Get_parent()
    if parent != MPI.COMM_NULL:
        parent.send(SPAWNED, dest=0)
        parent.Disconnect()
        return
    child = MPI.COMM_SELF.Spawn(sys.executable, ["-m", _NAME])
    word = child.recv(source=0)
    child.Disconnect()
    sys.stdout.write(f"{word}\n")


if __name__ == "__main__":
    spawn_once()
