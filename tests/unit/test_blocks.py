"""Heaps and allocators: no overlap, no loss, and a tight pool that stays usable."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alamo_mpi.core import layout as at
from alamo_mpi.core.blocks import Allocator, block_layout
from alamo_mpi.core.heap import Heap
from alamo_mpi.core.records import Record, Records
from alamo_mpi.errors import DDictFullError
from tests.support.fake_window import FakeWindow, Interleaver, Memory

UID = 7


def pool(size: int, nbytes: int) -> list[Allocator]:
    memory = Memory(size, nbytes)
    allocators = [Allocator(FakeWindow(memory, rank)) for rank in range(size)]
    for allocator in allocators:
        allocator.format()
    return allocators


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 50)), max_size=120))
def test_heap_against_a_bitmap(steps: list[tuple[int, int]]) -> None:
    """Take, and give back a random one that is out: ranges never overlap and always merge."""
    heap = Heap()
    heap.add(1, 2000)
    used = [False] * 2001
    out: list[tuple[int, int]] = []
    for units, back in steps:
        start = heap.take(units)
        if start is None:
            runs = "".join("x" if bit else "." for bit in used[1:]).split("x")
            assert max(map(len, runs)) < units, "a range was long enough"
        else:
            assert not any(used[start : start + units])
            assert start >= 1
            assert start + units <= 2001
            used[start : start + units] = [True] * units
            out.append((start, units))
        if back < len(out):
            start, units = out.pop(back)
            used[start : start + units] = [False] * units
            heap.give(start, units)
        assert heap.free == used[1:].count(False)
        assert sorted(heap.ranges()) == sorted(_runs(used))
    for start, units in out:
        heap.give(start, units)
    assert list(heap.ranges()) == [(1, 2000)]
    assert heap.largest() == heap.free == heap.managed == 2000


def _runs(used: list[bool]) -> list[tuple[int, int]]:
    runs, start = [], None
    for index, bit in enumerate([*used[1:], True], 1):
        if not bit and start is None:
            start = index
        elif bit and start is not None:
            runs.append((start, index - start))
            start = None
    return runs


@given(st.integers(0, 200), st.integers(0, 5000), st.lists(st.integers(0, 500), max_size=5))
def test_block_layout_has_room_for_everything(key: int, body: int, frames: list[int]) -> None:
    *offsets, end = block_layout(key, body, [bytes(n) for n in frames])
    assert end % at.UNIT == 0
    last = at.CONTENT + key + 8 * len(frames) + body
    for offset, nbytes in zip(offsets, frames, strict=True):
        assert offset % at.UNIT == 0
        assert offset >= last
        last = offset + nbytes
    assert last <= end < last + at.UNIT


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("body_nbytes", [0, 5, 1900, 2100, 70_000])
def test_block_is_read_as_it_was_written(direct: bool, body_nbytes: int) -> None:
    memory = Memory(2, 1 << 20)
    writer = Allocator(FakeWindow(memory, 0))
    writer.format()
    body = bytes(random.Random(1).randbytes(body_nbytes))
    frames = [b"", b"f" * 65, bytes(300)]
    pointer = writer.write_block(UID, 11, b"key", body, [memoryview(f) for f in frames])
    records = Records(FakeWindow(memory, 1, direct=direct), UID)
    record = records.load(pointer | at.FROZEN, b"key")
    assert isinstance(record, Record)
    assert (record.key, bytes(record.body)) == (b"key", body)
    assert [bytes(frame) for frame in record.frames] == frames
    assert records.load(pointer) == record
    assert records.load(pointer, b"kex") is False
    assert records.load(pointer, b"ke") is False
    assert records.has_key(pointer, b"key") is True
    assert records.has_key(pointer, b"kex") is False
    assert Records(FakeWindow(memory, 1, direct=direct), 8).load(pointer, b"key") is False


def test_reader_notices_reuse_and_not_mere_freeing() -> None:
    (allocator,) = pool(1, 1 << 20)
    records = Records(allocator._window, UID)
    pointer = allocator.write_block(UID, 1, b"k", b"old")
    allocator.retire(pointer)
    late = records.load(pointer)
    assert isinstance(late, Record)
    assert bytes(late.body) == b"old"
    again = allocator.write_block(UID, 1, b"k", b"new")
    assert again & at.ADDRESS_MASK == pointer & at.ADDRESS_MASK
    assert records.load(pointer) is True
    assert records.has_key(pointer, b"q") is None


def test_merging_ends_the_life_of_a_freed_block() -> None:
    """Its header may come to lie inside another block, where nobody would clear it."""
    (allocator,) = pool(1, 64 * 1024)
    records = Records(allocator._window, UID)
    pointers = [allocator.write_block(UID, 1, b"k", bytes(3000)) for _ in range(21)]
    for pointer in pointers[:2]:
        allocator.retire(pointer)
    assert isinstance(records.load(pointers[1]), Record)
    allocator.write_block(UID, 1, b"k", bytes(6000))
    assert records.load(pointers[1]) is True


def test_generation_zero_is_never_given() -> None:
    (allocator,) = pool(1, 1 << 20)
    allocator._count = at.GENERATION_MASK - 2
    generations = set()
    for _ in range(6):
        pointer = allocator.write_block(UID, 1, b"k", b"")
        generations.add(pointer >> at.GENERATION_SHIFT & at.GENERATION_MASK)
    assert 0 not in generations
    assert len(generations) == 6


def test_full_pool_says_so_and_recovers() -> None:
    one, other = pool(2, 64 * 1024)
    pointers = []

    def fill() -> None:
        while True:
            pointers.append(one.write_block(UID, 1, b"k", bytes(3000)))

    with pytest.raises(DDictFullError, match=r"ALAMO_POOL_BYTES") as info:
        fill()
    assert "65536 bytes" in str(info.value)
    ranks = {at.place(pointer)[0] for pointer in pointers}
    assert ranks == {0, 1}, "the other arena was used too"
    # 3072-byte blocks in two arenas of 65472 bytes
    assert len(pointers) == 2 * (65472 // 3072)
    with pytest.raises(DDictFullError):
        other.write_block(UID, 1, b"k", bytes(3000))
    records = Records(one._window, UID)
    assert all(isinstance(records.load(pointer), Record) for pointer in pointers)
    for pointer in pointers:
        other.retire(pointer)
    assert isinstance(one.write_block(UID, 1, b"k", bytes(50_000)), int)
    assert isinstance(one.write_block(UID, 1, b"k", bytes(50_000)), int)


@pytest.mark.parametrize("seed", range(3))
def test_tight_pool_survives_mixed_overwrites(seed: int) -> None:
    """A pool with room for 100 values and one spare: overwriting them never fails."""
    rng = random.Random(seed)
    sizes = [rng.choice([8, 100, 1000, 5000, 40_000, 200_000]) for _ in range(100)]
    need = sum(block_layout(1, size, ())[0] for size in sizes)
    spare = block_layout(1, max(sizes), ())[0]
    (allocator,) = pool(1, (need + spare) * 21 // 20 // 64 * 64)
    live = [allocator.write_block(UID, 1, b"k", bytes(size)) for size in sizes]
    for _ in range(3000):
        # Two values change places in size: the total stays what it is.
        i, j = rng.randrange(100), rng.randrange(100)
        sizes[i], sizes[j] = sizes[j], sizes[i]
        for index in (i, j) if sizes[i] < sizes[j] else (j, i):
            allocator.retire(live[index])
            live[index] = 0
        for index in {i, j}:
            if live[index] == 0:
                live[index] = allocator.write_block(UID, 1, b"k", bytes(sizes[index]))


def test_return_list_loses_nothing() -> None:
    """Two ranks free the third's blocks at once, while it takes them back."""
    for seed in range(30):
        memory = Memory(3, 1 << 20)
        interleaver = Interleaver(seed)
        allocators = [Allocator(FakeWindow(memory, rank, interleaver)) for rank in range(3)]
        for allocator in allocators:
            allocator.format()
        owner = allocators[0]
        pointers = [owner.write_block(UID, 1, b"k", bytes(8 * i)) for i in range(20)]
        free = owner.free_nbytes
        nbytes = sum(block_layout(1, 8 * i, ())[0] for i in range(20))
        taken: list[int] = []

        def take_back(owner: Allocator = owner, taken: list[int] = taken) -> None:
            while sum(taken) < 20:
                taken.append(owner.reclaim())

        def give(
            rank: int, pointers: list[int] = pointers, allocators: list[Allocator] = allocators
        ) -> None:
            for pointer in pointers[rank - 1 :: 2]:
                allocators[rank].retire(pointer)

        interleaver.run([take_back, lambda: give(1), lambda: give(2)])
        assert sum(taken) == 20
        assert owner.free_nbytes == free + nbytes


@pytest.mark.parametrize("nbytes", [10, 2000, 9000])
def test_what_is_retired_soon_comes_back_in_any_case(nbytes: int) -> None:
    one, other = pool(2, 1 << 20)
    pointers = [one.write_block(UID, 0, b"", bytes(nbytes)) for _ in range(20)]
    free = one.free_nbytes
    for pointer in pointers[:19]:
        other.retire_soon(pointer)
    assert one.reclaim() == (19 if nbytes > 4096 else 16)
    other.settle()
    other.settle()
    assert one.reclaim() == (0 if nbytes > 4096 else 3)
    one.retire_soon(pointers[19])  # its own, at once
    assert one.free_nbytes - free == 20 * -(-(nbytes + 64) // 64) * 64


def test_page_memory_stays_page_memory() -> None:
    (allocator,) = pool(1, 1 << 20)
    content = bytes(at.PAGE_BUCKETS * at.BUCKET_BYTES)
    page = allocator.allocate_page(0)
    allocator.write_page(page, UID, content)
    allocator.retire(page)
    block = allocator.write_block(UID, 1, b"", bytes(1000))
    assert block & at.ADDRESS_MASK != page
    assert allocator.allocate_page(0) == page


def test_published_figures() -> None:
    one, _ = pool(2, 1 << 20)
    pointer = one.write_block(UID, 1, b"k", bytes(1000))
    one.publish()
    word = one._window.word
    assert word(0, at.MANAGED_BYTES) == one.managed_nbytes == 65536
    assert word(0, at.FREE_BYTES) == 65536 - 1088
    assert word(0, at.LARGEST_BYTES) == 65536 - 1088
    one.retire(pointer)
    one.publish()
    assert word(0, at.FREE_BYTES) == 65536
    assert word(0, at.PARKED_BYTES) == 1088
