"""Bytes and words of the memory pool: arena header, pointer words, blocks, index pages.

The diagrams are in ``ARCHITECTURE.md`` (the memory pool).  This file knows where things are, not
what is done with them.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ADDRESS_MASK",
    "BUCKET_BYTES",
    "BUCKET_WORDS",
    "CONTENT",
    "FANOUT_BITS",
    "FREE_BYTES",
    "FROZEN",
    "GENERATION_MASK",
    "GENERATION_SHIFT",
    "HEADER_BYTES",
    "HEADER_TAIL",
    "HEADER_WORDS",
    "HOLDER_MASK",
    "HOLDER_SHIFT",
    "LARGEST_BYTES",
    "MANAGED_BYTES",
    "MARK",
    "MAX_ARENA_BYTES",
    "MAX_RANKS",
    "NEXT",
    "PAGE_BUCKETS",
    "PAGE_COUNT",
    "PAGE_KEY",
    "PAGE_UNITS",
    "PARKED_BYTES",
    "RETURNED",
    "SEALED",
    "SHAPE",
    "SLOTS",
    "TOMBSTONE",
    "UID",
    "UNIT",
    "UNIT_BITS",
    "UNIT_MASK",
    "address_of",
    "align",
    "place",
]

# Addresses count units of 64 bytes: a cache line, the alignment of frames, and 30 bits of it are
# 64 GiB of arena.
UNIT: Final = 64
UNIT_BITS: Final = 30
UNIT_MASK: Final = (1 << UNIT_BITS) - 1
RANK_BITS: Final = 14
MAX_RANKS: Final = 1 << RANK_BITS
MAX_ARENA_BYTES: Final = UNIT << UNIT_BITS

# Pointer word: frozen (1) | generation (19) | rank (14) | unit (30).
ADDRESS_MASK: Final = (1 << (UNIT_BITS + RANK_BITS)) - 1
GENERATION_SHIFT: Final = UNIT_BITS + RANK_BITS
GENERATION_MASK: Final = (1 << 19) - 1
FROZEN: Final = 1 << 63

# Arena header, byte offsets of its words.
MARK: Final = 0
RETURNED: Final = 8
MANAGED_BYTES: Final = 16
FREE_BYTES: Final = 24
PARKED_BYTES: Final = 32
LARGEST_BYTES: Final = 40

# Block header: byte offsets of the words that are touched alone.
HEADER_WORDS: Final = 8
HEADER_BYTES: Final = 64
NEXT: Final = 8
UID: Final = 16
SHAPE: Final = 32
CONTENT: Final = 64
PAGE_COUNT: Final = 56
#: Words 1 to 7 of a block's header.
HEADER_TAIL: Final = struct.Struct("@7Q")
#: In the place of the key's length: this block is an index page.
PAGE_KEY: Final = 0xFFFFFFFF

# Bucket word 0: holder + 1 of the lock (15) | address of the child page (44).
HOLDER_SHIFT: Final = UNIT_BITS + RANK_BITS
HOLDER_MASK: Final = 0x7FFF << HOLDER_SHIFT
#: The holder of the lock of a bucket that is sealed for reading.
SEALED: Final = 0x7FFF << HOLDER_SHIFT
#: In the place of a shard's root page: the dictionary was destroyed.
TOMBSTONE: Final = (1 << 64) - 1

SLOTS: Final = 7
BUCKET_WORDS: Final = 2 + 2 * SLOTS
BUCKET_BYTES: Final = 8 * BUCKET_WORDS
FANOUT_BITS: Final = 3
PAGE_BUCKETS: Final = 1 << FANOUT_BITS
PAGE_UNITS: Final = (HEADER_BYTES + PAGE_BUCKETS * BUCKET_BYTES) // UNIT


def address_of(rank: int, unit: int) -> int:
    """Pack rank and unit."""
    return rank << UNIT_BITS | unit


def place(pointer: int) -> tuple[int, int]:
    """Return rank and byte offset that a pointer word or an address means.

    >>> place(address_of(3, 2) | 7 << GENERATION_SHIFT | FROZEN)
    (3, 128)
    """
    return (pointer & ADDRESS_MASK) >> UNIT_BITS, (pointer & UNIT_MASK) * UNIT


def align(nbytes: int) -> int:
    """Round up to a whole number of units, in bytes.

    >>> align(1), align(64), align(65)
    (64, 64, 128)
    """
    return -(-nbytes // UNIT) * UNIT
