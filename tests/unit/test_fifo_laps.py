"""Lap numbers that come round again: slots that blocks of several items pass over for long.

A slot keeps the lap in which it was written last, in few bits.  One that is passed over for as many
laps as they count would be taken for one that holds its position.  Two rules of
`Ring.largest_order` keep that from happening; a lap number has four bits here.
"""

from __future__ import annotations

import itertools

import pytest

from alamo_mpi.core import fifo, ring
from tests.unit.test_fifo import Client, Ranks

NSLOTS = 16
LAPS = 16  # of four bits
MOST_LOOKS = 100_000


@pytest.fixture(autouse=True)
def _few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "LAP_BITS", 4)
    monkeypatch.setattr(fifo, "_FIRST_SLOTS", NSLOTS)
    # A ring whose slots all seem to hold their positions is looked through for ever.
    looks, age = itertools.count(), ring.Ring.age

    def counted(self: ring.Ring, word: int, position: int) -> int:
        assert next(looks) < MOST_LOOKS, "the end of the queue is nowhere"
        return age(self, word, position)

    monkeypatch.setattr(ring.Ring, "age", counted)


def position(client: Client) -> int:
    """Return the position at the end of the queue."""
    return client.fifo._end()[1]


def pass_on(client: Client, most: int) -> None:
    """Put as many items as one block may have, and take them."""
    numbers = list(range(1 << (client.fifo.order_for(most) or 0)))
    assert client.put_many(numbers) == len(numbers)
    assert client.take(NSLOTS) == numbers


def go_on(client: Client, laps: int, blocks: dict[int, int]) -> None:
    """Go through laps with a block of so many items at each of these slots, where they fit."""
    end = position(client) + laps * NSLOTS
    while position(client) < end:
        pass_on(client, blocks.get(position(client) % NSLOTS, 1))


@pytest.mark.parametrize("laps", range(1, 2 * LAPS + 2))
@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(dict.fromkeys(range(0, NSLOTS, 2), 2), id="every second slot"),
        pytest.param(dict.fromkeys(range(0, NSLOTS, 4), 4), id="three of four"),
        pytest.param({0: 4, NSLOTS - 2: 4}, id="over the end of the ring"),
        pytest.param({NSLOTS - 1: 4, 3: 4}, id="over the end by three"),
    ],
)
def test_a_slot_that_was_passed_over_is_empty(laps: int, blocks: dict[int, int]) -> None:
    """Then all slots are used again, one by one: each is empty before, and after."""
    ranks = Ranks()
    client = ranks.client(ranks.create())
    go_on(client, 1, {})
    while position(client) % NSLOTS:
        pass_on(client, 1)
    go_on(client, laps, blocks)
    for number in range(NSLOTS):
        assert client.take() == []
        assert client.put(number)
        assert client.fifo.count() == 1
        assert client.take() == [number]
