"""The rank's half of the gateway for queues; see `runtime.gateway.served`."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.fifo import QueueDescriptor
from alamo_mpi.core.items import Item
from alamo_mpi.errors import QueueClosedError, QueueMemoryError
from alamo_mpi.runtime.gateway.kept import Kept
from alamo_mpi.runtime.gateway.wire import packed_item
from alamo_mpi.runtime.pool import Pool
from alamo_mpi.runtime.queueclient import QueueClient
from alamo_mpi.runtime.waiting import wait_for

__all__ = ["ServedQueues"]

_Where = tuple[int, int, int, int]


class ServedQueues:
    """Serve one rank's queues to attached processes.

    Parameters
    ----------
    pool : Pool

    Attributes
    ----------
    operations : dict
        Operation -> what does it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._queues = Kept(lambda *where: pool.queue(QueueDescriptor(*where)))
        self.operations: dict[str, Callable[..., Any]] = {
            "queue_make": lambda maxsize, near: tuple(pool.make_queue(maxsize, near)),
            "queue_put": self._put,
            "queue_room": self._room,
            "queue_get": self._get,
            "queue_join": lambda where, limit_s: self._queues.get(where).join(limit_s),
            "queue_count": self._plain(QueueClient.count),
            "queue_closed": self._plain(QueueClient.closed),
            "queue_unfinished": self._plain(QueueClient.unfinished),
            "queue_finish": self._plain(QueueClient.finish),
            "queue_close": self._plain(QueueClient.close),
            "queue_destroy": self._destroy,
        }

    def _plain(self, method: Callable[[QueueClient], Any]) -> Callable[[_Where], Any]:
        return lambda where: method(self._queues.get(where))

    def _put(self, where: _Where, packed: list[Any]) -> int:
        """Put items until the queue is full; return how many."""
        client = self._queues.get(where)
        items = [Item(*each) for each in packed]
        done = 0
        try:
            while done < len(items):
                count = client.put_some(items, done)
                if not count:
                    break
                done += count
        except (QueueClosedError, QueueMemoryError):
            if not done:
                raise
            # The next request, with the rest, will meet it again.
        return done

    def _room(self, where: _Where, limit_s: float) -> bool:
        """Wait until a put has something to do: there is room, or the queue is closed."""
        client = self._queues.get(where)
        return wait_for(lambda: client.has_room() or client.closed(), self._pool.window, limit_s)

    def _get(self, where: _Where, limit: int, limit_s: float) -> list[Any]:
        try:
            items = self._queues.get(where).get_many(limit, limit_s)
        except queue.Empty:
            return []
        return [packed_item(item) for item in items]

    def _destroy(self, where: _Where) -> None:
        try:
            self._queues.get(where).destroy()
        finally:
            self._queues.forget(where)
