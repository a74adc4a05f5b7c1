"""Communicators of some ranks of a program, made by these alone."""

from __future__ import annotations

from collections.abc import Sequence

from alamo_mpi.mpi.world import Communicator, World

__all__ = ["communicator_of"]

#: MPI promises no higher tag than this.
_LAST_TAG = 32_767


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
        # Open MPI agrees by messages in the parent's own space, with the caller's tag: on a
        # communicator that somebody probes for any tag, or with a tag that somebody receives
        # (0 on this one), they would be taken away.
        return world.bulk.Create_group(group, 1 + number % _LAST_TAG)
    finally:
        group.Free()
        everybody.Free()
