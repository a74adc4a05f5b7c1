"""Several clients of one queue, every interleaving that the seeds give, against a `deque`.

Rings are tiny, lap numbers have few bits, freed memory is used again at once: what can go wrong
once in a blue moon goes wrong here often.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from alamo_mpi.core import blocks, fifo, ring
from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.fifo import Fifo, Put, create_queue
from alamo_mpi.core.items import Item, Items
from alamo_mpi.errors import DDictFullError, QueueClosedError
from tests.support.fake_window import FakeWindow, Interleaver, Interrupted, Memory
from tests.support.linearizability import UNKNOWN, Operation, linearizable, queue


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_SLICES", 1)
    monkeypatch.setattr(ring, "LAP_BITS", 4)
    monkeypatch.setattr(fifo, "LEAST_SLOTS", 4)
    monkeypatch.setattr(fifo, "_LARGEST_FIRST_SLOTS", 16)
    monkeypatch.setattr(fifo, "_LAG", 3)


class World:
    """Ranks on one memory, one queue, and what happened."""

    def __init__(
        self, seed: int, nclients: int, maxsize: int | None = None, nbytes: int = 1 << 17
    ) -> None:
        rng = self.random = random.Random(seed + 1)
        self.interleaver = Interleaver(seed)
        memory = Memory(nclients, nbytes)
        self.windows = [
            FakeWindow(memory, rank, self.interleaver, direct=rng.random() < 0.5)
            for rank in range(nclients)
        ]
        self.allocators = [Allocator(window) for window in self.windows]
        for allocator in self.allocators:
            allocator.format()
        fifo._FIRST_SLOTS = rng.choice([4, 8, 16])  # type: ignore[misc]
        self.maxsize = rng.choice([0, 0, 1, 3, 5, 20]) if maxsize is None else maxsize
        self.descriptor = create_queue(
            self.windows[0], self.allocators[0], 1, self.maxsize, rng.randrange(nclients)
        )
        self.fifos = [
            Fifo(window, allocator, self.descriptor)
            for window, allocator in zip(self.windows, self.allocators, strict=True)
        ]
        self.items = [
            Items(window, allocator, self.descriptor.uid)
            for window, allocator in zip(self.windows, self.allocators, strict=True)
        ]
        self.history: list[Operation] = []
        self.next = [rank * 1000 for rank in range(nclients)]  #: each client has its own numbers
        # Somewhere in the life of the ring, the clients having seen different parts of it.
        for _ in range(rng.randrange(40)):
            rank = rng.randrange(nclients)
            self.put(rank, 1)
            self.take(rng.randrange(nclients), 1)
        self.history.clear()

    def note(self, name: str, argument: object, call: Callable[[], object]) -> object:
        """Perform one step of the queue and note it."""
        begin = self.interleaver.steps
        outcome: object = UNKNOWN
        end = float("inf")
        try:
            try:
                outcome = call()
            except QueueClosedError:
                outcome = "closed"
            end = self.interleaver.steps
        finally:
            self.history.append(Operation(name, begin, end, argument, outcome))  # type: ignore[arg-type]
        return outcome

    def put(self, rank: int, want: int) -> object:
        """Put up to `want` numbers in one block; return them if there was room."""
        queue, items = self.fifos[rank], self.items[rank]
        order = 0
        if want > 1:
            try:
                order = queue.order_for(want) or 0
            except QueueClosedError:
                return "closed"
        numbers = tuple(range(self.next[rank], self.next[rank] + (1 << order)))
        self.next[rank] += len(numbers)
        bodies = [b"%d" % number for number in numbers]
        pointer = items.write_batch(bodies) if order else items.write(Item(bodies[0]))

        def publish() -> object:
            nonlocal done
            done = queue.publish(pointer, order)
            return done is Put.DONE

        done: Put | None = None
        outcome = self.note("put", numbers, publish)
        if outcome is not True:
            self.allocators[rank].retire(pointer)
        if done is Put.TOO_MANY:
            # Says something about the ring, not about the queue.
            self.history = [each for each in self.history if each.argument != numbers]
        return numbers if outcome is True else outcome

    def take(self, rank: int, limit: int) -> object:
        """Take up to `limit` numbers by one step, read and free them."""
        queue, items = self.fifos[rank], self.items[rank]
        begin = self.interleaver.steps
        outcome: object = UNKNOWN
        end = float("inf")
        try:
            try:
                parts = queue.take(limit)
            except QueueClosedError:
                parts = None
            end = self.interleaver.steps
            if parts is None:
                outcome = "closed"
            else:
                numbers: list[int] = []
                for part in parts:
                    numbers += [int(bytes(item.body)) for item in items.read(part)]
                    items.free(part)
                outcome = tuple(numbers)
        finally:
            self.history.append(Operation("take", begin, end, limit, outcome))  # type: ignore[arg-type]
        return outcome

    def check(self) -> None:
        initial = (False, self.maxsize, ())
        assert linearizable(self.history, initial, queue), self.history

    def free_nbytes(self) -> int:
        for allocator in self.allocators:
            allocator.reclaim()
        return sum(
            allocator.free_nbytes + window.nbytes - window.word(window.rank, 0) * 64
            for allocator, window in zip(self.allocators, self.windows, strict=True)
        )


def script(
    world: World, rank: int, seed: int, steps: int, *, limit: int = 3, close: float = 0.0
) -> Callable[[], None]:
    """One client's random operations."""
    rng = random.Random(seed << 8 | rank)

    def run() -> None:
        for _ in range(steps):
            action = rng.random()
            if action < close:
                world.note("close", None, world.fifos[rank].close)
            elif action < 0.55:
                world.put(rank, rng.choice([1, 1, 1, 4, 9]))
            else:
                world.take(rank, rng.randrange(limit) + 1)

    return run


@pytest.mark.parametrize("seed", range(120))
@pytest.mark.parametrize("nclients", [2, 3])
def test_linearizable(seed: int, nclients: int) -> None:
    world = World(seed, nclients)
    before = world.free_nbytes()
    world.interleaver.run([script(world, rank, seed, 7) for rank in range(nclients)])
    world.check()
    while world.take(0, 5):
        pass
    world.check()
    rings = 64 * sum(2 + slots // 8 + 1 for slots in (16, 64, 256))
    assert before - rings * nclients <= world.free_nbytes() <= before


@pytest.mark.parametrize("seed", range(60))
def test_closing_has_its_place_in_the_order(seed: int) -> None:
    world = World(seed, 3)
    world.interleaver.run([script(world, rank, seed, 6, close=0.08) for rank in range(3)])
    world.check()


@pytest.mark.parametrize("seed", range(120))
def test_interrupted_client_leaves_nothing_half_done(seed: int) -> None:
    """One client is broken off at any operation of the window: the others go on without a hole."""
    world = World(seed, 3)
    victim = random.Random(seed).randrange(3)
    window = world.windows[victim]
    window.interrupt_at = window.operations + random.Random(seed).randrange(1, 90)

    def interrupted() -> None:
        try:
            script(world, victim, seed, 7, limit=1)()
        except Interrupted:
            return

    clients = [script(world, rank, seed, 6) for rank in range(3)]
    clients[victim] = interrupted
    world.interleaver.run(clients)
    other = (victim + 1) % 3
    world.put(other, 1)
    while world.take(other, 3):
        pass
    world.check()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("maxsize", [0, 1, 7])
def test_each_item_once_and_in_order(seed: int, maxsize: int) -> None:
    """Longer runs: nothing lost, nothing twice, every producer's items in its order."""
    world = World(seed, 4, maxsize)
    got: dict[int, list[int]] = {2: [], 3: []}
    put: dict[int, list[int]] = {0: [], 1: []}

    def produce(rank: int) -> None:
        rng = random.Random(seed << 8 | rank)
        while len(put[rank]) < 60:
            if numbers := world.put(rank, rng.choice([1, 2, 4])):
                put[rank] += numbers  # type: ignore[operator]
            else:
                world.windows[rank].pause(0)

    def consume(rank: int) -> None:
        rng = random.Random(seed << 8 | rank)
        while True:
            found = world.take(rank, rng.choice([1, 2, 8]))
            if found == "closed":
                return
            if not found:
                world.windows[rank].pause(0)
            got[rank] += found  # type: ignore[operator]

    left = [0, 1]

    def producer(rank: int) -> None:
        produce(rank)
        left.remove(rank)
        if not left:
            world.fifos[rank].close()

    before = world.free_nbytes()
    world.interleaver.run(
        [lambda: producer(0), lambda: producer(1), lambda: consume(2), lambda: consume(3)]
    )
    assert sorted(got[2] + got[3]) == sorted(put[0] + put[1])
    for numbers in got.values():
        for rank in (0, 1):
            own = [number for number in numbers if number // 1000 == rank]
            assert own == sorted(own)
    world.fifos[0].discard()
    assert world.free_nbytes() >= before


@pytest.mark.parametrize("seed", range(40))
def test_destroyed_among_clients(seed: int) -> None:
    """Everybody hears of it; all memory comes back, and no other queue feels it."""
    world = World(seed, 3, nbytes=1 << 16)
    other = create_queue(world.windows[1], world.allocators[1], 7, 0, 0)
    neighbour = Fifo(world.windows[1], world.allocators[1], other)
    for number in range(3):
        neighbour.publish(world.items[1].write(Item(b"%d" % number)), 0)
    before = world.free_nbytes()

    def destroy() -> None:
        for _ in range(5):
            world.put(0, 1)
        world.fifos[0].close()
        for part in world.fifos[0].drain():
            world.items[0].free(part)
        world.fifos[0].discard()
        # Its memory is used again at once.
        again = create_queue(world.windows[0], world.allocators[0], 9, 0, 0)
        following = Fifo(world.windows[0], world.allocators[0], again)
        for number in range(10):
            following.publish(world.items[0].write(Item(b"%d" % number)), 0)
        taken = [part for _ in range(10) for part in following.take(1)]
        assert [int(bytes(world.items[0].read(part)[0].body)) for part in taken] == [*range(10)]
        for part in taken:
            world.items[0].free(part)
        following.close()
        following.discard()

    clients = [destroy, script(world, 1, seed, 12), script(world, 2, seed, 12)]
    world.interleaver.run(clients)
    for rank in (0, 1, 2):
        with pytest.raises(QueueClosedError, match="was destroyed"):
            world.fifos[rank].take(1)
    assert world.free_nbytes() >= before
    parts = neighbour.take(3)
    assert [int(bytes(world.items[2].read(part)[0].body)) for part in parts] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_task_done_is_counted_exactly(seed: int) -> None:
    world = World(seed, 3, 0)
    for _ in range(5):
        world.put(0, 1)
    todo = world.fifos[0].unfinished()
    answers: list[bool] = []

    def finish(rank: int) -> Callable[[], None]:
        return lambda: answers.extend([world.fifos[rank].finish() for _ in range(todo // 2 + 1)])

    world.interleaver.run([finish(rank) for rank in range(3)])
    assert sum(answers) == todo
    assert world.fifos[0].unfinished() == 0


@pytest.mark.parametrize("seed", range(15))
def test_memory_that_runs_out_leaves_no_hole(seed: int) -> None:
    world = World(seed, 2, 0, nbytes=1 << 13)
    put: list[int] = []
    got: list[int] = []

    def produce() -> None:
        refused = 0
        while len(put) < 150 and refused < 60:
            try:
                put.extend(world.put(0, 1))  # type: ignore[arg-type]
            except DDictFullError:
                refused += 1
                world.windows[0].pause(0)

    def consume() -> None:
        for _ in range(100):
            got.extend(world.take(1, 2))  # type: ignore[arg-type]

    world.interleaver.run([produce, consume])
    while found := world.take(1, 5):
        got.extend(found)  # type: ignore[arg-type]
    assert got == put
