"""Several clients on a few keys, every interleaving that the seeds give, against a plain dict."""

from __future__ import annotations

import random

import pytest

from alamo_mpi.core import blocks
from alamo_mpi.core import layout as at
from alamo_mpi.core.dictionary import Descriptor, Dictionary, create
from alamo_mpi.core.records import Record, Records
from alamo_mpi.errors import DDictDestroyedError, DDictFrozenError, DDictFullError
from tests.support.dictionary_world import World, open_value, seal_value
from tests.support.fake_window import Interrupted

KEYS = [b"k%d" % i for i in range(4)]


@pytest.fixture(autouse=True)
def _reuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are cut one by one, so that freed ones are used again as soon as can be."""
    monkeypatch.setattr(blocks, "_SLICES", 1)


NAMES = ["get", "get", "put", "pop", "setdefault", "add"]


@pytest.mark.parametrize("seed", range(60))
def test_histories_are_linearizable(seed: int) -> None:
    world = World(seed, nclients=3, nbytes=1 << 15, spread=2)
    keys = [b"k%d" % i for i in range(random.Random(seed).choice([1, 3, 14]))]

    def client(rank: int) -> None:
        rng = random.Random(seed * 10 + rank)
        for _ in range(25):
            world.do(rank, rng.choice(NAMES), rng.choice(keys), rng)

    world.interleaver.run([lambda rank=rank: client(rank) for rank in range(3)])
    world.check()
    assert world.tables[0].count() == sum(1 for _ in world.tables[1].records())


@pytest.mark.parametrize("seed", range(20))
def test_growth_under_concurrent_use_loses_no_key(seed: int) -> None:
    """Two clients insert 60 keys each into one or two buckets; a third reads and overwrites."""
    world = World(seed, nclients=3, nbytes=1 << 17, spread=64)
    done: set[bytes] = set()

    def insert(rank: int) -> None:
        for i in range(60):
            key = b"%d-%d" % (rank, i)
            world.tables[rank].put(world.hash(key), key, *seal_value(i, 16))
            done.add(key)

    def overwrite() -> None:
        rng = random.Random(seed)
        while len(done) < 120:
            known = sorted(done)
            if not known:
                world.windows[2].pause(0)
                continue
            key = rng.choice(known)
            record = world.tables[2].get(world.hash(key), key)
            assert record is not None, key
            world.tables[2].put(world.hash(key), key, *seal_value(open_value(record), 48))

    world.interleaver.run([lambda: insert(0), lambda: insert(1), overwrite])
    assert {bytes(record.key) for record in world.tables[2].records()} == done
    assert world.tables[2].count() == 120
    for key in done:
        record = world.tables[1].get(world.hash(key), key)
        assert record is not None
        assert open_value(record) == int(key.split(b"-")[1])


@pytest.mark.parametrize("seed", range(80))
def test_interrupted_client_leaves_the_dictionary_sound(seed: int) -> None:
    """An exception at a random operation: no lock stays, nothing is torn, others finish."""
    world = World(seed, nclients=3, nbytes=1 << 16, spread=2)
    keys = [b"k%d" % i for i in range(10)]
    interrupted = []

    def client(rank: int) -> None:
        rng = random.Random(seed * 10 + rank)
        if rank == 0:
            world.windows[0].interrupt_at = world.windows[0].operations + rng.randrange(1, 200)
        for _ in range(20):
            try:
                world.do(rank, rng.choice(NAMES), rng.choice(keys), rng)
            except Interrupted:
                interrupted.append(rank)

    world.interleaver.run([lambda rank=rank: client(rank) for rank in range(3)])
    assert interrupted in ([], [0])
    world.check()
    for key in keys:
        world.tables[1].put(world.hash(key), key, *seal_value(world.next_number(), 0))
    assert world.tables[2].count() in range(len(keys) - 1, len(keys) + 2)
    assert sorted(bytes(record.key) for record in world.tables[2].records()) == sorted(keys)


@pytest.mark.parametrize("seed", range(20))
def test_iteration_shows_every_steady_key_once(seed: int) -> None:
    world = World(seed, nclients=3, nbytes=1 << 17, spread=64)
    steady = [b"s%d" % i for i in range(30)]
    for key in steady:
        world.tables[0].put(world.hash(key), key, *seal_value(1, 8))
    stop: list[bool] = []

    def churn() -> None:
        rng = random.Random(seed)
        while not stop:
            key = b"c%d" % rng.randrange(40)
            world.do(1, rng.choice(["put", "pop"]), key, rng)
            key = rng.choice(steady)
            world.tables[1].put(world.hash(key), key, *seal_value(2, 8))

    def walk() -> None:
        for _ in range(3):
            keys = [bytes(record.key) for record in world.tables[2].records()]
            assert sorted(key for key in keys if key.startswith(b"s")) == sorted(steady)
            open_values = [open_value(record) for record in world.tables[2].records()]
            assert all(open_values)
        stop.append(True)

    world.interleaver.run([walk, churn])


@pytest.mark.parametrize("seed", range(20))
def test_destroy_while_others_use_it(seed: int) -> None:
    """Everyone gets the error, and a dictionary that reuses the memory is not touched."""
    world = World(seed, nclients=3, nbytes=1 << 16, spread=4)
    keys = [b"k%d" % i for i in range(12)]
    fresh: list[Dictionary] = []

    def user(rank: int) -> None:
        rng = random.Random(seed * 10 + rank)

        def go_on() -> None:
            while True:
                world.do(rank, rng.choice(NAMES), rng.choice(keys), rng)

        with pytest.raises(DDictDestroyedError):
            go_on()

    def destroyer() -> None:
        rng = random.Random(seed)
        for _ in range(20):
            world.do(0, "put", rng.choice(keys), rng)
        world.tables[0].destroy()
        other = create(world.windows[0], world.allocators[0], 2)
        fresh.append(Dictionary(world.windows[0], world.allocators[0], other))
        for key in keys:
            fresh[0].put(world.hash(key), key, *seal_value(5, 8))

    world.interleaver.run([destroyer, lambda: user(1), lambda: user(2)])
    records = list(fresh[0].records())
    assert sorted(bytes(record.key) for record in records) == sorted(keys)
    assert all(open_value(record) == 5 for record in records)
    with pytest.raises(DDictDestroyedError):
        world.tables[1].get(world.hash(keys[0]), keys[0])
    with pytest.raises(DDictDestroyedError):
        world.tables[0].destroy()
    with pytest.raises(DDictDestroyedError):
        list(Dictionary(world.windows[2], world.allocators[2], world.descriptor).records())


@pytest.mark.parametrize("seed", range(20))
def test_sealing_stops_writers_and_not_readers(seed: int) -> None:
    world = World(seed, nclients=3, nbytes=1 << 16, spread=4)
    keys = [b"k%d" % i for i in range(20)]
    for key in keys[:10]:
        world.tables[0].put(world.hash(key), key, *seal_value(1, 8))
    sealed: list[bool] = []
    refused: list[int] = []

    def writer(rank: int) -> None:
        rng = random.Random(seed * 10 + rank)
        while not refused.count(rank):
            try:
                world.do(rank, rng.choice(["put", "pop", "add"]), rng.choice(keys), rng)
            except DDictFrozenError:
                refused.append(rank)

    def sealer() -> None:
        world.tables[0].seal()
        sealed.append(True)

    world.interleaver.run([sealer, lambda: writer(1), lambda: writer(2)])
    before = {bytes(record.key): open_value(record) for record in world.tables[0].records()}
    for key in keys:
        with pytest.raises(DDictFrozenError):
            world.tables[1].put(world.hash(key), key, *seal_value(9, 8))
        record = world.tables[2].get(world.hash(key), key)
        assert (None if record is None else open_value(record)) == before.get(key)
    world.tables[2].unseal()
    for key in keys:
        world.tables[1].put(world.hash(key), key, *seal_value(9, 8))
    assert world.tables[0].count() == 20


def test_full_memory_loses_nothing_and_recovers() -> None:
    world = World(0, nclients=2, nbytes=1 << 16, spread=64)
    table = world.tables[0]
    stored = []

    def fill() -> None:
        for i in range(10_000):
            key = b"key%d" % i
            table.put(world.hash(key), key, *seal_value(i, 300))
            stored.append(key)

    with pytest.raises(DDictFullError):
        fill()
    assert len(stored) > 100
    for i, key in enumerate(stored):
        record = world.tables[1].get(world.hash(key), key)
        assert record is not None
        assert open_value(record) == i
    world.tables[1].clear()
    assert table.count() == 0
    for i, key in enumerate(stored):
        table.put(world.hash(key), key, *seal_value(i, 300))
    assert world.tables[1].count() == len(stored)


class CarelessRecords(Records):
    """A reader that does not look at the sequence again."""

    def load(
        self, pointer: int, key: bytes | None = None, *, sealed: bool = False
    ) -> Record | bool:
        window = self._window
        rank, offset = at.place(pointer)
        _, _, _, _, _, shape, content, body = window.words(rank, offset, at.HEADER_WORDS)
        if content > 1 << 12 or shape >> 32:
            return super().load(pointer, key)
        data = window.read(rank, offset + at.CONTENT, content)
        found = data[: shape & 0xFFFFFFFF]
        if key is not None and found != key:
            return False
        return Record(found, memoryview(data)[content - body :], [])


def test_the_checks_catch_a_reader_without_the_rule() -> None:
    """The suite above can fail: without the last look at the sequence it does."""
    caught = 0
    for seed in range(40):
        world = World(seed, nclients=3, nbytes=1 << 15, spread=2)
        for table in world.tables:
            table.reader = CarelessRecords(table.window, table.uid)

        def client(rank: int, world: World = world, seed: int = seed) -> None:
            rng = random.Random(seed * 10 + rank)
            for _ in range(25):
                world.do(rank, rng.choice(NAMES), rng.choice(KEYS[:1]), rng)

        try:
            world.interleaver.run([lambda rank=rank: client(rank) for rank in range(3)])  # type: ignore[misc]
            world.check()
        except AssertionError:
            caught += 1
    assert caught > 2


def test_descriptor_is_all_a_stranger_needs() -> None:
    world = World(0, nclients=2)
    world.tables[0].put(world.hash(b"k"), b"k", *seal_value(3, 8))
    copy = Descriptor(*tuple(world.descriptor))
    record = Dictionary(world.windows[1], world.allocators[1], copy).get(world.hash(b"k"), b"k")
    assert record is not None
    assert open_value(record) == 3
