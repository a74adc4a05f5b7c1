"""Many keys at once against single operations, every interleaving that the seeds give."""

from __future__ import annotations

import random
from typing import Any

import pytest

from alamo_mpi.core import blocks, many, reading
from alamo_mpi.core.many import Item, get_many, locate_many, put_many
from alamo_mpi.errors import DDictDestroyedError, DDictFrozenError, DDictFullError
from tests.support.dictionary_world import World, open_value, seal_value
from tests.support.fake_window import Interrupted
from tests.support.linearizability import ABSENT, UNKNOWN, Operation

NAMES = ["get", "put", "pop", "setdefault", "add"]


@pytest.fixture(autouse=True)
def _reuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are cut one by one, so that freed ones are used again as soon as can be."""
    monkeypatch.setattr(blocks, "_SLICES", 1)


def apart(seed: int, *, nclients: int = 3, nbytes: int = 1 << 16, spread: int = 2) -> World:
    """A world in which no rank maps another one's memory."""
    world = World(seed, nclients, nbytes=nbytes, spread=spread)
    for window in world.windows:
        window.direct = [other == window.rank for other in range(nclients)]
    return world


def item(world: World, key: bytes, number: int, nbytes: int = 40) -> Item:
    return Item(world.hash(key), key, *seal_value(number, nbytes), None)


def put_all(world: World, rank: int, keys: list[bytes], rng: random.Random) -> None:
    numbers = {key: world.next_number() for key in keys}
    items = [item(world, key, numbers[key], rng.choice([0, 200, 3000])) for key in keys]
    begin = world.interleaver.steps
    end = float("inf")
    try:
        put_many(world.tables[rank], items)
        end = world.interleaver.steps
    finally:
        outcome = UNKNOWN if end == float("inf") else None
        for key in numbers:
            world.note(key, Operation("put", begin, end, numbers[key], outcome))


def get_all(world: World, rank: int, keys: list[bytes]) -> None:
    begin = world.interleaver.steps
    found = get_many(world.tables[rank], [(world.hash(key), key) for key in keys])
    end = world.interleaver.steps
    for key, record in zip(keys, found, strict=True):
        value = ABSENT if record is None else open_value(record)
        world.note(key, Operation("get", begin, end, None, value))


def client(world: World, rank: int, keys: list[bytes], seed: int, rounds: int = 8) -> None:
    rng = random.Random(seed * 10 + rank)
    for _ in range(rounds):
        action = rng.random()
        chosen = rng.sample(keys, rng.randrange(1, len(keys) + 1))
        if action < 0.4:
            put_all(world, rank, chosen, rng)
        elif action < 0.8:
            get_all(world, rank, chosen)
        else:
            world.do(rank, rng.choice(NAMES), chosen[0], rng)


@pytest.mark.parametrize("seed", range(60))
def test_histories_are_linearizable(seed: int) -> None:
    world = apart(seed, spread=random.Random(seed).choice([2, 64]))
    keys = [b"k%d" % i for i in range(random.Random(seed).choice([2, 5, 14]))]
    world.interleaver.run(
        [lambda rank=rank: client(world, rank, keys, seed) for rank in range(3)]  # type: ignore[misc]
    )
    world.check()
    assert world.tables[0].count() == sum(1 for _ in world.tables[1].records())


@pytest.mark.parametrize("seed", range(60))
def test_interrupted_client_leaves_the_dictionary_sound(seed: int) -> None:
    """An exception at a random operation of a batch: no lock stays, nothing is torn."""
    world = apart(seed, nbytes=1 << 17)
    keys = [b"k%d" % i for i in range(10)]

    def user(rank: int) -> None:
        if rank == 0:
            rng = random.Random(seed)
            world.windows[0].interrupt_at = world.windows[0].operations + rng.randrange(1, 300)
        try:
            client(world, rank, keys, seed, rounds=6)
        except Interrupted:
            assert rank == 0
        world.windows[rank].interrupt_at = None

    world.interleaver.run([lambda rank=rank: user(rank) for rank in range(3)])  # type: ignore[misc]
    world.check()
    put_many(world.tables[1], [item(world, key, world.next_number()) for key in keys])
    assert sorted(bytes(record.key) for record in world.tables[2].records()) == sorted(keys)


@pytest.mark.parametrize("seed", range(10))
def test_growth_in_batches_loses_no_key(seed: int) -> None:
    """Two clients insert 60 keys each, many into the same buckets, which burst meanwhile."""
    world = apart(seed, nclients=2, nbytes=1 << 17, spread=64)
    keys = [[b"%d-%d" % (rank, i) for i in range(60)] for rank in range(2)]

    def insert(rank: int) -> None:
        for start in range(0, 60, 20):
            part = keys[rank][start : start + 20]
            put_many(world.tables[rank], [item(world, key, 7) for key in part])

    world.interleaver.run([lambda: insert(0), lambda: insert(1)])
    everything = sorted([*keys[0], *keys[1]])
    assert sorted(bytes(record.key) for record in world.tables[0].records()) == everything
    assert world.tables[1].count() == 120
    found = get_many(world.tables[1], [(world.hash(key), key) for key in everything])
    assert [record and open_value(record) for record in found] == [7] * 120


def test_large_values_come_out_whole() -> None:
    world = apart(0, nclients=2, nbytes=1 << 20)
    body, frame = b"b" * 10_000, memoryview(b"f" * 50_000)
    items = [Item(world.hash(key), key, body, [frame, frame[:9]], None) for key in (b"a", b"b")]
    put_many(world.tables[0], items)
    found = get_many(world.tables[1], [(world.hash(key), key) for key in (b"a", b"none", b"b")])
    assert found[1] is None
    for record in (found[0], found[2]):
        assert record is not None
        assert bytes(record.body) == body
        assert [bytes(each) for each in record.frames] == [frame, frame[:9]]


def test_keys_of_one_hash_are_told_apart() -> None:
    world = apart(0, nclients=2)
    keys = [b"one", b"two", b"three"]
    put_many(world.tables[0], [Item(5, key, key, [], None) for key in keys])
    put_many(world.tables[1], [Item(5, key, key, [], None) for key in keys])
    found = get_many(world.tables[1], [(5, key) for key in [*keys, b"four"]])
    assert [record and bytes(record.body) for record in found] == [*keys, None]
    assert world.tables[0].count() == 3


def test_overwriting_needs_no_room_for_two_of_each() -> None:
    """Values that fill the pool are replaced in batches as large as the room that is left."""
    world = apart(0, nclients=2, nbytes=1 << 16, spread=64)
    keys = [b"key%d" % i for i in range(10_000)]
    stored: list[bytes] = []

    def fill() -> None:
        for key in keys:
            world.tables[0].put(world.hash(key), key, *seal_value(1, 300))
            stored.append(key)

    with pytest.raises(DDictFullError):
        fill()
    assert len(stored) > 50
    entry = world.tables[0].find(world.hash(keys[0]), keys[0])
    assert entry is not None
    assert world.tables[0].remove(entry, world.hash(keys[0]))
    put_many(world.tables[0], [item(world, key, 2, 300) for key in stored[1:]])
    found = get_many(world.tables[1], [(world.hash(key), key) for key in stored[1:]])
    assert [record and open_value(record) for record in found] == [2] * (len(stored) - 1)


def test_errors_of_single_operations_come_through() -> None:
    world = apart(0, nclients=2)
    table = world.tables[1]
    put_many(table, [item(world, b"k%d" % i, i) for i in range(20)])
    world.tables[0].seal()
    with pytest.raises(DDictFrozenError):
        put_many(table, [item(world, b"k3", 9), item(world, b"new", 9)])
    found = get_many(table, [(world.hash(b"k3"), b"k3"), (world.hash(b"new"), b"new")])
    assert [record and open_value(record) for record in found] == [3, None]
    world.tables[0].unseal()
    world.tables[0].destroy()
    with pytest.raises(DDictDestroyedError):
        get_many(table, [(world.hash(b"k3"), b"k3")])
    with pytest.raises(DDictDestroyedError):
        put_many(table, [item(world, b"k3", 9)])


def test_a_batch_is_bounded_and_the_last_of_equal_keys_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(many, "BATCH", 4)
    world = apart(0, nclients=2, spread=64)
    keys = [b"k%d" % (i % 11) for i in range(30)]
    put_many(world.tables[0], (item(world, key, i) for i, key in enumerate(keys)))
    found = get_many(world.tables[1], [(world.hash(key), key) for key in keys[:11]])
    last = {key: i for i, key in enumerate(keys)}
    assert [record and open_value(record) for record in found] == [last[key] for key in keys[:11]]


def hammer_one_key(seed: int) -> None:
    """Two clients overwrite one key, a third reads it in batches, torn and slow."""
    world = apart(seed, nbytes=1 << 14, spread=1)
    world.windows[2].tear = 1.0
    world.windows[2].slowness = 20

    def write(rank: int) -> None:
        rng = random.Random(seed * 10 + rank)
        for _ in range(150):
            world.do(rank, "put", b"k", rng)

    def read() -> None:
        for _ in range(25):
            get_all(world, 2, [b"k", b"absent"])

    world.interleaver.run([lambda: write(0), lambda: write(1), read])
    world.check()


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_never_reads_a_torn_value(seed: int) -> None:
    hammer_one_key(seed)


def test_the_checks_catch_a_batch_without_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the last look at the sequences it does."""

    def read_no_sequence(reading: Any) -> list[Any]:
        reading._sequence = reading._head[:8]
        return []

    steps = (*reading._STEPS[:-1], read_no_sequence)
    monkeypatch.setattr(reading, "_STEPS", steps)

    def hammer_all() -> None:
        for seed in range(10):
            hammer_one_key(seed)

    with pytest.raises(AssertionError, match="torn value"):
        hammer_all()


def test_reads_of_a_sealed_dictionary_spare_the_last_look() -> None:
    world = apart(0, nclients=2, spread=64)
    put_many(world.tables[0], [item(world, b"k%d" % i, i) for i in range(20)])
    key = next(key for key in (b"k%d" % i for i in range(20)) if world.hash(key) % 2)

    def looks() -> tuple[int, int]:
        before = world.windows[0].operations
        record = world.tables[0].get(world.hash(key), key)
        between = world.windows[0].operations
        assert record is not None
        (again,) = get_many(world.tables[0], [(world.hash(key), key)])
        assert again is not None
        assert again.body == record.body
        return between - before, world.windows[0].operations - between

    for window in world.windows:
        window.tear = 0.0
    looks()
    open_looks = looks()
    world.tables[1].seal()
    assert looks() == (open_looks[0] - 1, open_looks[1] - 1)
    world.tables[1].unseal()
    assert looks() == open_looks


def test_values_are_located() -> None:
    world = apart(0, nclients=3, spread=64)
    put_many(world.tables[1], [item(world, b"one", 1, 200)])
    put_many(world.tables[2], [item(world, b"two", 2, 4000)])
    keys = [(world.hash(key), key) for key in (b"one", b"absent", b"two")]
    assert locate_many(world.tables[0], keys) == [(1, 192), None, (2, 2112)]
