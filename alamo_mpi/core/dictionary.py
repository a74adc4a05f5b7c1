"""A whole dictionary: made, walked, counted, sealed, emptied, destroyed.

`core.table` knows one key at a time; this file knows all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from . import layout as at
from . import many
from .blocks import Allocator
from .bucket import Bucket
from .quota import Quota
from .records import Record
from .table import Table
from .window import Window

__all__ = ["Descriptor", "Dictionary", "create"]

_WORD: Final = struct.Struct("@Q")
_PAGE_WORDS: Final = at.PAGE_BUCKETS * at.BUCKET_WORDS


class Descriptor(NamedTuple):
    """What another process needs to use a dictionary."""

    uid: int
    root: int
    nshards: int
    quota: int  #: units that its values may take, 0 for no bound


class _Found(NamedTuple):
    """A used slot met by a walk."""

    slot: int
    key_hash: int
    pointer: int


def create(
    window: Window, allocator: Allocator, number: int, total_nbytes: int | None = None
) -> Descriptor:
    """Make an empty dictionary; local: only the caller's arena is touched.

    Parameters
    ----------
    number : int
        At least 1, and never given twice by this rank.
    total_nbytes : int, optional
        What its values may take, keys and headers included.

    Raises
    ------
    DDictFullError
    """
    uid = (window.rank + 1) << 48 | number
    quota = 0 if total_nbytes is None else max(1, total_nbytes // at.UNIT)
    # Never retired: a client that knows it from long ago finds the tombstones in it.
    content = bytes(8 * window.size) + _WORD.pack(quota)
    root = allocator.write_block(uid, 0, b"", content)
    return Descriptor(uid, root, window.size, quota)


class Dictionary(Table):
    """A client of one dictionary: single keys by `Table`, and what concerns all keys."""

    def __init__(self, window: Window, allocator: Allocator, descriptor: Descriptor) -> None:
        uid, root, nshards, quota = descriptor
        super().__init__(window, allocator, uid, root, nshards)
        if quota:
            rank, offset = self.root_word(nshards)
            allocator.set_quota(uid, Quota(window, rank, offset, quota))

    def get_many(self, keys: Sequence[tuple[int, bytes]]) -> list[Record | None]:
        """Return the values of many keys, given as (hash, key); see `core.many`."""
        return many.get_many(self, keys)

    def put_many(self, items: Iterable[many.Item]) -> None:
        """Set the values of many keys; see `core.many`."""
        many.put_many(self, items)

    def count(self) -> int:
        """Return the number of keys; one read per shard."""
        total = 0
        for shard in range(self.nshards):
            page = self.shard_root(shard, make=False)
            if page:
                rank, offset = at.place(page)
                count = self.window.word(rank, offset + at.PAGE_COUNT)
                # A delete may be counted before the insert that it follows.
                total += count if count < 1 << 63 else count - (1 << 64)
        return max(total, 0)

    def records(self, *, on: int | None = None) -> Iterator[Record]:
        """Iterate over keys and values, those in arena `on` only if given.

        Every key that was there from the first step to the last comes exactly once; one that came,
        went or changed meanwhile may come or not, with a value that it had meanwhile.
        """
        for bucket in self._walk():
            shown: set[bytes] = set()
            for found in _used(bucket):
                if on is not None and at.place(found.pointer)[0] != on:
                    continue
                record = self.reader.load(found.pointer)
                # Equal hashes share a bucket, so what is looked up again can only repeat
                # what this bucket has shown.
                fresh = [record] if isinstance(record, Record) else self._again(found.key_hash, on)
                for record in fresh:
                    if record.key not in shown:
                        shown.add(record.key)
                        yield record

    def count_on(self, rank: int) -> int:
        """Return the number of values in one arena; reads the whole index."""
        return sum(1 for _ in self.pointers(on=rank))

    def pointers(self, *, on: int | None = None) -> Iterator[int]:
        """Iterate over the pointer words of all values, or of those in arena `on`."""
        for bucket in self._walk():
            for found in _used(bucket):
                if on is None or at.place(found.pointer)[0] == on:
                    yield found.pointer

    def figures(self) -> list[dict[str, int]]:
        """Return figures for each rank; the pool's are as its manager published them."""
        window = self.window
        rows = []
        for rank in range(window.size):
            header: tuple[int, ...] = (0,) * at.HEADER_WORDS
            if rank not in window.lost:
                header = window.words(rank, 0, at.HEADER_WORDS)
            mark, _, managed, free, parked, largest, _, _ = header
            rows.append(
                {
                    "keys": 0,
                    "nbytes": 0,
                    "pool_nbytes": window.nbytes,
                    "leased_nbytes": mark * at.UNIT,
                    "managed_nbytes": managed,
                    "free_nbytes": free,
                    "parked_nbytes": parked,
                    "largest_nbytes": largest,
                }
            )
        for pointer in self.pointers():
            rank, offset = at.place(pointer)
            rows[rank]["keys"] += 1
            units = window.word(rank, offset + at.SHAPE) & 0xFFFFFFFF
            rows[rank]["nbytes"] += units * at.UNIT
        return rows

    def _again(self, key_hash: int, on: int | None) -> list[Record]:
        """Read what has the hash now; its slot was met in a walk, and its block is gone."""
        while True:
            bucket = self.bucket(key_hash)
            records = []
            for slot in range(2, at.BUCKET_WORDS, 2):
                pointer = bucket.words[slot + 1]
                if bucket.words[slot] != key_hash or not pointer:
                    continue
                if on is not None and at.place(pointer)[0] != on:
                    continue
                record = self.reader.load(pointer)
                if not isinstance(record, Record):
                    break
                records.append(record)
            else:
                return records

    def _walk(self) -> Iterator[Bucket]:
        """Visit the buckets without a child, each once, in one read per page."""
        for shard in range(self.nshards):
            root = self.shard_root(shard, make=False)
            pages = [(root, 0)] if root else []
            while pages:
                page, level = pages.pop()
                rank, offset = at.place(page)
                offset += at.HEADER_BYTES
                words = self.window.words(rank, offset, _PAGE_WORDS)
                for index in range(at.PAGE_BUCKETS):
                    row = words[index * at.BUCKET_WORDS : (index + 1) * at.BUCKET_WORDS]
                    if row[1] != self.uid:
                        raise self.destroyed()
                    child = row[0] & at.ADDRESS_MASK
                    if child:
                        pages.append((child, level + 1))
                        continue
                    yield Bucket(row, rank, offset + index * at.BUCKET_BYTES, level)

    def clear(self) -> None:
        """Delete the keys one by one."""
        for bucket in self._walk():
            for found in _used(bucket):
                if self._swap(bucket, found.slot, found.pointer, 0):
                    self.add_to_count(found.key_hash % self.nshards, -1)
                else:
                    self._clear_hash(found.key_hash)

    def _clear_hash(self, key_hash: int) -> None:
        while True:
            bucket = self.bucket(key_hash)
            left = [found for found in _used(bucket) if found.key_hash == key_hash]
            if not left:
                return
            for found in left:
                if self._swap(bucket, found.slot, found.pointer, 0):
                    self.add_to_count(key_hash % self.nshards, -1)

    # -- all buckets at once ----------------------------------------------------------

    def seal(self) -> None:
        """Refuse all writes until `unseal`; pages are made for shards that have none."""
        for shard in range(self.nshards):
            self._seal_page(self.shard_root(shard), 0)

    def _seal_page(self, page: int, level: int) -> None:
        for bucket in self._buckets(page, level):
            child = self._close(bucket, at.SEALED)
            if child:
                self._seal_page(child, level + 1)

    def unseal(self) -> None:
        """Allow writes again."""
        for shard in range(self.nshards):
            root = self.shard_root(shard, make=False)
            if root:
                self._unseal_page(root, 0)

    def _unseal_page(self, page: int, level: int) -> None:
        window = self.window
        for bucket in self._buckets(page, level):
            word = bucket.words[0]
            if word & at.ADDRESS_MASK:
                self._unseal_page(word & at.ADDRESS_MASK, level + 1)
            elif word & at.HOLDER_MASK == at.SEALED:
                for found in _used(bucket):
                    frozen = found.pointer | at.FROZEN
                    window.compare_and_swap(bucket.rank, found.slot, frozen, frozen & ~at.FROZEN)
                window.compare_and_swap(bucket.rank, bucket.offset, at.SEALED, 0)

    def destroy(self) -> None:
        """Delete everything; every client's next operation raises `DDictDestroyedError`."""
        window = self.window
        for shard in range(self.nshards):
            rank, offset = self.root_word(shard)
            page = window.word(rank, offset)
            while (seen := window.compare_and_swap(rank, offset, page, at.TOMBSTONE)) != page:
                page = seen
            if page == at.TOMBSTONE:
                raise self.destroyed()
            if page:
                self._destroy_page(page, 0)
            self._pages[shard].clear()
            self._depth[shard] = 0

    def _destroy_page(self, page: int, level: int) -> None:
        window = self.window
        for bucket in self._buckets(page, level):
            child = self._close(bucket, self.mine)
            words = window.words(bucket.rank, bucket.offset, at.BUCKET_WORDS)
            window.write_word(bucket.rank, bucket.offset + 8, 0)
            if child:
                self._destroy_page(child, level + 1)
            else:
                for found in _used(bucket._replace(words=words)):
                    self.allocator.retire(found.pointer)
        self.allocator.retire(page)

    def _buckets(self, page: int, level: int) -> Iterator[Bucket]:
        rank, offset = at.place(page)
        for index in range(at.PAGE_BUCKETS):
            start = offset + at.HEADER_BYTES + index * at.BUCKET_BYTES
            words = self.window.words(rank, start, at.BUCKET_WORDS)
            if words[1] != self.uid:
                raise self.destroyed()
            yield Bucket(words, rank, start, level)

    def _close(self, bucket: Bucket, holder: int) -> int:
        """Lock a bucket for `holder` and freeze its slots, or return its child."""
        window, attempt = self.window, 0
        while True:
            seen = window.word(bucket.rank, bucket.offset)
            if seen & at.ADDRESS_MASK:
                return seen & at.ADDRESS_MASK
            # Sealing finds sealed buckets as they should be; destroying takes them over.
            sealed = seen == at.SEALED
            if sealed and holder == at.SEALED:
                return 0
            if (seen == 0 or sealed) and (
                window.compare_and_swap(bucket.rank, bucket.offset, seen, holder) == seen
            ):
                break
            window.pause(attempt)
            attempt += 1
        words = window.words(bucket.rank, bucket.offset, at.BUCKET_WORDS)
        if words[1] != self.uid:
            window.compare_and_swap(bucket.rank, bucket.offset, holder, 0)
            raise self.destroyed()
        for found in _used(bucket._replace(words=words)):
            self.freeze_slot(bucket.rank, found.slot, found.pointer)
        return 0


def _used(bucket: Bucket) -> Iterator[_Found]:
    words = bucket.words
    for slot in range(2, at.BUCKET_WORDS, 2):
        if words[slot + 1]:
            yield _Found(bucket.offset + 8 * (slot + 1), words[slot], words[slot + 1])
