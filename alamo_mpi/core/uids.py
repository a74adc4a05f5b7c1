"""Ids of tasks, unique in the program: each process that starts tasks counts its own.

A process has a number: that of its rank, or ``connection * size + rank`` for one that is attached
to that rank and speaks with it by its n-th connection (n >= 1).
"""

from __future__ import annotations

from typing import Final

__all__ = ["connection_of", "first_uid"]

#: These bits count, those above are the process's number.
_COUNT_BITS: Final = 40


def first_uid(rank: int, connection: int = 0, size: int = 1) -> int:
    """Return the first task id of a process.

    Parameters
    ----------
    rank
        Of the process, or the one that it is attached to.
    connection
        By which it is attached; 0 for the rank itself.
    size
        Number of ranks of the program.
    """
    return (connection * size + rank) << _COUNT_BITS


def connection_of(uid: int, size: int) -> int:
    """Return the connection of the process that has started a task; 0 for a rank itself."""
    return (uid >> _COUNT_BITS) // size
