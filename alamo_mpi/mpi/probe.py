"""What the MPI library says of itself, for the doctor."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LibraryFacts", "library_facts"]


class LibraryFacts(NamedTuple):
    """The MPI that one rank has loaded.

    Attributes
    ----------
    family : str
        Such as ``"MPICH"``; empty where it is not known.
    version : str
        First line of what the library says of itself.
    path : str
        Where it was loaded from.
    mpi4py : str
        Version of mpi4py.
    standard : tuple of int
        Version of the MPI standard.
    thread_level : str
        As given, ``"MPI_THREAD_MULTIPLE"`` where all is well.
    """

    family: str
    version: str
    path: str
    mpi4py: str
    standard: tuple[int, int]
    thread_level: str


def library_facts() -> LibraryFacts:
    """Return the facts about the library of this rank, where MPI runs; local."""
    import mpi4py
    from mpi4py import MPI

    from alamo_mpi.mpi.library import loaded_library
    from alamo_mpi.mpi.world import THREAD_LEVELS

    family, path = loaded_library()
    version = " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split())
    return LibraryFacts(
        family,
        version.partition(", package:")[0],
        path,
        mpi4py.__version__,
        MPI.Get_version(),
        THREAD_LEVELS[MPI.Query_thread()],
    )
