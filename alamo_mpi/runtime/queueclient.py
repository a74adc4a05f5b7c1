"""One process's use of one queue, below its face: items as bytes and buffers, in and out.

`alamo_mpi.queue.Queue` is the face, and pickles.  Here are the operations, each of which waits if
it is told to, and all of the queue's dealings with the memory pool.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from alamo_mpi.core.fifo import Fifo, Part, Put, QueueDescriptor, create_queue
from alamo_mpi.core.items import PICKLE, Item, Items
from alamo_mpi.core.ring import GETTERS, LARGEST_ORDER, PUTTERS
from alamo_mpi.errors import DDictFullError, QueueClosedError, QueueMemoryError
from alamo_mpi.runtime.bell import ring
from alamo_mpi.runtime.home import SETTING
from alamo_mpi.runtime.waiting import wait_for

if TYPE_CHECKING:
    from alamo_mpi.runtime.pool import Pool

__all__ = ["QueueClient", "make_queue"]

T = TypeVar("T")

#: An item of a batch: smaller than this, and together with the others no more than that.
_SMALL_NBYTES = 1 << 12
_BATCH_NBYTES = 1 << 18


def make_queue(pool: Pool, maxsize: int, near: int) -> QueueDescriptor:
    """Make an empty queue; local, or one write to rank `near`.

    Raises
    ------
    QueueMemoryError
    """
    with pool.lock:
        try:
            number = pool.next_number()
            descriptor = create_queue(pool.window, pool.allocator, number, maxsize, near)
        except DDictFullError as error:
            raise _no_memory("a new queue", error) from error
    pool.left.made(descriptor)
    return descriptor


class QueueClient:
    """A client of one queue, for any number of threads.

    Times are in seconds: None waits for ever, 0 or less not at all.  Every method raises
    `QueueDestroyedError` when the queue was destroyed.

    Parameters
    ----------
    pool : Pool
    descriptor : QueueDescriptor
    """

    def __init__(self, pool: Pool, descriptor: QueueDescriptor) -> None:
        self.pool = pool
        self.descriptor = descriptor
        self._lock = pool.lock
        self._window = pool.window
        self._allocator = pool.allocator
        self._items = Items(pool.window, pool.allocator, descriptor.uid)
        with self._lock:
            self._fifo = Fifo(pool.window, pool.allocator, descriptor)
        self._getters, self._putters = self._board(GETTERS), self._board(PUTTERS)

    def _board(self, place: int) -> _Board | None:
        return _Board(self._fifo, self._lock, place) if self._fifo.near else None

    # -- putting ----------------------------------------------------------

    def put(self, item: Item, timeout_s: float | None = None) -> None:
        """Put one item.

        Raises
        ------
        queue.Full
        QueueClosedError
        QueueMemoryError
        """
        if not self._put(item, item.frames) and not self._wait(
            lambda: self._put(item), timeout_s, self._putters
        ):
            raise queue.Full

    def put_many(self, items: Sequence[Item], timeout_s: float | None = None) -> None:
        """Put several items, small ones many at a time.

        Raises
        ------
        queue.Full, QueueClosedError, QueueMemoryError
            Some may have been put, from the first on; the message says how many.
        """
        done = 0

        def put() -> bool:
            nonlocal done
            while done < len(items):
                count = self.put_some(items, done)
                if not count:
                    return False
                done += count
            return True

        try:
            if put() or self._wait(put, timeout_s, self._putters):
                return
        except (QueueClosedError, QueueMemoryError) as error:
            error.args = (f"{error} Of {len(items)} items {done} have been put.",)
            raise
        raise queue.Full(f"of {len(items)} items {done} have been put")

    def _put(self, item: Item, ask: object = True) -> bool:
        """Put an item if there is room; if told so, `ask` before it is written."""
        with self._lock:
            if ask and self._fifo.maxsize and self._fifo.order_for(1) is None:
                return False
            return self._enter(lambda: self._items.write(item), 0) is Put.DONE

    def put_some(self, items: Sequence[Item], start: int = 0) -> int:
        """Put items in one block, from the given one on; return how many, 0 if it is full.

        Raises
        ------
        QueueClosedError, QueueMemoryError
            None of these was put.
        """
        bodies = _batch(items, start)
        with self._lock:
            while True:
                order = self._fifo.order_for(len(bodies)) if len(bodies) > 1 else 0
                if order is None:
                    return 0
                if not order:
                    return int(self._put(items[start]))
                batch = bodies[: 1 << order]
                if self._enter(lambda: self._items.write_batch(batch), order) is Put.DONE:  # noqa: B023
                    return len(batch)

    def _enter(self, write: Callable[[], int], order: int) -> Put:
        """Write a block, then put it in the queue."""
        try:
            pointer = write()
            try:
                outcome = self._fifo.publish(pointer, order)
            except (QueueClosedError, DDictFullError):
                self._items.withdraw(pointer, 1 << order)
                raise
        except DDictFullError as error:
            raise _no_memory("an item", error) from error
        if outcome is not Put.DONE:
            self._items.withdraw(pointer, 1 << order)
        elif self._getters is not None:
            self._getters.wake()
        return outcome

    def has_room(self) -> bool:
        """Tell whether a put would not find the queue full at this moment."""
        with self._lock:
            return not self._fifo.maxsize or self._fifo.order_for(1) is not None

    # -- getting ----------------------------------------------------------

    def get(self, timeout_s: float | None = None) -> Item:
        """Take one item.

        Raises
        ------
        queue.Empty
        QueueClosedError
            The queue is closed, and empty.
        """
        parts = self._take(1) or self._wait(lambda: self._take(1), timeout_s, self._getters)
        if not parts:
            raise queue.Empty
        return self._read(parts)[0]

    def get_many(self, limit: int, timeout_s: float | None = None) -> list[Item]:
        """Wait for one item, and take what is there, up to `limit`; errors as `get`."""
        parts = self._take(limit) or self._wait(lambda: self._take(limit), timeout_s, self._getters)
        if not parts:
            raise queue.Empty
        items = self._read(parts)
        while len(items) < limit:
            try:
                parts = self._take(limit - len(items))
            except QueueClosedError:
                break  # next time
            if not parts:
                break
            items += self._read(parts)
        return items

    def _take(self, limit: int) -> list[Part]:
        with self._lock:
            parts = self._fifo.take(limit)
            if parts and self._putters is not None and self._fifo.maxsize:
                self._putters.wake()
            return parts

    def _read(self, parts: list[Part]) -> list[Item]:
        items: list[Item] = []
        try:
            for part in parts:
                items += self._items.read(part)
        finally:
            with self._lock:
                for part in parts:
                    self._items.free(part)
        return items

    # -- the queue as a whole ----------------------------------------------------------

    def count(self) -> int:
        """Return the number of items."""
        with self._lock:
            self._allocator.settle()
            return self._fifo.count()

    def closed(self) -> bool:
        """Tell whether the queue was closed."""
        with self._lock:
            return self._fifo.closed

    def unfinished(self) -> int:
        """Return for how many items `finish` is still to be called."""
        with self._lock:
            return self._fifo.unfinished()

    def finish(self) -> bool:
        """Say that one more item is done with; False if all were."""
        with self._lock:
            return self._fifo.finish()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all items are done with; False if they are not in time."""
        return self._wait(lambda: self.unfinished() == 0, timeout_s)

    def close(self) -> None:
        """Let nothing be put any more, by any client."""
        with self._lock:
            self._fifo.close()
            self._wake_all()

    def destroy(self) -> None:
        """Close the queue, drop what is in it, free its memory."""
        with self._lock:
            self._fifo.condemn()
            self.pool.left.destroyed(self.descriptor)
            self._wake_all()
            for part in self._fifo.drain():
                self._items.drop(part)
            self._fifo.discard()
            self._allocator.settle()

    def _wake_all(self) -> None:
        for board in (self._getters, self._putters):
            if board is not None:
                board.wake()

    def _wait(
        self, look: Callable[[], T], timeout_s: float | None, board: _Board | None = None
    ) -> T:
        with self._lock:
            self._allocator.settle()
        return wait_for(look, self._window, timeout_s, board)


class _Board:
    """Who waits at one place of a queue whose words are mapped here."""

    def __init__(self, fifo: Fifo, lock: AbstractContextManager[object], place: int) -> None:
        self._fifo = fifo
        self._lock = lock
        self._place = place

    def enlist(self, name: int) -> bool:
        with self._lock:
            return self._fifo.enlist(self._place, name)

    def delist(self, name: int) -> None:
        with self._lock:
            self._fifo.delist(self._place, name)

    def wake(self) -> None:
        """Ring for all of them; costs a load if there is nobody."""
        names = self._fifo.call(self._place)
        if names:
            ring(names)


def _batch(items: Sequence[Item], start: int) -> list[bytes]:
    """Return the bodies of the small items from `start` on that may share a block."""
    bodies: list[bytes] = []
    nbytes = 0
    for i in range(start, min(start + (1 << LARGEST_ORDER), len(items))):
        body, frames, kind = items[i]
        nbytes += len(body)
        if frames or kind != PICKLE or len(body) > _SMALL_NBYTES or nbytes > _BATCH_NBYTES:
            break
        bodies.append(body)
    return bodies


def _no_memory(what: str, error: DDictFullError) -> QueueMemoryError:
    return QueueMemoryError(
        f"There is no memory for {what}, and nothing was put: {error} For a queue that means: take "
        f"items out, bound it by maxsize, or raise {SETTING}.",
        rank=error.rank,
    )
