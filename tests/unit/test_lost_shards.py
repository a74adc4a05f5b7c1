"""Dictionaries where some ranks, and their memory with them, were lost."""

from __future__ import annotations

import pytest

from alamo_mpi.core import layout as at
from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.dictionary import Dictionary, create
from alamo_mpi.core.keyhash import hash_bytes
from alamo_mpi.core.many import Item
from alamo_mpi.errors import DDictFullError, ShardLostError
from tests.support.fake_window import FakeWindow, Memory

LOST = 2
KEYS = [b"key %d" % i for i in range(200)]


@pytest.fixture(params=[True, False], ids=["mapped", "far"])
def ranks(request: pytest.FixtureRequest) -> list[Allocator]:
    memory = Memory(3, 1 << 20)
    windows = [FakeWindow(memory, rank, direct=request.param) for rank in range(3)]
    allocators = [Allocator(window) for window in windows]
    for allocator in allocators:
        allocator.format()
    return allocators


def lose(ranks: list[Allocator]) -> None:
    for rank in ranks:
        rank._window.lost.add(LOST)


def client(allocator: Allocator, descriptor: object) -> Dictionary:
    return Dictionary(allocator._window, allocator, descriptor)  # type: ignore[arg-type]


def test_a_dictionary_made_afterwards_does_without_them(ranks: list[Allocator]) -> None:
    lose(ranks)
    made = create(ranks[0]._window, ranks[0], 1)
    first, second = (client(allocator, made) for allocator in ranks[:2])
    first.put_many(Item(hash_bytes(key), key, key, (), None) for key in KEYS[:100])
    for key in KEYS[100:]:
        second.put(hash_bytes(key), key, key)
    for each in (first, second):
        assert {record.key for record in each.records()} == set(KEYS)
        assert each.count() == len(KEYS)
        found = each.get_many([(hash_bytes(key), key) for key in KEYS])
        assert [bytes(record.body) for record in found if record is not None] == KEYS
    assert all(at.place(pointer)[0] != LOST for pointer in first.pointers())
    assert [row["keys"] for row in first.figures()] == [100, 100, 0]


def test_one_made_before_says_which_keys_are_lost(ranks: list[Allocator]) -> None:
    made = create(ranks[0]._window, ranks[0], 1)
    table = client(ranks[0], made)
    for key in KEYS:
        table.put(hash_bytes(key), key, key)
    lose(ranks)
    for key in KEYS:
        if hash_bytes(key) % 3 == LOST:
            with pytest.raises(ShardLostError) as caught:
                table.get(hash_bytes(key), key)
            assert caught.value.rank == LOST
        else:
            record = table.get(hash_bytes(key), key)
            assert record is not None
            assert bytes(record.body) == key


def test_no_memory_is_leased_there(ranks: list[Allocator]) -> None:
    """When the arena of one rank is full, those of the others that are left are used."""
    lose(ranks)
    places = set()

    def fill() -> None:
        while True:
            places.add(at.place(ranks[0].allocate(1000))[0])

    with pytest.raises(DDictFullError):
        fill()
    assert places == {0, 1}
