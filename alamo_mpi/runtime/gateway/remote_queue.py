"""An attached process's half of the gateway for queues; see `runtime.gateway.remote`.

A wait is asked for in short pieces, so that none goes on for a process that has ended.  An item
that does not fit is not sent again and again meanwhile: the rank is asked to wait for room.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from alamo_mpi.core.fifo import QueueDescriptor
from alamo_mpi.core.items import RAW, Item
from alamo_mpi.errors import QueueClosedError, QueueMemoryError
from alamo_mpi.runtime.gateway.link import Link
from alamo_mpi.runtime.gateway.wire import packed_item
from alamo_mpi.runtime.turn import released, seat

__all__ = ["ASK_AGAIN_S", "RemoteQueue", "ask_until"]

T = TypeVar("T")

#: A wait is asked for again this often, so that the thread of one that nobody waits for ends.
ASK_AGAIN_S: Final = 0.1
#: An isolated task waits so long before it gives its worker's turn away.
_FIRST_S: Final = 1e-3
#: Items that go in one request: so many, and not much more than so many bytes.
_BATCH_ITEMS: Final = 1000
_BATCH_NBYTES: Final = 1 << 20


def ask_until(ask: Callable[[float], T], timeout_s: float | None) -> T:
    """Ask for something, each time to be waited for so many seconds, until the answer is true.

    Returns the last answer when the time is over; None waits for ever.  From the second time on an
    isolated task has given its worker's turn away.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    longest_s = ASK_AGAIN_S if seat() is None else _FIRST_S
    with contextlib.ExitStack() as stack:
        while True:
            left_s = longest_s if deadline is None else deadline - time.monotonic()
            answer = ask(min(max(left_s, 0.0), longest_s))
            if answer or left_s <= 0:
                return answer
            if longest_s == _FIRST_S:
                # Whoever brings what is waited for may be a task that waits for this worker.
                stack.enter_context(released())
                longest_s = ASK_AGAIN_S


class RemoteQueue:
    """A client of one queue, by requests; see `runtime.queueclient.QueueClient`."""

    def __init__(self, link: Link, descriptor: QueueDescriptor) -> None:
        self._request = link.request
        self._where = tuple(descriptor)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return self._request(operation, self._where, *arguments)

    def put(self, item: Item, timeout_s: float | None = None) -> None:
        """Put one item; errors as on a rank."""
        if self._put([packed_item(item)], timeout_s) == 0:
            raise queue.Full

    def put_many(self, items: Sequence[Item], timeout_s: float | None = None) -> None:
        """Put several items; errors as on a rank."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        done = 0
        try:
            while done < len(items):
                left_s = None if deadline is None else deadline - time.monotonic()
                count = self._put(_batch(items, done), left_s)
                if not count:
                    raise queue.Full(f"of {len(items)} items {done} have been put")
                done += count
        except (QueueClosedError, QueueMemoryError) as error:
            error.args = (f"{error} Of {len(items)} items {done} have been put.",)
            raise

    def _put(self, packed: list[Any], timeout_s: float | None) -> int:
        """Put items, at least one; return how many, 0 if there was no room in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            count = int(self._ask("queue_put", packed))
            if count:
                return count
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return 0
            ask_until(lambda limit_s: self._ask("queue_room", limit_s), left_s)

    def get(self, timeout_s: float | None = None) -> Item:
        """Take one item; errors as on a rank."""
        return self.get_many(1, timeout_s)[0]

    def get_many(self, limit: int, timeout_s: float | None = None) -> list[Item]:
        """Wait for one item, and take what is there, up to `limit`; errors as on a rank."""
        packed = ask_until(lambda limit_s: self._ask("queue_get", limit, limit_s), timeout_s)
        if not packed:
            raise queue.Empty
        return [_item(*each) for each in packed]

    def count(self) -> int:
        """Return the number of items."""
        return int(self._ask("queue_count"))

    def closed(self) -> bool:
        """Tell whether the queue was closed."""
        return bool(self._ask("queue_closed"))

    def unfinished(self) -> int:
        """Return for how many items `finish` is still to be called."""
        return int(self._ask("queue_unfinished"))

    def finish(self) -> bool:
        """Say that one more item is done with; False if all were."""
        return bool(self._ask("queue_finish"))

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all items are done with; False if they are not in time."""
        return bool(ask_until(lambda limit_s: self._ask("queue_join", limit_s), timeout_s))

    def close(self) -> None:
        """Let nothing be put any more, by any client."""
        self._ask("queue_close")

    def destroy(self) -> None:
        """Close the queue, drop what is in it, free its memory."""
        self._ask("queue_destroy")


def _item(body: Any, frames: list[Any], kind: int) -> Item:
    # A bytes object came as a buffer.
    return Item(bytes(body) if kind == RAW else body, frames, kind)


def _batch(items: Sequence[Item], start: int) -> list[Any]:
    """Return the items from `start` on that go in one request."""
    batch: list[Any] = []
    nbytes = 0
    for item in items[start : start + _BATCH_ITEMS]:
        batch.append(packed_item(item))
        nbytes += len(item.body) + sum(len(frame) for frame in item.frames)
        if nbytes >= _BATCH_NBYTES:
            break
    return batch
