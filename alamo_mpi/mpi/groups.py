"""Communicators of some ranks of a program, made by these alone."""

from __future__ import annotations

from collections.abc import Sequence

from alamo_mpi.mpi.world import Communicator, World

__all__ = ["communicator_of"]

#: MPI promises no more tags than this.
_TAGS = 32_767


def communicator_of(world: World, ranks: Sequence[int], number: int) -> Communicator:
    """Return a communicator of these ranks of a world, in this order; collective over them alone.

    Parameters
    ----------
    world
        The ranks of the program.
    ranks
        Those that take part.
    number
        Tells calls apart that are under way at the same time.

    Notes
    -----
    Blocks until all of them have called it, spinning inside MPI: call it where they come soon.
    Whoever gets it frees it.
    """
    everybody = world.comm.Get_group()
    group = everybody.Incl(list(ranks))
    try:
        return world.comm.Create_group(group, number % _TAGS)
    finally:
        group.Free()
        everybody.Free()
