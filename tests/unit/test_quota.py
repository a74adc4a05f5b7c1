"""A dictionary's bound: never exceeded, nearly all of it usable, and it comes back."""

from __future__ import annotations

import random

import pytest

from alamo_mpi.core import layout as at
from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.dictionary import Dictionary, create
from alamo_mpi.core.quota import Quota
from alamo_mpi.errors import DDictFullError
from tests.support.fake_window import FakeWindow, Interleaver, Memory


def left(memory: Memory) -> int:
    return int.from_bytes(memory.segments[0][8:16], "little")


@pytest.mark.parametrize("seed", range(20))
def test_managers_never_spend_more_than_there_is(seed: int) -> None:
    interleaver = Interleaver(seed)
    memory = Memory(3, 1024)
    memory.segments[0][8:16] = (1000).to_bytes(8, "little")
    windows = [FakeWindow(memory, rank, interleaver) for rank in range(3)]
    quotas = [Quota(window, 0, 8, 1000) for window in windows]
    spent = [0, 0, 0]

    def client(rank: int) -> None:
        rng = random.Random(seed * 3 + rank)
        for _ in range(60):
            units = rng.randrange(1, 120)
            if rng.random() < 0.6:
                if quotas[rank].take(units):
                    spent[rank] += units
            elif spent[rank]:
                units = min(units, spent[rank])
                spent[rank] -= units
                quotas[rank].give(units)
            assert sum(spent) <= 1000

    interleaver.run([lambda rank=rank: client(rank) for rank in range(3)])  # type: ignore[misc]
    idle = sum(quota._spare for quota in quotas)
    assert left(memory) + sum(spent) + idle == 1000
    assert idle <= 2 * 3 * (1000 // (64 * 3))


def test_one_manager_can_spend_nearly_everything() -> None:
    memory = Memory(4, 1024)
    memory.segments[0][8:16] = (1000).to_bytes(8, "little")
    quotas = [Quota(FakeWindow(memory, rank), 0, 8, 1000) for rank in range(4)]
    for quota in quotas[1:]:
        assert quota.take(5)
        quota.give(5)
    spent = 0
    while quotas[0].take(1):
        spent += 1
    assert spent >= 1000 * 31 // 32


def test_bounded_dictionary_is_full_at_its_bound_and_recovers() -> None:
    memory = Memory(2, 1 << 20)
    allocators = [Allocator(FakeWindow(memory, rank)) for rank in range(2)]
    for allocator in allocators:
        allocator.format()
    total = 64 * 1024
    descriptor = create(allocators[0]._window, allocators[0], 1, total)
    one, other = (Dictionary(a._window, a, descriptor) for a in allocators)
    stored: list[bytes] = []

    def fill(table: Dictionary) -> None:
        while True:
            key = b"k%d" % len(stored)
            table.put(hash_of(key), key, bytes(900))
            stored.append(key)

    for turn in range(3):
        for table in (one, other):
            with pytest.raises(DDictFullError, match=f"total_mem of {total} bytes"):
                fill(table)
        assert len(stored) in (total // 1024 - turn, total // 1024)
        assert all(other.get(hash_of(key), key) for key in stored)
        other.clear()
        one.allocator.reclaim()
        stored.clear()


def hash_of(key: bytes) -> int:
    return int(key[1:]) * 0x9E3779B97F4A7C15 & (1 << 64) - 1 | at.UNIT
