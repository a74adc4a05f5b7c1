"""Ranks on one fake memory with one dictionary: what the tests of its races share.

Hashes are made poor on purpose (a few bits), so that buckets fill, burst and collide all the time.
Values carry their own checksum: a torn value is seen at once.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Hashable

from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.dictionary import Dictionary, create
from alamo_mpi.core.records import Record
from tests.support.fake_window import FakeWindow, Interleaver, Interrupted, Memory
from tests.support.linearizability import ABSENT, UNKNOWN, Operation, linearizable


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
