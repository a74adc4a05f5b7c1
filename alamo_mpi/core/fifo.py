"""The queue: any number of producers and consumers on a chain of rings.

An item is published by one compare-and-swap of its slot, after its block was written, and taken by
one of the head word, before its block is read.  What is between operations is nowhere but in these
words: whoever is interrupted at any point leaves nothing half done, and nobody waits for anybody.
The tail is not a word but a fact: the first position that its slot does not hold.

`core.ring` knows where the words are.  `ARCHITECTURE-queue.md` has steps, invariants and races.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from alamo_mpi.errors import QueueClosedError, QueueDestroyedError

from . import layout as at
from .blocks import Allocator
from .ring import CLOSED, DONE, HEAD, LEAST_SLOTS, LINK, OFFSET_BITS, TAIL, Header, Ring, make_ring
from .window import Window

__all__ = ["Fifo", "Part", "Put", "QueueDescriptor", "create_queue"]

_FIRST_SLOTS: Final = 64
_LARGEST_FIRST_SLOTS: Final = 1024
_GROWTH: Final = 4
#: How far the tail hint may lag behind.
_LAG: Final = 16
_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
_SCATTER: Final = 0x9E3779B97F4A7C15


class QueueDescriptor(NamedTuple):
    """What another process needs to use a queue."""

    uid: int
    root: int  #: pointer word of the first ring
    maxsize: int  #: 0 for no bound
    near: int  #: the rank whose memory the rings are in


class Put(enum.Enum):
    """What came of an attempt to publish a block."""

    DONE = enum.auto()
    #: The queue has as many items as it may have.
    FULL = enum.auto()
    #: The block has too many items for the room, or for the place at the tail.
    TOO_MANY = enum.auto()


class Part(NamedTuple):
    """Items that were taken: `nitems` of the `size` items of a block, from item `first` on."""

    address: int
    first: int
    nitems: int
    size: int


def create_queue(
    window: Window, allocator: Allocator, number: int, maxsize: int, near: int
) -> QueueDescriptor:
    """Make an empty queue; local, or one write into the memory of rank `near`.

    Parameters
    ----------
    number : int
        At least 1, and never given twice by this rank.
    maxsize : int
        Most items at a time, 0 for no bound.
    near : int
        The rank in whose memory the queue lies, if it has room.

    Raises
    ------
    DDictFullError
    """
    uid = (window.rank + 1) << 48 | number
    nslots = _FIRST_SLOTS
    if maxsize:
        most = min(maxsize, _LARGEST_FIRST_SLOTS - 1)
        nslots = max(LEAST_SLOTS, 1 << most.bit_length())
    # No two queues count alike: what a client remembers of one that was destroyed fits no other.
    start = uid * _SCATTER & (1 << 42) - 1
    root = make_ring(window, allocator, uid, start, nslots, near)
    return QueueDescriptor(uid, root, maxsize, near)


class Fifo:
    """A client of one queue; of one thread at a time.

    Every method raises `QueueDestroyedError` when the queue was destroyed.

    Attributes
    ----------
    maxsize : int
    """

    def __init__(self, window: Window, allocator: Allocator, descriptor: QueueDescriptor) -> None:
        self.maxsize = descriptor.maxsize
        self._window = window
        self._allocator = allocator
        self._descriptor = descriptor
        self._uid = descriptor.uid
        self._root = self._ring(descriptor.root)
        #: The rings where the head and the tail are, as far as this client has seen.
        self._first = self._last = self._root

    def _ring(self, pointer: int) -> Ring:
        ring = Ring(self._window, self._uid, pointer)
        if not ring.nslots:
            raise self._gone()
        return ring

    def _header(self, ring: Ring) -> Header:
        header = ring.header()
        if header[0] != self._uid:
            raise self._gone()
        return header

    def _follow(self, ring: Ring, word: int) -> Ring:
        if ring.following is None:
            ring.following = self._ring(word & at.ADDRESS_MASK)
        return ring.following

    # -- putting ----------------------------------------------------------

    def order_for(self, count: int) -> int | None:
        """Return log2 of the items that the next block may have, of `count`; None: queue is full.

        Raises
        ------
        QueueClosedError
            Nothing can be put any more.
        """
        while True:
            ring, position, word, header = self._tail()
            room = self._room(ring, position, header)
            if room <= 0:
                return None
            free = _free(ring, position, header)
            if free > 0:
                return ring.largest_order(position, min(count, room, free))
            self._grow(ring, position, word)

    def publish(self, address: int, order: int) -> Put:
        """Put the block of 2**order items at the end.

        Parameters
        ----------
        address : int
            Address or pointer word of the block; the queue's from here on if the answer is DONE.

        Raises
        ------
        QueueClosedError
            The block stays the caller's.
        DDictFullError
            There is no memory for a larger ring; the block stays the caller's.
        """
        count = 1 << order
        while True:
            ring, position, word, header = self._tail()
            room = self._room(ring, position, header)
            if room < count:
                return Put.TOO_MANY if room > 0 else Put.FULL
            free = _free(ring, position, header)
            if free <= 0:
                self._grow(ring, position, word)
                continue
            if order and ring.largest_order(position, min(count, free)) < order:
                return Put.TOO_MANY
            if ring.publish(position, word, order, address):
                ring.tail = end = position + count
                if end - header[2] >= _LAG:
                    ring.swap(TAIL, header[2], end)
                return Put.DONE

    def _tail(self) -> tuple[Ring, int, int, Header]:
        """Find the end: ring, position, the old word of its slot, the ring's header."""
        ring, position, word, header = self._end()
        if word is None:
            raise self.closed_error()
        return ring, position, word, header

    def _end(self) -> tuple[Ring, int, int | None, Header]:
        """Find the end, as `_tail`; the word is None if the queue is closed there.

        The header is read first, so the position was the end when its slot was read.
        """
        while True:
            ring = self._last
            header = self._header(ring)
            position = ring.tail
            if position < header[2] or position < header[1] >> OFFSET_BITS:
                position = max(header[2], header[1] >> OFFSET_BITS)
            look = ring.glance if ring.copied else ring.slot
            while True:
                word = look(position)
                age = ring.age(word, position)
                if age < 0:
                    break  # others went round meanwhile
                if age > 0:
                    if look == ring.slot:
                        ring.tail = position
                        return ring, position, word, header
                    look = ring.slot
                    continue
                kind = ring.kind(word)
                if kind == LINK:
                    self._last = self._follow(ring, word)
                    break
                if kind == CLOSED:
                    return ring, position, None, header
                position += 1 << kind

    def _room(self, ring: Ring, position: int, header: Header) -> int:
        """Return how many items the bound allows to put at the end."""
        if not self.maxsize:
            return self._window.nbytes
        head = header[1] if ring is self._first else self._head()
        while True:
            left = _taken(head) + self.maxsize - position
            if left > 0:
                return left
            # Full, if nothing was taken before the end was seen where it is.
            again = self._head()
            if again == head:
                return left
            head = again

    def _grow(self, ring: Ring, position: int, word: int) -> None:
        """Go on in a larger ring: the last free slot of this one says where."""
        nslots = ring.nslots * _GROWTH
        near = self._descriptor.near
        pointer = make_ring(self._window, self._allocator, self._uid, position, nslots, near)
        if not ring.publish(position, word, LINK, pointer):
            self._allocator.retire(pointer)

    # -- taking ----------------------------------------------------------

    def take(self, limit: int) -> list[Part]:
        """Take up to `limit` items from the front, all by one step; an empty list if there is none.

        There may be more, behind a link to the next ring.

        Raises
        ------
        QueueClosedError
            There is none, and none will come.
        """
        while True:
            ring = self._first
            head = self._header(ring)[1]
            position = head >> OFFSET_BITS
            word = ring.glance(position)
            age = ring.age(word, position)
            if age > 0:
                word = ring.slot(position)
                age = ring.age(word, position)
                if age > 0:
                    return []
            if age < 0:
                continue
            kind = ring.kind(word)
            if kind == LINK:
                self._first = self._follow(ring, word)
                continue
            if kind == CLOSED:
                raise self.closed_error()
            if limit == 1 and kind == 0:  # the usual case, without a detour
                parts = [Part(word & at.ADDRESS_MASK, 0, 1, 1)]
                new = position + 1 << OFFSET_BITS
            else:
                parts, new = _gather(ring, head, word, limit)
            if ring.swap(HEAD, head, new):
                return parts

    def _head(self) -> int:
        """Return the head word of the ring where the head is."""
        while True:
            ring = self._first
            head = self._header(ring)[1]
            word = ring.slot(head >> OFFSET_BITS)
            if ring.age(word, head >> OFFSET_BITS) or ring.kind(word) != LINK:
                return head
            self._first = self._follow(ring, word)

    # -- figures ----------------------------------------------------------

    def count(self) -> int:
        """Return the number of items; not too small, and too large if others take meanwhile."""
        taken = _taken(self._head())
        return self._end()[1] - taken

    @property
    def closed(self) -> bool:
        """Whether nothing can be put any more."""
        return self._end()[2] is None

    # -- done ----------------------------------------------------------

    def unfinished(self) -> int:
        """Return for how many items `finish` is still to be called."""
        done = self._header(self._root)[3]
        return self._end()[1] - done

    def finish(self) -> bool:
        """Say that one more item is done with; False if all were."""
        while True:
            done = self._header(self._root)[3]
            if self._end()[1] <= done:
                return False
            if self._root.swap(DONE, done, done + 1):
                return True

    # -- the end ----------------------------------------------------------

    def close(self) -> None:
        """Let nothing be put any more, by anyone; may be called again."""
        while True:
            ring, position, word, _ = self._end()
            if word is None or ring.publish(position, word, CLOSED, 0):
                return

    def drain(self) -> Iterator[Part]:
        """Take everything out of a closed queue."""
        while True:
            try:
                parts = self.take(_FIRST_SLOTS)
            except QueueClosedError:
                return
            yield from parts

    def discard(self) -> None:
        """Free the rings of a closed queue that is empty; of several clients one does.

        Raises
        ------
        QueueDestroyedError
            Another client did.
        """
        rings = [self._root]
        while rings[-1] is not self._last:
            following = rings[-1].following
            assert following is not None
            rings.append(following)
        if not self._root.void(self._uid):
            raise self._gone()
        for ring in rings[1:]:
            ring.void(self._uid)
        for ring in rings:
            self._allocator.retire(ring.pointer)

    # -- errors ----------------------------------------------------------

    def closed_error(self) -> QueueClosedError:
        """Return what is raised when the queue was closed."""
        return QueueClosedError(
            f"The queue {self._uid:x} was closed: nothing can be put any more, and what was in it "
            "has been taken. Close a queue when all producers are done, or make a new one.",
            rank=self._window.rank,
        )

    def _gone(self) -> QueueDestroyedError:
        return QueueDestroyedError(
            f"The queue {self._uid:x} was destroyed, and what was in it is gone; make a new Queue.",
            rank=self._window.rank,
        )


def _free(ring: Ring, position: int, header: Header) -> int:
    """Return how many slots are free from `position` on; the last one is kept for a mark."""
    return (header[1] >> OFFSET_BITS) + ring.nslots - 1 - position


def _taken(head: int) -> int:
    """Return the position of the next item to be taken."""
    return (head >> OFFSET_BITS) + (head & _OFFSET_MASK)


def _gather(ring: Ring, head: int, word: int, limit: int) -> tuple[list[Part], int]:
    """Return up to `limit` items from the head on, and the head word behind them.

    Right if the head is still the same afterwards: until it moves, slots that hold their position
    do not change.
    """
    position, first = head >> OFFSET_BITS, head & _OFFSET_MASK
    parts = []
    while True:
        size = 1 << ring.kind(word)
        count = min(size - first, limit)
        parts.append(Part(word & at.ADDRESS_MASK, first, count, size))
        limit -= count
        if first + count < size:
            return parts, position << OFFSET_BITS | first + count
        position, first = position + size, 0
        if limit:
            word = ring.glance(position)
        if not limit or ring.age(word, position) or ring.kind(word) >= LINK:
            return parts, position << OFFSET_BITS
