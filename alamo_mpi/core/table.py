"""The index of a dictionary: a trie of small pages, seen by one client.

Theory of operation, invariants and races: ``ARCHITECTURE.md`` (the memory pool).  In short: a slot
holds (hash, pointer word); a pointer that is not 0 is only ever changed by compare-and-swap; a
pointer that is 0 is only filled under the bucket's lock; a full bucket moves into a child page and
never comes back, so what this client remembers of the trie stays true.

Reads may run in several threads of a process at once.  What changes the dictionary may not: the
lock word names the rank, and the allocator belongs to one thread at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from alamo_mpi.errors import DDictDestroyedError, DDictFrozenError, DDictFullError, InternalError

from . import layout as at
from .blocks import Allocator
from .bucket import NOWHERE, SLOT_WORDS, Bucket, bucket_place, free_slots, is_sealed, match
from .records import Record, Records
from .window import Buffer, Window

__all__ = ["Entry", "Table"]

_DEEPEST: Final = 20
_PAGE: Final = struct.Struct(f"@{at.PAGE_BUCKETS * at.BUCKET_WORDS}Q")
#: Errors that come before anything was changed.
_REFUSED: Final = (DDictFrozenError, DDictDestroyedError, DDictFullError)


class Entry(NamedTuple):
    """A key's value as it was at one moment, and where its pointer word was found."""

    bucket: Bucket
    slot: int  #: byte offset of the pointer word
    pointer: int
    record: Record


class Table:
    """A client's view of the index.

    Parameters
    ----------
    window : Window
    allocator : Allocator
    uid : int
        Of the dictionary, not 0.
    root : int
        Pointer word of the root block, which holds one word per shard.
    nshards : int
    """

    def __init__(
        self, window: Window, allocator: Allocator, uid: int, root: int, nshards: int
    ) -> None:
        self.uid = uid
        self.root = root
        self.nshards = nshards
        self.window = window
        self.allocator = allocator
        self.reader = Records(window, uid)
        self._attempts = 0  # looks at a lock that others held, since the last success
        self.mine = (window.rank + 1) << at.HOLDER_SHIFT
        #: per shard: prefix of the hash, behind a leading 1 -> address of its page
        self._pages: list[dict[int, int]] = [{} for _ in range(nshards)]
        self._depth = [0] * nshards

    # -- reading ----------------------------------------------------------

    def get(self, key_hash: int, key: bytes) -> Record | None:
        """Return the value of a key, or None.  Lock-free; two or three reads."""
        load = self.reader.load
        while True:
            words = self._look(key_hash)[0]
            slot = match(words, key_hash, 2)
            while slot:
                found = load(words[slot + 1], key, sealed=is_sealed(words, slot))
                if found is True:
                    break
                if found:
                    return found
                slot = match(words, key_hash, slot + 1)
            else:
                return None

    def find(self, key_hash: int, key: bytes) -> Entry | None:
        """Return a key's value and its place, for `replace` or `remove`; None if it is missing."""
        while True:
            bucket = self.bucket(key_hash)
            slot = match(bucket.words, key_hash, 2)
            while slot:
                pointer = bucket.words[slot + 1]
                found = self.reader.load(pointer, key)
                if found is True:
                    break
                if found:
                    return Entry(bucket, bucket.offset + 8 * (slot + 1), pointer, found)
                slot = match(bucket.words, key_hash, slot + 1)
            else:
                return None

    def pointer(self, key_hash: int, key: bytes) -> int:
        """Return a key's pointer word, 0 if it is missing; reads the key, not the value."""
        while True:
            words = self._look(key_hash)[0]
            slot = self._slot_of(words, key_hash, key)
            if slot is not None:
                return words[slot + 1] if slot else 0

    def bucket(self, key_hash: int) -> Bucket:
        """Read the bucket that the hash belongs to."""
        return Bucket(*self._look(key_hash))

    def _look(self, key_hash: int) -> tuple[tuple[int, ...], int, int, int]:
        """Read a bucket as a plain tuple: from the deepest page known, downwards."""
        page, level = self.nearest_page(key_hash)
        if not page:
            return NOWHERE
        while True:
            rank, offset = bucket_place(page, level, key_hash)
            words = self.window.words(rank, offset, at.BUCKET_WORDS)
            if words[1] != self.uid:
                raise self.destroyed()
            page = words[0] & at.ADDRESS_MASK
            if not page:
                return words, rank, offset, level
            level += 1
            self.remember(key_hash, level, page)

    def nearest_page(self, key_hash: int) -> tuple[int, int]:
        """Return address and level of the deepest page known for a hash; (0, 0): there is none."""
        shard = key_hash % self.nshards
        pages = self._pages[shard]
        level = self._depth[shard]
        while level:
            page = pages.get(1 << 3 * level | key_hash >> 64 - 3 * level)
            if page is not None:
                return page, level
            level -= 1
        return pages.get(1) or self.shard_root(shard, make=False), 0

    def remember(self, key_hash: int, level: int, page: int) -> None:
        """Note that the hash leads to this page: that never changes."""
        shard = key_hash % self.nshards
        self._pages[shard][1 << 3 * level | key_hash >> 64 - 3 * level] = page
        if level > self._depth[shard]:
            self._depth[shard] = level

    # -- writing ----------------------------------------------------------

    def put(
        self,
        key_hash: int,
        key: bytes,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> None:
        """Set a key's value, whatever it is now.

        Raises
        ------
        DDictFullError, DDictFrozenError, DDictDestroyedError
            Nothing was changed.
        """
        pointer = self.allocator.write_block(self.uid, key_hash, key, body, frames, on=on)
        self.publish(key_hash, key, pointer)

    def publish(self, key_hash: int, key: bytes, pointer: int) -> None:
        """Make a block the key's value; it is retired if that fails.  Raises as `put`."""
        ours = True
        try:
            while True:
                bucket = self.bucket(key_hash)
                slot = self._slot_of(bucket.words, key_hash, key)
                if slot is None:
                    continue
                # From here until the outcome is known, an interruption may leak the block, and
                # must not free one that others can see.
                ours = False
                if slot == 0:
                    if self._insert(bucket, key_hash, key, pointer):
                        return
                elif self._swap(
                    bucket, bucket.offset + 8 * (slot + 1), bucket.words[slot + 1], pointer
                ):
                    return
                ours = True
        except _REFUSED:
            self.allocator.retire(pointer)
            raise
        except BaseException:
            if ours:
                self.allocator.retire(pointer)
            raise

    def insert(
        self,
        key_hash: int,
        key: bytes,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> Record | None:
        """Set a key's value if it has none; return the one that it has, None if it was set.

        Raises
        ------
        DDictFullError, DDictFrozenError, DDictDestroyedError
            Nothing was changed.
        """
        allocator = self.allocator
        pointer = allocator.write_block(self.uid, key_hash, key, body, frames, on=on)
        try:
            while True:
                entry = self.find(key_hash, key)
                if entry is not None:
                    allocator.retire(pointer)
                    return entry.record
                bucket = self.bucket(key_hash)
                if self._insert(bucket, key_hash, key, pointer):
                    return None
        except _REFUSED:
            allocator.retire(pointer)
            raise

    def replace(
        self,
        entry: Entry,
        key_hash: int,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> bool:
        """Set the value of `entry`'s key if it is still that one; tell whether it was."""
        pointer = self.allocator.write_block(
            self.uid, key_hash, entry.record.key, body, frames, on=on
        )
        try:
            if self._swap(entry.bucket, entry.slot, entry.pointer, pointer):
                return True
        except _REFUSED:
            self.allocator.retire(pointer)
            raise
        self.allocator.retire(pointer)
        return False

    def remove(self, entry: Entry, key_hash: int) -> bool:
        """Delete `entry`'s key if its value is still that one; tell whether it was."""
        if not self._swap(entry.bucket, entry.slot, entry.pointer, 0):
            return False
        self.add_to_count(key_hash % self.nshards, -1)
        return True

    def _swap(self, bucket: Bucket, slot: int, old: int, new: int) -> bool:
        """Change a slot's pointer word from `old`, and retire what it meant."""
        if old & at.FROZEN:
            self.settle(bucket)
            return False
        if self.window.compare_and_swap(bucket.rank, slot, old, new) != old:
            return False
        self.allocator.retire(old)
        return True

    def _slot_of(self, words: tuple[int, ...], key_hash: int, key: bytes) -> int | None:
        """Return the slot that has the key, 0 if there is none, None if the reading is too old."""
        slot = match(words, key_hash, 2)
        while slot:
            same = self.reader.has_key(words[slot + 1], key)
            if same is None:
                return None
            if same:
                return slot
            slot = match(words, key_hash, slot + 1)
        return 0

    # -- under the lock of a bucket ----------------------------------------------------------

    def _insert(self, bucket: Bucket, key_hash: int, key: bytes, pointer: int) -> bool:
        """Fill a free slot, unless the key has come meanwhile; False: look again."""
        _, rank, offset, level = bucket
        if rank < 0:
            self.shard_root(key_hash % self.nshards)
            return False
        window = self.window
        held = True
        try:
            seen = window.compare_and_swap(rank, offset, 0, self.mine)
            if seen:
                held = False
                self._blocked(seen, rank, offset)
                return False
            words = window.words(rank, offset, at.BUCKET_WORDS)
            if words[1] != self.uid:
                raise self.destroyed()
            if self._slot_of(words, key_hash, key) != 0:
                return False
            free = free_slots(words)
            if not free:
                self._burst(words, rank, offset, level)
                held = False
                return False
            slot = free[0]
            if words[slot] != key_hash:
                window.write_word(rank, offset + 8 * slot, key_hash)
            window.compare_and_swap(rank, offset + 8 * (slot + 1), 0, pointer)
        finally:
            # Also when an exception came between the swap that took the lock and its result:
            # `mine` is nobody else's, so this can only release what is held here.
            if held:
                self._unlock(rank, offset)
        self._attempts = 0
        self.add_to_count(key_hash % self.nshards, 1)
        return True

    def _burst(self, words: tuple[int, ...], rank: int, offset: int, level: int) -> None:
        """Move the keys of a locked bucket into a new child page; the child replaces the lock."""
        if level == _DEEPEST:
            raise InternalError(f"More than {at.SLOTS} keys share one 64-bit hash.", rank=rank)
        page = self.allocator.allocate_page(rank)  # may raise: before anything is frozen
        rows = [[0, self.uid] + [0] * (2 * at.SLOTS) for _ in range(at.PAGE_BUCKETS)]
        used = [2] * at.PAGE_BUCKETS
        for slot in SLOT_WORDS:
            pointer = self.freeze_slot(rank, offset + 8 * (slot + 1), words[slot + 1])
            if pointer:
                row = words[slot] >> 61 - 3 * (level + 1) & 7
                rows[row][used[row]] = words[slot]
                rows[row][used[row] + 1] = pointer & ~at.FROZEN
                used[row] += 2
        content = _PAGE.pack(*[word for row in rows for word in row])
        self.allocator.write_page(page, self.uid, content)
        self.window.compare_and_swap(rank, offset, self.mine, page)

    def freeze_slot(self, rank: int, slot: int, pointer: int) -> int:
        """Make a pointer word final; return it (0: the slot is empty, and needs no freezing)."""
        while pointer and not pointer & at.FROZEN:
            seen = self.window.compare_and_swap(rank, slot, pointer, pointer | at.FROZEN)
            pointer = pointer | at.FROZEN if seen == pointer else seen
        return pointer

    def settle(self, bucket: Bucket) -> None:
        """Wait for the burst of a bucket that has a frozen slot, or finish one broken off.

        Raises
        ------
        DDictFrozenError
            The slots are frozen because the dictionary is sealed.
        """
        _, rank, offset, level = bucket
        seen = self.window.word(rank, offset)
        if seen:
            self._blocked(seen, rank, offset)
            return
        held = True
        try:
            seen = self.window.compare_and_swap(rank, offset, 0, self.mine)
            if seen:
                held = False
                return
            words = self.window.words(rank, offset, at.BUCKET_WORDS)
            if words[1] != self.uid:
                raise self.destroyed()
            if any(words[slot + 1] & at.FROZEN for slot in SLOT_WORDS):
                self._burst(words, rank, offset, level)
                held = False
        finally:
            if held:
                self._unlock(rank, offset)

    def _unlock(self, rank: int, offset: int) -> None:
        try:
            self.window.compare_and_swap(rank, offset, self.mine, 0)
        except BaseException:
            # Interrupted (Ctrl-C) on the way out: others must not wait for ever.
            self.window.compare_and_swap(rank, offset, self.mine, 0)
            raise

    def _blocked(self, word: int, rank: int, offset: int) -> None:
        """Give the holder of a bucket's lock time, unless it will not come back."""
        if word & at.HOLDER_MASK == at.SEALED:
            raise DDictFrozenError(
                "The dictionary is frozen: unfreeze() it before writing.", rank=self.window.rank
            )
        if word == self.mine:
            # One operation of this rank runs at a time, and this one has not locked anything: an
            # earlier one was interrupted before it could unlock.
            self.window.compare_and_swap(rank, offset, self.mine, 0)
        elif word & at.HOLDER_MASK:
            self.window.check(((word & at.HOLDER_MASK) >> at.HOLDER_SHIFT) - 1)
            self.window.pause(self._attempts)
            self._attempts += 1

    # -- shards ----------------------------------------------------------

    def root_word(self, shard: int) -> tuple[int, int]:
        """Return rank and offset of the word that holds the shard's root page."""
        rank, offset = at.place(self.root)
        return rank, offset + at.CONTENT + 8 * shard

    def shard_root(self, shard: int, *, make: bool = True) -> int:
        """Return the address of a shard's root page; 0 if there is none and none is to be made."""
        known = self._pages[shard].get(1)
        if known is not None:
            return known
        rank, offset = self.root_word(shard)
        page = self.window.word(rank, offset)
        if page == 0 and make:
            page = self._make_root(shard, rank, offset)
        if page == at.TOMBSTONE:
            raise self.destroyed()
        if page:
            self._pages[shard][1] = page
        return page

    def _make_root(self, shard: int, rank: int, offset: int) -> int:
        page = self.allocator.allocate_page(self._home_of(shard))
        row = [0, self.uid] + [0] * (2 * at.SLOTS)
        self.allocator.write_page(page, self.uid, _PAGE.pack(*row * at.PAGE_BUCKETS))
        seen = self.window.compare_and_swap(rank, offset, 0, page)
        if seen == 0:
            return page
        self.allocator.retire(page)
        return seen

    def _home_of(self, shard: int) -> int:
        """Return where the root page of a shard is to be: on the rank of that number, if it lives.

        Others may know of other losses: what counts is the page that they find.
        """
        window = self.window
        ranks = ((shard + distance) % window.size for distance in range(window.size))
        return next((rank for rank in ranks if rank not in window.lost), window.rank)

    def add_to_count(self, shard: int, delta: int) -> None:
        """Count keys in the shard's root page."""
        rank, offset = at.place(self._pages[shard][1])
        self.window.add(rank, offset + at.PAGE_COUNT, delta)

    def destroyed(self) -> DDictDestroyedError:
        """Make the error for a dictionary whose pages are not its own any more."""
        return DDictDestroyedError(
            "The dictionary was destroyed; make a new DDict.", rank=self.window.rank
        )
