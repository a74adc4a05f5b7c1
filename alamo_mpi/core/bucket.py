"""One reading of a bucket of a dictionary's index: what its words say.

A bucket is a lock word with the address of its child page, the dictionary's uid, and slots of
(hash, pointer word); the diagram is in ``ARCHITECTURE-ddict.md``, section 4.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from . import layout as at

__all__ = [
    "NOWHERE",
    "SLOT_WORDS",
    "Bucket",
    "bucket_place",
    "free_slots",
    "is_sealed",
    "match",
]

#: Words of a bucket in which the hashes of its slots are.
SLOT_WORDS: Final = range(2, at.BUCKET_WORDS, 2)


class Bucket(NamedTuple):
    """One reading of a bucket that had no child."""

    words: tuple[int, ...]
    rank: int
    offset: int
    level: int


#: In the place of a bucket of a shard that has no page yet.
NOWHERE: Final = Bucket((0,) * at.BUCKET_WORDS, -1, 0, 0)


def match(words: tuple[int, ...], key_hash: int, start: int) -> int:
    """Return the first used slot from word `start` on that has the hash; 0 if there is none."""
    try:
        while True:
            start = words.index(key_hash, start)
            # A pointer word may look like the hash; a slot that was emptied keeps its hash.
            if start & 1 == 0 and words[start + 1]:
                return start
            start += 1
    except ValueError:
        return 0


def is_sealed(words: tuple[int, ...], slot: int) -> bool:
    """Tell whether what a slot points to stays until the dictionary is unsealed.

    Both are needed: the words of a bucket may have been read at different moments, and a burst
    freezes slots as well.
    """
    return words[0] == at.SEALED and bool(words[slot + 1] & at.FROZEN)


def bucket_place(page: int, level: int, key_hash: int) -> tuple[int, int]:
    """Return rank and byte offset of the bucket that a hash has in a page of this level."""
    return page >> at.UNIT_BITS, (
        ((page & at.UNIT_MASK) << 6)
        + at.HEADER_BYTES
        + (key_hash >> 61 - 3 * level & 7) * at.BUCKET_BYTES
    )


def free_slots(words: tuple[int, ...]) -> list[int]:
    """Return the empty slots; none if the bucket must burst.

    A frozen slot in a bucket without a child is what an interrupted burst has left.
    """
    free = []
    for slot in SLOT_WORDS:
        pointer = words[slot + 1]
        if pointer & at.FROZEN:
            return []
        if not pointer:
            free.append(slot)
    return free
