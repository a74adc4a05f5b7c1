"""All ranks use one `Queue` at once, without tasks: started by tests and by hand.

mpiexec -n 4 python tests/support/queue_spmd.py [hammer|bounded|tight|stream|gibibytes] [seconds]
"""

from __future__ import annotations

import queue
import random
import time
from typing import Any

import numpy as np
import spmd
from spmd import barrier, check, signed

from alamo_mpi.errors import QueueMemoryError
from alamo_mpi.mpi.world import World
from alamo_mpi.queue import Queue

Got = list[tuple[int, int]]


def verify(world: World, put: int, got: Got) -> None:
    """What all ranks have got is what all have put, once each, and in each producer's order."""
    for rank in range(world.size):
        own = [number for producer, number in got if producer == rank]
        assert own == sorted(own), "out of order"
    puts = world.comm.allgather(put)
    everything = sorted(pair for part in world.comm.allgather(got) for pair in part)
    assert everything == [(r, i) for r, count in enumerate(puts) for i in range(count)]
    if world.rank == 0:
        print(f"{sum(puts)} items, got by rank: {world.comm.size} ranks")


def exchange(world: World, q: Queue[Any], seconds: float, sizes: list[int]) -> None:
    """Put and get at random, all ranks alike; then drain."""
    rng = random.Random(world.rank)
    put, got = 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        action = rng.random()
        try:
            if action < 0.35:
                q.put(signed(world.rank, put, rng.choice(sizes)), timeout=0.01)
                put += 1
            elif action < 0.45:
                count = rng.randrange(1, 40)
                items = [signed(world.rank, put + i, rng.choice(sizes[:2])) for i in range(count)]
                try:
                    q.put_many(items, timeout=0.01)
                    put += count
                except queue.Full as error:
                    put += int(str(error).split(" items ")[1].split()[0])
            elif action < 0.85:
                got.append(check(q.get(timeout=0.002)))
            else:
                got += [check(item) for item in q.get_many(rng.randrange(1, 50), timeout=0.002)]
            assert q.qsize() >= 0
        except (queue.Empty, queue.Full):
            pass
    barrier(world)
    while not q.empty():
        try:
            got.append(check(q.get_nowait()))
        except queue.Empty:
            break
    verify(world, put, got)


def hammer(world: World, q: Queue[Any], seconds: float) -> None:
    """Every rank puts and gets on a queue without a bound."""
    exchange(world, q, seconds, [0, 100, 3000, 40_000])


def bounded(world: World, q: Queue[Any], seconds: float) -> None:
    """The same, on a queue of 5 items: full or empty most of the time."""
    five = world.comm.bcast(Queue(5, near=world.size - 1) if world.rank == 0 else None)
    exchange(world, five, seconds, [10, 200, 20_000])


def tight(world: World, q: Queue[Any], seconds: float) -> None:
    """Fill a small memory: the error comes, nothing is lost, taking makes room again."""
    for _ in range(3):
        put, got = 0, []
        try:
            while True:
                q.put(signed(world.rank, put, 5000))
                put += 1
        except QueueMemoryError as error:
            refusal = str(error)
        assert "ALAMO_POOL_BYTES" in refusal
        barrier(world)
        assert q.qsize() == sum(world.comm.allgather(put)) > 100
        barrier(world)
        while not q.empty():
            try:
                got.append(check(q.get_nowait()))
            except queue.Empty:
                break
        verify(world, put, got)
        barrier(world)


def stream(world: World, q: Queue[Any], seconds: float) -> None:
    """Rank 0 sends arrays and small items; the others answer on a second queue until it closes."""
    back = world.comm.bcast(Queue(20) if world.rank == 0 else None)
    count = 200
    if world.size == 1:
        for i in range(count):
            q.put(np.full(i * 97, i))
        q.close()
        assert [int(item.sum()) for item in q] == [i * i * 97 for i in range(count)]
        return
    if world.rank == 0:
        answers = []
        for i in range(count):
            q.put(np.full(i * 97, i))
            if i > 20:
                answers.append(back.get(timeout=60))
        q.close()
        while len(answers) < count:
            answers.append(back.get(timeout=60))
        assert sorted(answers) == [(i, i * i * 97) for i in range(count)]
        q.join(60)
    else:
        for item in q:
            back.put((len(item) // 97, int(item.sum())), timeout=60)
            q.task_done()


def gibibytes(world: World, q: Queue[Any], seconds: float) -> None:
    """An item of 3 GiB, which is more than the memory of any rank."""
    nbytes = 3 << 30
    assert q._client.pool.window.nbytes < nbytes
    if world.rank == 0:
        array = np.zeros(nbytes, "u1")
        array[[0, 1 << 31, -1]] = 1, 2, 3
        q.put(array)
    if world.rank == world.size - 1:
        found = q.get(timeout=120)
        assert len(found) == nbytes
        assert [found[i] for i in (0, 1 << 31, -1)] == [1, 2, 3]
        assert found[1 : 1 << 31 : 4095].max() == 0


PARTS = {
    "hammer": hammer,
    "bounded": bounded,
    "tight": tight,
    "stream": stream,
    "gibibytes": gibibytes,
}

if __name__ == "__main__":
    spmd.main(PARTS, Queue, "hammer")
