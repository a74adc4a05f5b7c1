"""Many keys at once: the steps of `core.table`, each done for all keys before the next.

A step of an operation on another node costs a round trip, and those of different keys do not
depend on each other: started together, they cost one round trip for all.  The order *within* a
key is that of `core.table`, since each batch is complete before the next begins, and with it every
argument about races (``ARCHITECTURE-ddict.md``, sections 3 and 6).  What does not go through at the
first try (the key was written meanwhile, its bucket is locked or full) is left to the single
operation.

Where every segment is mapped there is nothing to overlap, and the single operations are quicker.

Locks.  `put_many` holds the locks of many buckets at once.  It never waits while it holds one: a
lock that others have is not waited for, its keys are done singly after all locks are free again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from alamo_mpi.errors import DDictFullError

from . import layout as at
from .bucket import NOWHERE, Bucket, bucket_place, free_slots, is_sealed, match
from .reading import have_keys, load_many
from .records import Record
from .table import Table
from .window import Buffer, Window

__all__ = ["Item", "get_many", "locate_many", "put_many"]

#: Keys in one batch: bounds the operations and buffers that MPI has under way.
BATCH: Final = 256
#: Bytes of values in one batch: until it is through, the values it replaces take room as well, and
#: a large one gains nothing.
BATCH_NBYTES: Final = 1 << 20


class Item(NamedTuple):
    """A key and its value, as `Table.put` takes them."""

    key_hash: int
    key: bytes
    body: Buffer
    frames: Sequence[memoryview]
    on: int | None


def get_many(table: Table, keys: Sequence[tuple[int, bytes]]) -> list[Record | None]:
    """Return what `Table.get` would for each (hash, key); the single reads overlap.

    Every value is one that its key had during the call; they are of different moments.
    """
    if all(table.window.direct):
        return [table.get(*key) for key in keys]
    found: list[Record | None] = []
    for start in range(0, len(keys), BATCH):
        found += _get_batch(table, keys[start : start + BATCH])
    return found


def _get_batch(table: Table, keys: Sequence[tuple[int, bytes]]) -> list[Record | None]:
    buckets = _look_all(table, [key_hash for key_hash, _ in keys])
    slots = [
        match(bucket.words, key_hash, 2)
        for bucket, (key_hash, _) in zip(buckets, keys, strict=True)
    ]
    there = [number for number, slot in enumerate(slots) if slot]
    loaded = load_many(
        table.window,
        table.uid,
        [
            (
                buckets[number].words[slots[number] + 1],
                keys[number][1],
                is_sealed(buckets[number].words, slots[number]),
            )
            for number in there
        ],
    )
    found: list[Record | None] = [None] * len(keys)
    for number, record in zip(there, loaded, strict=True):
        # Changed meanwhile, or the first of several keys with this hash: look again, alone.
        found[number] = record if isinstance(record, Record) else table.get(*keys[number])
    return found


def locate_many(table: Table, keys: Sequence[tuple[int, bytes]]) -> list[tuple[int, int] | None]:
    """Return (rank, bytes) of the value of each (hash, key); None if there is none.

    A hint, for placement: keys of one hash are not told apart, and all may have changed since.
    """
    found: list[tuple[int, int] | None] = []
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        buckets = _look_all(table, [key_hash for key_hash, _ in part])
        pointers = [
            bucket.words[slot + 1]
            for bucket, (key_hash, _) in zip(buckets, part, strict=True)
            if (slot := match(bucket.words, key_hash, 2))
        ]
        places = [at.place(pointer) for pointer in pointers]
        shapes = _read_words(
            table.window, [(rank, offset + at.SHAPE) for rank, offset in places], 1
        )
        sizes = iter(
            [
                (rank, (shape & 0xFFFFFFFF) * at.UNIT)
                for (rank, _), (shape,) in zip(places, shapes, strict=True)
            ]
        )
        found += [
            next(sizes) if match(bucket.words, key_hash, 2) else None
            for bucket, (key_hash, _) in zip(buckets, part, strict=True)
        ]
    return found


def put_many(table: Table, items: Iterable[Item]) -> None:
    """Set the values of many keys; the steps of different keys overlap.

    Each key by itself is set atomically, all together are not.  Of equal keys the last one wins.

    Raises
    ------
    DDictFullError, DDictFrozenError, DDictDestroyedError
        The keys before the one that failed are set, and some of those behind it may be.
    """
    if all(table.window.direct):
        for item in items:
            table.put(item.key_hash, item.key, item.body, item.frames, on=item.on)
        return
    batch: dict[bytes, Item] = {}
    nbytes = 0
    for item in items:
        batch[item.key] = item
        nbytes += len(item.body) + sum(len(frame) for frame in item.frames)
        if len(batch) == BATCH or nbytes > BATCH_NBYTES:
            _put_batches(table, list(batch.values()))
            batch.clear()
            nbytes = 0
    _put_batches(table, list(batch.values()))


class _Pending:
    """A block that waits for its place in the index."""

    __slots__ = ("item", "pointer")

    def __init__(self, item: Item, pointer: int) -> None:
        self.item = item
        #: 0 as soon as others can see it: then it must not be freed any more.
        self.pointer = pointer


def _put_batches(table: Table, items: list[Item]) -> None:
    """Set values in as many batches as the room takes: what is replaced makes room."""
    while items:
        items = items[_put_batch(table, items) :]


def _put_batch(table: Table, items: list[Item]) -> int:
    """Set the values of the first items; return of how many, at least one."""
    allocator = table.allocator
    pending: list[_Pending] = []
    try:
        for item in items:
            try:
                pointer = allocator.write_block(
                    table.uid, item.key_hash, item.key, item.body, item.frames, on=item.on
                )
            except DDictFullError:
                if not pending:
                    raise
                break
            pending.append(_Pending(item, pointer))
        buckets = _look_all(table, [each.item.key_hash for each in pending])
        fresh = _overwrite(table, pending, buckets)
        _insert(table, fresh)
        for each in pending:
            pointer, each.pointer = each.pointer, 0
            if pointer:
                table.publish(each.item.key_hash, each.item.key, pointer)
    except BaseException:
        for each in pending:
            if each.pointer:
                allocator.retire(each.pointer)
        raise
    return len(pending)


def _overwrite(
    table: Table, pending: list[_Pending], buckets: list[Bucket]
) -> list[tuple[_Pending, Bucket]]:
    """Replace the values of keys that are there; return those of keys that are not."""
    fresh: list[tuple[_Pending, Bucket]] = []
    known: list[tuple[_Pending, Bucket, int]] = []
    for each, bucket in zip(pending, buckets, strict=True):
        slot = match(bucket.words, each.item.key_hash, 2)
        if not slot:
            fresh.append((each, bucket))
        elif not bucket.words[slot + 1] & at.FROZEN:
            known.append((each, bucket, slot))
    same = have_keys(
        table.window,
        table.uid,
        [(bucket.words[slot + 1], each.item.key) for each, bucket, slot in known],
    )
    known = [entry for entry, hit in zip(known, same, strict=True) if hit]
    swaps, olds, news = [], [], []
    for each, bucket, slot in known:
        old = bucket.words[slot + 1]
        swaps.append((bucket.rank, bucket.offset + 8 * (slot + 1), old, each.pointer))
        olds.append(old)
        # From here until the outcome is known an interruption may leak the block.
        news.append(each.pointer)
        each.pointer = 0
    for (each, _, _), old, new, seen in zip(
        known, olds, news, table.window.swap_many(swaps), strict=True
    ):
        if seen == old:
            table.allocator.retire(old)
        else:
            each.pointer = new
    return fresh


def _insert(table: Table, fresh: list[tuple[_Pending, Bucket]]) -> None:
    """Fill free slots of buckets that can be locked at once; the rest is left pending."""
    by_bucket: dict[tuple[int, int], list[_Pending]] = {}
    for each, bucket in fresh:
        if bucket.rank >= 0:
            by_bucket.setdefault((bucket.rank, bucket.offset), []).append(each)
    places = list(by_bucket)
    window = table.window
    try:
        seen = window.swap_many([(rank, offset, 0, table.mine) for rank, offset in places])
        locked = [place for place, word in zip(places, seen, strict=True) if word == 0]
        _fill(table, locked, by_bucket)
    finally:
        # Also when an exception came between a swap that took a lock and its result: `mine` is
        # nobody else's, so this can only release what is held here.
        unlock = [(rank, offset, table.mine, 0) for rank, offset in places]
        try:
            window.swap_many(unlock)
        except BaseException:
            # Interrupted (Ctrl-C) on the way out: others must not wait for ever.
            window.swap_many(unlock)
            raise


def _fill(
    table: Table,
    locked: list[tuple[int, int]],
    by_bucket: dict[tuple[int, int], list[_Pending]],
) -> None:
    """Publish in locked buckets; the keys whose slot was taken or lacks stay pending."""
    window = table.window
    chosen: list[_Pending] = []
    hashes: list[tuple[int, int, int]] = []
    swaps: list[tuple[int, int, int, int]] = []
    for (rank, offset), words in zip(
        locked, _read_words(window, locked, at.BUCKET_WORDS), strict=True
    ):
        if words[1] != table.uid:
            raise table.destroyed()
        free = iter(free_slots(words))
        for each in by_bucket[rank, offset]:
            key_hash = each.item.key_hash
            # The key, or another one with its hash, may have come before the lock was taken.
            slot = 0 if match(words, key_hash, 2) else next(free, 0)
            if slot:
                chosen.append(each)
                if words[slot] != key_hash:
                    hashes.append((rank, offset + 8 * slot, key_hash))
                swaps.append((rank, offset + 8 * (slot + 1), 0, each.pointer))
    window.write_words(hashes)
    for each in chosen:
        each.pointer = 0
    window.swap_many(swaps)
    added: dict[int, int] = {}
    for each in chosen:
        shard = each.item.key_hash % table.nshards
        added[shard] = added.get(shard, 0) + 1
    for shard, count in added.items():
        table.add_to_count(shard, count)


def _look_all(table: Table, hashes: list[int]) -> list[Bucket]:
    """Read the bucket of each hash, all of one depth at once."""
    found: list[Bucket | None] = [None] * len(hashes)
    pages: list[tuple[int, int, int]] = []
    for number, key_hash in enumerate(hashes):
        page, level = table.nearest_page(key_hash)
        if page:
            pages.append((number, page, level))
        else:
            found[number] = NOWHERE
    while pages:
        places = [bucket_place(page, level, hashes[number]) for number, page, level in pages]
        deeper: list[tuple[int, int, int]] = []
        for (number, _, level), (rank, offset), words in zip(
            pages, places, _read_words(table.window, places, at.BUCKET_WORDS), strict=True
        ):
            if words[1] != table.uid:
                raise table.destroyed()
            child = words[0] & at.ADDRESS_MASK
            if child:
                table.remember(hashes[number], level + 1, child)
                deeper.append((number, child, level + 1))
            else:
                found[number] = Bucket(words, rank, offset, level)
        pages = deeper
    return [bucket for bucket in found if bucket is not None]


def _read_words(
    window: Window, places: Sequence[tuple[int, int]], count: int
) -> list[tuple[int, ...]]:
    """Read `count` words at each place."""
    memory = memoryview(bytearray(8 * count * len(places)))
    parts = [memory[start : start + 8 * count] for start in range(0, len(memory), 8 * count)]
    window.fill_many(
        [(rank, offset, part) for (rank, offset), part in zip(places, parts, strict=True)]
    )
    return [tuple(part.cast("Q")) for part in parts]
