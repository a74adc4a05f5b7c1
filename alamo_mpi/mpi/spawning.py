"""Comm.Spawn of the wrappers of a job, under MPICH's hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mpi4py import MPI

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.library import family_of_library
from alamo_mpi.mpi.world import World

__all__ = ["check_spawn", "spawn"]


def check_spawn() -> None:
    """Refuse where Spawn is known to hang or to kill; local.

    Raises
    ------
    LaunchError
        Saying why, and what to do instead.
    """
    family = family_of_library()
    if family != "MPICH":
        raise LaunchError(
            f"launch='spawn' is for MPICH under its mpiexec; the launcher of "
            f"{family or 'another MPI'} does not survive it: leave launch at 'auto'."
        )
    # Only hydra sets it.  Under srun a spawn is a job step, and speaks another PMI.
    if "MPI_LOCALRANKID" not in os.environ:
        raise LaunchError(
            "launch='spawn' needs a program that was started by MPICH's mpiexec, and this one was "
            "not: leave launch at 'auto'."
        )


def spawn(world: World, argv: Sequence[str], hosts: Sequence[str]) -> None:
    """Spawn one process of `argv` for each host named; local.

    Parameters
    ----------
    world
        The ranks of the program; each of `hosts` must have one that lives.
    argv
        A program that has MPI initialized in its place, whatever happens: else this hangs.
    hosts
        Host name by rank.

    Notes
    -----
    Returns when all of them have called MPI_Init; meanwhile every other MPI call of this process
    waits.  No other rank of the program may be in here at the same time: hydra dies of it.
    """
    info = MPI.INFO_NULL
    if len(set(world.hosts)) > 1:  # on one host hydra would take the name for another host
        info = MPI.Info.Create({"host": ",".join(hosts)})
    children = MPI.COMM_SELF.Spawn(argv[0], list(argv[1:]), maxprocs=len(hosts), info=info)
    children.Disconnect()
    if info != MPI.INFO_NULL:
        info.Free()
