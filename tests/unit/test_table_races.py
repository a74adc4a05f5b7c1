"""Several clients on a few keys, every interleaving that the seeds give, against a plain dict.

Hashes are made poor on purpose (a few bits), so that buckets fill, burst and collide all the time.
Values carry their own checksum: a torn value is seen at once.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Hashable

import pytest

from alamo_mpi.core import blocks
from alamo_mpi.core import layout as at
from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.dictionary import Descriptor, Dictionary, create
from alamo_mpi.core.records import Record, Records
from alamo_mpi.errors import DDictDestroyedError, DDictFrozenError, DDictFullError
from tests.support.fake_window import FakeWindow, Interleaver, Interrupted, Memory
from tests.support.linearizability import ABSENT, UNKNOWN, Operation, linearizable

KEYS = [b"k%d" % i for i in range(4)]


@pytest.fixture(autouse=True)
def _reuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are cut one by one, so that freed ones are used again as soon as can be."""
    monkeypatch.setattr(blocks, "_SLICES", 1)


def poor_hash(key: bytes, spread: int) -> int:
    """A hash with few values: `spread` in the top bits, 7 further down, the shard at the end."""
    crc = zlib.crc32(key)
    return (crc % spread) << 58 | (crc >> 8) % 7 << 52 | crc & 1


def seal_value(number: int, nbytes: int) -> tuple[bytes, list[memoryview]]:
    """A body and a frame that can be checked against each other."""
    body = number.to_bytes(8, "little") * (1 + nbytes // 16)
    frame = number.to_bytes(8, "little") * (nbytes % 5)
    return body, [memoryview(frame)] if frame else []


def open_value(record: Record) -> int:
    words = {
        bytes(part[i : i + 8])
        for part in (record.body, *record.frames)
        for i in range(0, len(part), 8)
    }
    assert len(words) == 1, "torn value"
    return int.from_bytes(words.pop(), "little")


class World:
    """Ranks on one memory, one dictionary, and what happened."""

    def __init__(self, seed: int, nclients: int, *, nbytes: int = 1 << 17, spread: int = 8) -> None:
        self.interleaver = Interleaver(seed)
        self.memory = Memory(nclients, nbytes)
        self.random = random.Random(seed + 1)
        self.windows = [
            FakeWindow(self.memory, rank, self.interleaver, direct=self.random.random() < 0.5)
            for rank in range(nclients)
        ]
        self.allocators = [Allocator(window) for window in self.windows]
        for allocator in self.allocators:
            allocator.format()
        self.descriptor = create(self.windows[0], self.allocators[0], 1)
        self.tables = [
            Dictionary(window, allocator, self.descriptor)
            for window, allocator in zip(self.windows, self.allocators, strict=True)
        ]
        self.spread = spread
        self.history: dict[bytes, list[Operation]] = {}
        self.number = 0

    def hash(self, key: bytes) -> int:
        return poor_hash(key, self.spread)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def do(self, rank: int, name: str, key: bytes, rng: random.Random) -> None:
        """Perform one operation and note it."""
        argument, call = self.prepare(rank, name, key, rng)
        begin = self.interleaver.steps
        try:
            outcome = call()
        except Interrupted:
            self.note(key, Operation(name, begin, float("inf"), argument, UNKNOWN))
            raise
        self.note(key, Operation(name, begin, self.interleaver.steps, argument, outcome))

    def note(self, key: bytes, operation: Operation) -> None:
        self.history.setdefault(key, []).append(operation)

    def prepare(
        self, rank: int, name: str, key: bytes, rng: random.Random
    ) -> tuple[Hashable, Callable[[], Hashable]]:
        table, key_hash = self.tables[rank], self.hash(key)
        number, nbytes = self.next_number(), rng.choice([0, 40, 200, 3000])
        argument: Hashable = number

        def get() -> Hashable:
            record = table.get(key_hash, key)
            return ABSENT if record is None else open_value(record)

        def put() -> None:
            table.put(key_hash, key, *seal_value(number, nbytes))

        def pop() -> Hashable:
            while (entry := table.find(key_hash, key)) is not None:
                if table.remove(entry, key_hash):
                    return open_value(entry.record)
            return ABSENT

        def setdefault() -> Hashable:
            record = table.insert(key_hash, key, *seal_value(number, nbytes))
            return number if record is None else open_value(record)

        def add() -> Hashable:
            while True:
                entry = table.find(key_hash, key)
                if entry is None:
                    if table.insert(key_hash, key, *seal_value(1, nbytes)) is None:
                        return 1
                else:
                    new = open_value(entry.record) + 1
                    if table.replace(entry, key_hash, *seal_value(new, nbytes)):
                        return new

        if name == "add":
            argument = 1
        if name in ("get", "pop"):
            argument = None
        return argument, {"get": get, "put": put, "pop": pop, "setdefault": setdefault, "add": add}[
            name
        ]

    def check(self) -> None:
        """Every key's history is linearizable, and the structure is sound."""
        for key, history in self.history.items():
            final = self.tables[0].get(self.hash(key), key)
            value = ABSENT if final is None else open_value(final)
            end = self.interleaver.steps + 1
            assert linearizable([*history, Operation("get", end, end, None, value)]), (key, history)
        keys = sorted(bytes(record.key) for record in self.tables[0].records())
        assert keys == sorted(
            key for key in self.history if self.tables[0].get(self.hash(key), key) is not None
        )


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

    def load(self, pointer: int, key: bytes | None = None) -> Record | bool:
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
