"""Allocation of blocks: a manager's free lists over extents leased from arenas.

An `Allocator` leases, writes blocks, takes them back from other ranks, and says when all is full;
what it has of each arena it keeps in a `core.heap.Arena`.

Freed blocks are first *parked*, whole and in order: those of up to 64 KiB in a queue for each size,
the last few larger ones in a queue of their own.  Parking makes equal sizes cost nothing, leaves
late readers a valid block, and keeps warm memory in use.  When room is short, what is parked is
merged with its free neighbours, so that a pool that just holds its data never fragments for good.

An allocator belongs to one thread at a time; its user holds a lock around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from alamo_mpi.errors import DDictFullError

from . import layout as at
from .heap import Arena
from .quota import Quota
from .window import Buffer, Window

__all__ = ["Allocator", "block_layout"]

_LARGEST_SMALL = 1024  # units: 64 KiB
_PARKED_LARGE = 2
_FIRST_OWN_EXTENT = 1024  # units: 64 KiB
_LARGEST_OWN_EXTENT = 1 << 20  # units: 64 MiB
_FIRST_FOREIGN_EXTENT = 4 * at.PAGE_UNITS
_LARGEST_FOREIGN_EXTENT = 1 << 14  # units: 1 MiB
_JOINED_WRITE = 1 << 16
#: So many blocks of up to so many units are returned to another rank together.
_MOST_DUE = 8
_LARGEST_DUE = 64  # units: 4 KiB
_SCATTER = 0x9E3779B97F4A7C15  # odd: a bijection of 64-bit words, and of their low bits
#: Blocks of up to this many units are cut from the heap so many at a time.
_LARGEST_SLICED = 16
_SLICES = 16


def block_layout(key_nbytes: int, body_nbytes: int, frames: Sequence[Buffer]) -> list[int]:
    """Return the offset of each frame in its block, and last the length of the block.

    >>> block_layout(10, 20, [b"x" * 65, b""])
    [128, 256, 256]
    """
    if not frames:
        return [at.CONTENT + key_nbytes + body_nbytes + at.UNIT - 1 & -at.UNIT]
    end = at.CONTENT + key_nbytes + 8 * len(frames) + body_nbytes
    offsets = []
    for frame in frames:
        end = at.align(end)
        offsets.append(end)
        end += len(frame)
    return [*offsets, at.align(end)]


def _lengths(frames: Sequence[Buffer]) -> bytes:
    return b"".join([len(frame).to_bytes(8, "little") for frame in frames])


class _Chain(NamedTuple):
    """Blocks that are linked for a return list: the youngest, where the oldest is, how many."""

    pointer: int
    rank: int
    offset: int
    nblocks: int


class Allocator:
    """The manager of one rank.

    Parameters
    ----------
    window : Window
        Initialised by `format` on every rank before the first use anywhere.
    setting : str
        The name of the setting that makes the pool larger, for the message when it is full.
    """

    def __init__(self, window: Window, *, setting: str = "ALAMO_POOL_BYTES") -> None:
        self._window = window
        self._setting = setting
        self._manager = window.rank
        self._quotas: dict[int, Quota] = {}  #: of dictionaries that have a bound, by uid
        self._count = 0  #: of sequences given
        self._due: dict[int, _Chain] = {}  #: by manager, what `retire_soon` has not yet returned
        self._arenas: dict[int, Arena] = {}
        self._end = window.nbytes // at.UNIT

    def format(self) -> None:
        """Write this rank's arena header; every rank does it before anyone uses the pool."""
        self._window.write(self._window.rank, 0, bytes(at.UNIT))
        self._window.write_word(self._window.rank, at.MARK, 1)

    # -- blocks ----------------------------------------------------------

    def write_block(
        self,
        uid: int,
        key_hash: int,
        key: bytes,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> int:
        """Write a block that no one knows yet; return its pointer word.

        Parameters
        ----------
        uid, key_hash : int
            Of the dictionary and of the key; 64 bits.
        key, body : bytes
        frames : sequence of memoryview of bytes
            Buffers stored beside the body, each aligned to 64 bytes.
        on : int, optional
            The arena to use if it has room; the caller's own by default.

        Raises
        ------
        DDictFullError
        """
        *offsets, nbytes = block_layout(len(key), len(body), frames)
        units = nbytes // at.UNIT
        if uid in self._quotas:
            self._spend(self._quotas[uid], units)
        try:
            address = self.allocate(units, on)
        except DDictFullError:
            self._earn(uid, units)
            raise
        try:
            sequence = self._next_sequence()
            rank, offset = at.place(address)
            window = self._window
            # A late reader of the block's former life must see its end before its first byte.
            window.write_word(rank, offset, 0)
            lengths = _lengths(frames) if frames else b""
            shape = units | self._manager << 32, len(key) | len(frames) << 32
            content_nbytes = len(key) + len(lengths) + len(body)
            head = at.HEADER_TAIL.pack(0, uid, key_hash, *shape, content_nbytes, len(body))
            if len(body) < _JOINED_WRITE:
                window.write(rank, offset + 8, head + key + lengths + body)
            else:
                window.write(rank, offset + 8, head + key + lengths)
                window.write(rank, offset + at.CONTENT + content_nbytes - len(body), body)
            for frame, frame_offset in zip(frames, offsets, strict=True):
                window.write(rank, offset + frame_offset, frame)
            window.write_word(rank, offset, sequence)
        except BaseException:
            self._earn(uid, units)
            self._park(address, units)
            raise
        return address | (sequence & at.GENERATION_MASK) << at.GENERATION_SHIFT

    def allocate_page(self, on: int) -> int:
        """Return the address of an index page to be written, in arena `on` if it has room.

        Raises
        ------
        DDictFullError
        """
        arena = self._arenas.get(on)
        if arena is not None and arena.pages:
            return at.address_of(on, arena.pages.popleft())
        return self.allocate(at.PAGE_UNITS, on)

    def write_page(self, address: int, uid: int, buckets: bytes) -> None:
        """Write an index page that no one knows yet."""
        rank, offset = at.place(address)
        window = self._window
        window.write_word(rank, offset, 0)
        head = at.HEADER_TAIL.pack(0, uid, 0, at.PAGE_UNITS | window.rank << 32, at.PAGE_KEY, 0, 0)
        window.write(rank, offset + 8, head + buckets)
        window.write_word(rank, offset, self._next_sequence())

    def _next_sequence(self) -> int:
        self._count += 1
        if self._count & at.GENERATION_MASK == 0:
            # Generation 0 would match the sequence of a block that is being written.
            self._count += 1
        # Scattered over 64 bits, so that no stored number is taken for one; the low bits, the
        # generation, still go through all their values before one comes again.
        return self._count * _SCATTER & 0xFFFFFFFFFFFFFFFF

    def retire(self, pointer: int) -> None:
        """Return a block or page to its manager.

        Only the client that took the pointer word out of the last place where it could be found
        does this, once.
        """
        rank, offset = at.place(pointer)
        window = self._window
        uid, _, shape, key = window.words(rank, offset + at.UID, 4)
        manager = shape >> 32
        if manager == self._manager:
            self._free(pointer & at.ADDRESS_MASK, uid, shape & 0xFFFFFFFF, key & 0xFFFFFFFF)
            return
        self._push(manager, _Chain(pointer & ~at.FROZEN, rank, offset, 1))

    def retire_soon(self, pointer: int) -> None:
        """Return a block as `retire` does, a small one perhaps later, with others.

        A few blocks of another manager may wait for more, until `settle`.
        """
        rank, offset = at.place(pointer)
        window = self._window
        uid, _, shape, key = window.words(rank, offset + at.UID, 4)
        manager, units = shape >> 32, shape & 0xFFFFFFFF
        if manager == self._manager:
            self._free(pointer & at.ADDRESS_MASK, uid, units, key & 0xFFFFFFFF)
            return
        due = self._due.pop(manager, None)
        if due is None:
            due = _Chain(pointer, rank, offset, 1)
        else:
            window.write_word(rank, offset + at.NEXT, due.pointer)
            due = _Chain(pointer, due.rank, due.offset, due.nblocks + 1)
        if units > _LARGEST_DUE or due.nblocks == _MOST_DUE:
            self._push(manager, due)
        else:
            self._due[manager] = due

    def settle(self) -> None:
        """Return what `retire_soon` has left."""
        while self._due:
            self._push(*self._due.popitem())

    def _push(self, manager: int, chain: _Chain) -> None:
        window = self._window
        head = window.word(manager, at.RETURNED)
        while True:
            window.write_word(chain.rank, chain.offset + at.NEXT, head)
            seen = window.compare_and_swap(manager, at.RETURNED, head, chain.pointer)
            if seen == head:
                return
            head = seen

    def reclaim(self) -> int:
        """Take back what other ranks have retired of this manager's blocks; return how many."""
        window = self._window
        head = window.word(window.rank, at.RETURNED)
        if head == 0:
            return 0
        # The only one that takes is this manager, and it takes all: no ABA.
        while (seen := window.compare_and_swap(window.rank, at.RETURNED, head, 0)) != head:
            head = seen
        count = 0
        while head:
            rank, offset = at.place(head)
            _, following, uid, _, shape, key, _, _ = window.words(rank, offset, at.HEADER_WORDS)
            self._free(head & at.ADDRESS_MASK, uid, shape & 0xFFFFFFFF, key & 0xFFFFFFFF)
            head = following
            count += 1
        return count

    # -- ranges ----------------------------------------------------------

    def allocate(self, units: int, on: int | None = None) -> int:
        """Return the address of `units` free units: in arena `on`, else here, else anywhere.

        Raises
        ------
        DDictFullError
        """
        first = self._manager if on is None else on
        arena = self._arenas.get(first)
        if arena is not None and (parked := arena.small.get(units)):
            arena.parked -= units  # the usual case, without a detour
            return first << at.UNIT_BITS | parked.popleft()
        window = self._window
        start = self._take(first, units)
        if start is not None:
            return at.address_of(first, start)
        for distance in range(window.size):
            rank = (window.rank + distance) % window.size
            if rank == first or rank in window.lost:
                continue
            if (start := self._take(rank, units)) is not None:
                return at.address_of(rank, start)
        raise DDictFullError(
            f"The memory pool is full: no {units * at.UNIT} contiguous free bytes in any of "
            f"{window.size} arenas of {window.nbytes} bytes each (rank {window.rank} manages "
            f"{self.managed_nbytes}, of which {self.free_nbytes} are free). Delete keys, or "
            f"raise {self._setting}.",
            rank=window.rank,
        )

    def _take(self, rank: int, units: int) -> int | None:
        arena = self._arenas.get(rank)
        if arena is None:
            arena = self._arenas[rank] = Arena(rank)
        parked = arena.small.get(units)
        if parked:
            arena.parked -= units
            return parked.popleft()
        heap = arena.heap
        if units > _LARGEST_SMALL:
            self.reclaim()  # before more memory is touched
            start = self._take_large(arena, units)
            if start is None:
                start = heap.take(units)
        else:
            start = self._slice(arena, units) if units <= _LARGEST_SLICED else heap.take(units)
            if start is None and self.reclaim():
                if parked := arena.small.get(units):
                    arena.parked -= units
                    return parked.popleft()
                start = heap.take(units)
        if start is not None:
            return start
        if arena.parked * 4 >= heap.managed > 0:
            self._merge(arena)
            start = heap.take(units)
        if start is None and self._lease(arena, units):
            start = heap.take(units)
        if start is None and arena.parked:
            self._merge(arena)
            start = heap.take(units)
            if start is None and self._lease(arena, units):
                start = heap.take(units)
        return start

    def _slice(self, arena: Arena, units: int) -> int | None:
        """Take one small block, and park some more if there is room."""
        start = arena.heap.take(units * _SLICES)
        if start is None:
            return arena.heap.take(units)
        rest = range(start + units, start + units * _SLICES, units)
        arena.small.setdefault(units, deque()).extend(rest)
        arena.parked += units * len(rest)
        return start

    def _take_large(self, arena: Arena, units: int) -> int | None:
        # The youngest parked block is left to those who are still reading it.
        if len(arena.large) >= _PARKED_LARGE and arena.large[0][1] == units:
            arena.parked -= units
            return arena.large.popleft()[0]
        return None

    def _lease(self, arena: Arena, units: int) -> bool:
        """Move the arena's mark; what is gained joins a free range that ends there."""
        window, heap = self._window, arena.heap
        own = arena.rank == window.rank
        least, most = (
            (_FIRST_OWN_EXTENT, _LARGEST_OWN_EXTENT)
            if own
            else (_FIRST_FOREIGN_EXTENT, _LARGEST_FOREIGN_EXTENT)
        )
        mark = window.word(arena.rank, at.MARK)
        while True:
            room = self._end - mark
            needed = units - heap.size_ending_at(mark)
            if needed > room:
                return False
            extent = min(max(needed, min(max(heap.managed, least), most)), room)
            seen = window.compare_and_swap(arena.rank, at.MARK, mark, mark + extent)
            if seen == mark:
                heap.add(mark, extent)
                self._publish()
                return True
            mark = seen

    def set_quota(self, uid: int, quota: Quota) -> None:
        """Bound the blocks of a dictionary from now on; once for each."""
        self._quotas.setdefault(uid, quota)

    def _spend(self, quota: Quota, units: int) -> None:
        if quota.take(units) or (self.reclaim() and quota.take(units)):
            return
        raise DDictFullError(
            f"The dictionary is full: {units * at.UNIT} more bytes would exceed its total_mem of "
            f"{quota.total * at.UNIT} bytes. Delete keys, or make it with a larger total_mem.",
            rank=self._manager,
        )

    def _earn(self, uid: int, units: int) -> None:
        if uid in self._quotas:
            self._quotas[uid].give(units)

    def _free(self, address: int, uid: int, units: int, key_nbytes: int) -> None:
        if key_nbytes == at.PAGE_KEY:
            rank, offset = at.place(address)
            self._arenas[rank].pages.append(offset // at.UNIT)
        else:
            self._earn(uid, units)
            self._park(address, units)

    def _park(self, address: int, units: int) -> None:
        rank, offset = at.place(address)
        arena, start = self._arenas[rank], offset // at.UNIT
        arena.parked += units
        if units <= _LARGEST_SMALL:
            queue = arena.small.get(units)
            if queue is None:
                queue = arena.small[units] = deque()
            queue.append(start)
            return
        arena.large.append((start, units))
        if len(arena.large) > _PARKED_LARGE:
            start, units = arena.large.popleft()
            arena.parked -= units
            self._release(arena, start, units)

    def _release(self, arena: Arena, start: int, units: int) -> None:
        # The header may come to lie inside another block: end this life where it can be seen.
        self._window.write_word(arena.rank, start * at.UNIT, 0)
        arena.heap.give(start, units)

    def _merge(self, arena: Arena) -> None:
        for start, units in list(arena.unpark()):
            self._release(arena, start, units)
        self._publish()

    # -- figures ----------------------------------------------------------

    @property
    def managed_nbytes(self) -> int:
        """Bytes this manager has leased."""
        return sum(arena.heap.managed for arena in self._arenas.values()) * at.UNIT

    @property
    def free_nbytes(self) -> int:
        """Bytes of it that are free, parked ones included."""
        return (
            sum(
                arena.heap.free + arena.parked + len(arena.pages) * at.PAGE_UNITS
                for arena in self._arenas.values()
            )
            * at.UNIT
        )

    def _publish(self) -> None:
        """Store this manager's figures where other ranks can read them."""
        arenas = self._arenas.values()
        parked = sum(arena.parked for arena in arenas) * at.UNIT
        largest = max(arena.heap.largest() for arena in arenas) * at.UNIT
        for offset, value in (
            (at.MANAGED_BYTES, self.managed_nbytes),
            (at.FREE_BYTES, self.free_nbytes),
            (at.PARKED_BYTES, parked),
            (at.LARGEST_BYTES, largest),
        ):
            self._window.write_word(self._window.rank, offset, value)

    def publish(self) -> None:
        """Bring the published figures up to date."""
        self.reclaim()
        if self._arenas:
            self._publish()
