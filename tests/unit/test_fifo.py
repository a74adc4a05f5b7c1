"""The queue alone: one client after the other, every state of the rings."""

from __future__ import annotations

import contextlib
import random
from collections import deque

import pytest

from alamo_mpi.core import items, ring
from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.fifo import Fifo, Part, Put, QueueDescriptor, create_queue
from alamo_mpi.core.items import RAW, Item, Items
from alamo_mpi.errors import DDictFullError, QueueClosedError
from tests.support.fake_window import FakeWindow, Memory


class Ranks:
    """Ranks on one memory, without interleaving."""

    def __init__(self, size: int = 2, nbytes: int = 1 << 18, *, direct: bool = True) -> None:
        memory = Memory(size, nbytes)
        self.windows = [FakeWindow(memory, rank, direct=direct) for rank in range(size)]
        self.allocators = [Allocator(window) for window in self.windows]
        for allocator in self.allocators:
            allocator.format()
        self.made = 0

    def create(self, maxsize: int = 0, near: int = 0) -> QueueDescriptor:
        self.made += 1
        return create_queue(self.windows[0], self.allocators[0], self.made, maxsize, near)

    def client(self, descriptor: QueueDescriptor, rank: int = 0) -> Client:
        return Client(self.windows[rank], self.allocators[rank], descriptor)


class Client:
    """Puts and takes numbers, as the code above the core does."""

    def __init__(
        self, window: FakeWindow, allocator: Allocator, descriptor: QueueDescriptor
    ) -> None:
        self.fifo = Fifo(window, allocator, descriptor)
        self.items = Items(window, allocator, descriptor.uid)
        self.allocator = allocator

    def put(self, number: int) -> bool:
        pointer = self.items.write(Item(b"%d" % number))
        done = self.fifo.publish(pointer, 0)
        if done is not Put.DONE:
            self.allocator.retire(pointer)
        return done is Put.DONE

    def put_many(self, numbers: list[int]) -> int:
        """Put from the front as many as there is room for; return how many."""
        put = 0
        while put < len(numbers):
            order = self.fifo.order_for(len(numbers) - put)
            if order is None:
                break
            batch = [b"%d" % number for number in numbers[put : put + (1 << order)]]
            pointer = self.items.write_batch(batch) if order else self.items.write(Item(batch[0]))
            done = self.fifo.publish(pointer, order)
            if done is Put.DONE:
                put += 1 << order
            else:
                self.allocator.retire(pointer)
        return put

    def read(self, parts: list[Part]) -> list[int]:
        numbers = []
        for part in parts:
            numbers += [int(bytes(item.body)) for item in self.items.read(part)]
            self.items.free(part)
        return numbers

    def take(self, limit: int = 1) -> list[int]:
        taken: list[int] = []
        while len(taken) < limit and (parts := self.fifo.take(limit - len(taken))):
            taken += self.read(parts)
        return taken

    def destroy(self) -> None:
        self.fifo.close()
        for part in self.fifo.drain():
            self.items.drop(part)
        self.fifo.discard()


@pytest.fixture(params=[True, False], ids=["direct", "remote"])
def ranks(request: pytest.FixtureRequest) -> Ranks:
    return Ranks(direct=request.param)


def free_nbytes(ranks: Ranks) -> int:
    """Free bytes of the whole pool, what nobody has leased included."""
    total = 0
    for window, allocator in zip(ranks.windows, ranks.allocators, strict=True):
        allocator.reclaim()
        total += allocator.free_nbytes + window.nbytes - window.word(window.rank, 0) * 64
    return total


def test_items_come_out_in_the_order_they_went_in(ranks: Ranks) -> None:
    descriptor = ranks.create()
    one, other = ranks.client(descriptor), ranks.client(descriptor, 1)
    assert other.take() == []
    for number in range(500):  # a ring of 64 grows twice
        assert one.put(number)
    assert other.fifo.count() == 500
    assert [other.take()[0] for _ in range(500)] == list(range(500))
    assert other.take() == []
    assert one.fifo.count() == 0


@pytest.mark.parametrize("maxsize", [1, 2, 15, 16, 63, 100, 1500])
def test_bound_is_exact(ranks: Ranks, maxsize: int) -> None:
    client = ranks.client(ranks.create(maxsize), 1)
    for _ in range(3):
        assert all(client.put(number) for number in range(maxsize))
        assert not client.put(0)
        assert client.fifo.count() == maxsize
        assert client.take() == [0]
        assert client.put(maxsize)
        assert not client.put(0)
        assert client.take(maxsize) == list(range(1, maxsize + 1))
        assert client.take() == []


@pytest.mark.parametrize("maxsize", [0, 5, 100])
def test_batches_keep_order_and_bound(ranks: Ranks, maxsize: int) -> None:
    client = ranks.client(ranks.create(maxsize))
    numbers = list(range(300))
    put = client.put_many(numbers)
    assert put == (maxsize or 300)
    assert client.fifo.count() == put
    taken: list[int] = []
    while part := client.take(7):
        taken += part
    assert taken == numbers[:put]


def test_large_part_of_a_batch_then_the_rest_frees_it_once(ranks: Ranks) -> None:
    descriptor = ranks.create()
    before = free_nbytes(ranks)
    one, other = ranks.client(descriptor), ranks.client(descriptor, 1)
    pointer = one.items.write_batch([b"%d" % i for i in range(8)])
    assert one.fifo.publish(pointer, 3) is Put.DONE
    first = other.fifo.take(5)
    rest = one.fifo.take(5)
    assert [part.nitems for part in first + rest] == [5, 3]
    assert one.read(rest) == [5, 6, 7]
    assert free_nbytes(ranks) < before
    assert other.read(first) == [0, 1, 2, 3, 4]
    assert free_nbytes(ranks) == before


@pytest.mark.parametrize("seed", range(20))
def test_like_a_deque(ranks: Ranks, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random operations of two clients, with lap numbers of four bits: they wrap all the time."""
    monkeypatch.setattr(ring, "LAP_BITS", 4)
    rng = random.Random(seed)
    maxsize = rng.choice([0, 0, 1, 3, 40])
    descriptor = ranks.create(maxsize, near=rng.randrange(2))
    clients = [ranks.client(descriptor, rank) for rank in (0, 1)]
    model: deque[int] = deque()
    number = 0
    for _ in range(1500):
        if rng.random() < 0.05:
            rank = rng.randrange(2)
            clients[rank] = ranks.client(descriptor, rank)  # one that remembers nothing
        client = clients[0] if rng.random() < 0.9 else clients[1]
        if rng.random() < (0.3 if len(model) > 50 else 0.55):
            numbers = list(range(number, number + rng.choice([1, 1, 2, 10, 33])))
            put = client.put_many(numbers)
            room = maxsize - len(model) if maxsize else len(numbers)
            assert put == min(len(numbers), room)
            model.extend(numbers[:put])
            number += put
        else:
            limit = rng.choice([1, 1, 3, 20])
            expected = [model.popleft() for _ in range(min(limit, len(model)))]
            assert client.take(limit) == expected
        assert client.fifo.count() == len(model)


def test_close_lets_what_is_there_be_taken(ranks: Ranks) -> None:
    descriptor = ranks.create()
    one, other = ranks.client(descriptor), ranks.client(descriptor, 1)
    one.put_many(list(range(10)))
    assert not one.fifo.closed
    other.fifo.close()
    other.fifo.close()
    assert one.fifo.closed
    with pytest.raises(QueueClosedError, match="was closed"):
        one.put(1)
    with pytest.raises(QueueClosedError, match="was closed"):
        one.fifo.order_for(1)
    assert one.fifo.count() == 10
    assert one.take(10) == list(range(10))
    with pytest.raises(QueueClosedError, match="was closed"):
        one.take()
    assert ranks.client(descriptor).fifo.count() == 0


@pytest.mark.parametrize("maxsize", [0, 15])
def test_close_when_the_ring_has_one_slot_left(ranks: Ranks, maxsize: int) -> None:
    client = ranks.client(ranks.create(maxsize))
    for number in range(maxsize or 63):
        assert client.put(number)
    client.fifo.close()
    assert client.take(maxsize or 63) == list(range(maxsize or 63))
    with pytest.raises(QueueClosedError):
        client.take()


def test_destroyed_queue_gives_its_memory_back_and_refuses(ranks: Ranks) -> None:
    before = free_nbytes(ranks)
    for _ in range(3):
        descriptor = ranks.create(near=1)
        one, other = ranks.client(descriptor), ranks.client(descriptor, 1)
        one.put_many(list(range(300)))
        other.take(3)
        other.destroy()
        assert free_nbytes(ranks) == before
        for call in (
            lambda: one.put(1),  # noqa: B023
            one.take,
            one.fifo.count,
            one.fifo.close,
            one.fifo.finish,
            one.destroy,
            lambda: ranks.client(descriptor),  # noqa: B023
        ):
            with pytest.raises(QueueClosedError, match="was destroyed"):
                call()
        before = free_nbytes(ranks)


def test_full_memory_puts_nothing() -> None:
    ranks = Ranks(nbytes=1 << 15)
    client = ranks.client(ranks.create())
    put = 0
    with contextlib.suppress(DDictFullError):
        while client.put(put):
            put += 1
    assert client.fifo.count() == put
    assert client.take(10) == list(range(10))
    assert client.put(put)
    taken = []
    while part := client.take(100):
        taken += part
    assert taken == list(range(10, put + 1))


def test_tasks_done(ranks: Ranks) -> None:
    client = ranks.client(ranks.create(), 1)
    assert client.fifo.unfinished() == 0
    assert not client.fifo.finish()
    client.put_many([1, 2, 3])
    client.take(3)
    assert client.fifo.unfinished() == 3
    assert [client.fifo.finish() for _ in range(4)] == [True, True, True, False]
    assert client.fifo.unfinished() == 0


def test_small_queue_is_cheap(ranks: Ranks) -> None:
    before = free_nbytes(ranks)
    for _ in range(100):
        ranks.create()
    assert before - free_nbytes(ranks) <= 100 * 640


@pytest.mark.parametrize("piece_nbytes", [1 << 28, 1000])
@pytest.mark.parametrize("nbytes", [0, 1, 100, 3000, 40_000])
def test_items_of_every_kind_come_back(
    ranks: Ranks, nbytes: int, piece_nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "_PIECE_NBYTES", piece_nbytes)
    descriptor = ranks.create()
    before = free_nbytes(ranks)
    writer, reader = ranks.client(descriptor), ranks.client(descriptor, 1)
    body, frames = bytes(range(256)) * (nbytes // 256 + 1), [b"a" * nbytes, b"b" * (nbytes + 7)]
    for item in (
        Item(body[:nbytes]),
        Item(body[:nbytes], [memoryview(frame) for frame in frames]),
        Item(b"", [memoryview(body)], RAW),
    ):
        for _ in range(2):
            assert writer.fifo.publish(writer.items.write(item), 0) is Put.DONE
        [part] = reader.fifo.take(1)
        [found] = reader.items.read(part)
        reader.items.free(part)
        [part] = writer.fifo.take(1)
        writer.items.drop(part)
        assert free_nbytes(ranks) == before
        assert found.kind == item.kind
        if item.kind == RAW:
            assert type(found.body) is bytes
            assert found.body == body
        else:
            assert found.body == item.body
            assert [bytes(frame) for frame in found.frames] == [bytes(f) for f in item.frames]


def test_item_in_pieces_that_has_no_room_is_given_back_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "_PIECE_NBYTES", 1000)
    ranks = Ranks(nbytes=1 << 15)
    client = ranks.client(ranks.create())
    before = free_nbytes(ranks)
    with pytest.raises(DDictFullError):
        client.items.write(Item(bytes(1 << 16)))
    assert free_nbytes(ranks) == before
    # Larger than what one rank has, together.
    client.items.withdraw(client.items.write(Item(bytes(40_000))), 1)
    assert free_nbytes(ranks) == before
