"""What the memory pool asks of its memory: the `Window` protocol.

Two implementations: `alamo_mpi.mpi.window.MpiWindow` over one RMA window, and the fake of the test
suite, in which every operation is a switch point between simulated clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Buffer", "Window"]

Buffer = bytes | bytearray | memoryview


class Window(Protocol):
    """The memory of all ranks, one segment of `nbytes` bytes each, seen from one rank.

    Every method is local (it needs no matching call anywhere) and complete when it returns: what
    was written can be read by everyone, what was read had been written.  Offsets are in bytes from
    the start of the target's segment; those of words are multiples of 8.

    Attributes
    ----------
    rank, size : int
        The caller's rank, and the number of ranks.
    nbytes : int
        Bytes in each rank's segment.
    direct : list of bool
        Whether the segment of that rank is mapped here, so that a second small read is cheaper
        than a longer first one.
    lost : set of int
        Ranks that were lost, and their segments with them; grows only.
    """

    rank: int
    size: int
    nbytes: int
    direct: list[bool]
    lost: set[int]

    def word(self, rank: int, offset: int) -> int:
        """Read one unsigned 64-bit word, whole."""

    def words(self, rank: int, offset: int, count: int) -> tuple[int, ...]:
        """Read `count` words: each is whole, but they may be of different moments."""

    def read(self, rank: int, offset: int, nbytes: int) -> bytes:
        """Return a copy of `nbytes` bytes; bytes that are written meanwhile come out mixed."""

    def read_into(self, rank: int, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (C-contiguous bytes) from the segment, like `read`."""

    def write_word(self, rank: int, offset: int, value: int) -> None:
        """Store one word that no one else writes at the same time."""

    def write(self, rank: int, offset: int, data: Buffer) -> None:
        """Store bytes (C-contiguous) that no one else writes at the same time."""

    def fill_many(self, reads: Sequence[tuple[int, int, memoryview]]) -> None:
        """Do `read_into` for each (rank, offset, buffer), all under way together."""

    def write_words(self, writes: Sequence[tuple[int, int, int]]) -> None:
        """Do `write_word` for each (rank, offset, value), all under way together."""

    def swap_many(self, swaps: Sequence[tuple[int, int, int, int]]) -> list[int]:
        """Do `compare_and_swap` for each (rank, offset, expected, desired), all under way together.

        The words are distinct; the order in which they are changed is not defined.
        """

    def compare_and_swap(self, rank: int, offset: int, expected: int, desired: int) -> int:
        """Set the word to `desired` if it is `expected`, atomically; return what it was."""

    def add(self, rank: int, offset: int, delta: int) -> int:
        """Add to the word modulo 2**64, atomically; return what it was."""

    def empty(self, nbytes: int) -> memoryview:
        """Return a new writable buffer of this process, content undefined."""

    def check(self, rank: int) -> None:
        """Raise if that rank was lost, so that nothing of its will come.

        Raises
        ------
        ShardLostError
        """

    def pause(self, attempt: int) -> None:
        """Let others go on before the caller looks again, longer as `attempt` (0, 1, ...) grows."""
