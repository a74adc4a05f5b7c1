"""All ranks use one `DDict` at once, without tasks: started by tests and by hand.

mpiexec -n 4 python tests/support/ddict_spmd.py [hammer|share|fill|churn] [seconds]
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import spmd
from spmd import barrier, check, signed

from alamo_mpi.ddict import DDict
from alamo_mpi.errors import DDictFullError
from alamo_mpi.mpi.world import World


def hammer(world: World, d: DDict[Any, Any], seconds: float) -> None:
    """Few keys, all ranks, checksummed values: none torn, none lost, none resurrected.

    A rank writes rising numbers, so that no reader may ever see a number of a rank after a higher
    one of the same rank and key; and what `fetch_add` counted is what was counted.
    """
    rng = random.Random(world.rank)
    latest: dict[tuple[int, int], int] = {}
    number = added = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key = rng.randrange(3)
        action = rng.random()
        if action < 0.4:
            value = d.get(key)
            if value is not None:
                writer, seen = check(value)
                assert seen >= latest.get((key, writer), 0), "a value came back"
                latest[key, writer] = seen
        elif action < 0.5:
            try:
                values = d.get_many(range(3))
            except KeyError:  # popped
                continue
            for k, value in enumerate(values):
                writer, seen = check(value)
                assert seen >= latest.get((k, writer), 0), "a value came back"
                latest[k, writer] = seen
        elif action < 0.85:
            number += 1
            d[key] = signed(world.rank, number, rng.choice([0, 100, 3000, 40_000]))
        elif action < 0.9:
            taken = d.pop(key, None)
            if taken is not None:
                writer, seen = check(taken)
                assert seen >= latest.get((key, writer), 0), "a value came back"
                latest[key, writer] = seen + 1  # popped: never to be seen again
        elif action < 0.93:
            keys = rng.sample(range(3), 2)
            numbers = [number + 1, number + 2]
            number += 2
            d.put_many({k: signed(world.rank, n, 50) for k, n in zip(keys, numbers, strict=True)})
        elif action < 0.95:
            number += 1
            check(d.setdefault(key, signed(world.rank, number, 10)))
        else:
            d.fetch_add("count")
            added += 1
    barrier(world)
    total = sum(world.comm.allgather(added))
    assert d.get("count", 0) == total, (d.get("count"), total)
    assert len(d) == len(list(d))
    operations = sum(world.comm.allgather(number + added))
    if world.rank == 0:
        print(f"hammer: {operations} writes, {total} counted, {len(d)} keys")


def share(world: World, d: DDict[Any, Any], seconds: float) -> None:
    """Every rank writes its keys; every rank reads, overwrites and deletes those of others."""
    count = 300
    for i in range(count):
        d[world.rank, i] = np.full(i * 8, i % 251, "u1") if i % 3 else i
    barrier(world)
    assert len(d) == count * world.size
    other = (world.rank + 1) % world.size
    for i in range(count):
        value = d[other, i]
        if i % 3:
            assert value.shape == (i * 8,)
            assert (value == i % 251).all()
        else:
            assert value == i
    barrier(world)
    for i in range(count):
        if i % 2:
            del d[other, i]
        else:
            d[other, i] = ("by", world.rank)
    barrier(world)
    evens = [(other, i) for i in range(0, count, 2)]
    assert d.get_many(evens) == [("by", world.rank)] * len(evens)
    barrier(world)
    assert len(d) == world.size * count // 2
    assert sorted(d) == [(r, i) for r in range(world.size) for i in range(0, count, 2)]
    assert all(d[r, 2] == ("by", (r - 1) % world.size) for r in range(world.size))
    barrier(world)
    d.put_many(((world.rank, i), ("many", i, bytes(i * 40))) for i in range(count))
    barrier(world)
    both = [(rank, i) for i in range(count) for rank in range(world.size)]
    assert d.get_many(both) == [("many", i, bytes(i * 40)) for _, i in both]
    assert len(d) == len(both)
    barrier(world)
    big = np.arange(3 << 17)  # 3 MiB
    d["big", world.rank] = big + world.rank
    barrier(world)
    np.testing.assert_array_equal(d["big", other], big + other)


def fill(world: World, d: DDict[Any, Any], seconds: float) -> None:
    """Fill a small pool: the error comes, nothing is lost, deleting makes room again."""
    for turn in range(3):
        stored = 0
        try:
            while True:
                d[world.rank, stored] = signed(world.rank, stored, 5000)
                stored += 1
        except DDictFullError as error:
            refusal = str(error)
        assert "ALAMO_POOL_BYTES" in refusal
        barrier(world)
        counts = world.comm.allgather(stored)
        assert sum(counts) > 100, counts
        for rank, count in enumerate(counts):
            for i in range(0, count, 7):
                assert check(d[rank, i]) == (rank, i)
        assert len(d) == sum(counts)
        barrier(world)
        for i in range(stored):
            del d[world.rank, i]
        barrier(world)
        assert len(d) == 0, turn
        barrier(world)


def churn(world: World, d: DDict[Any, Any], seconds: float) -> None:
    """Overwrite 100 values of mixed sizes in a pool that holds them and little more."""
    rng = random.Random(world.rank)
    sizes = [8, 64, 500, 2000, 9000, 30_000, 70_000]
    count = 100 // world.size
    mine = [(world.rank, i) for i in range(count)]
    overwritten = 0
    end = time.monotonic() + seconds
    while overwritten < 2000 or time.monotonic() < end:
        key = rng.choice(mine)
        d[key] = bytes(rng.choice(sizes))
        overwritten += 1
    total = sum(world.comm.allgather(overwritten))
    if world.rank == 0:
        print(f"churn: {total} overwrites")


PARTS = {"hammer": hammer, "share": share, "fill": fill, "churn": churn}


if __name__ == "__main__":
    spmd.main(PARTS, DDict, "hammer")
