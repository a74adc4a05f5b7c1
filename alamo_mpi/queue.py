"""`Queue`: a queue that every process of the program can use, by one-sided MPI."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator
from queue import Empty, Full
from types import TracebackType
from typing import Any, Generic, TypeVar

from alamo_mpi import attachment
from alamo_mpi.core.access import CommunicationDomain, CommunicationObject
from alamo_mpi.core.fifo import QueueDescriptor
from alamo_mpi.errors import QueueClosedError, QueueDestroyedError
from alamo_mpi.runtime import home as homes
from alamo_mpi.runtime.home import Home
from alamo_mpi.runtime.values import dump_item, load_item

__all__ = ["Empty", "Full", "Queue"]

T = TypeVar("T")


class Queue(Generic[T]):
    """Make an empty queue; local, or one write to another rank's memory.

    Parameters
    ----------
    maxsize : int, default 0
        Items that it may hold; a put to a full queue waits.  0 or less: as many as the memory pool
        has room for.
    near : int, optional
        The rank in whose memory the queue's own words are; the caller's by default.  Items are in
        the memory of the rank that puts them.

    Raises
    ------
    QueueMemoryError
        The memory pool is full.

    Notes
    -----
    The interface is that of `multiprocessing.JoinableQueue`, with its exceptions ``queue.Empty``
    and ``queue.Full``.  Items are anything picklable, of any size; what is got is a copy.  There
    is one order of all items, whoever puts and gets them, and each is got once.

    What is different: an item is in the queue when `put` returns, no thread sends it later;
    `close` is about the queue and not about one process's end of it; there are `put_many`,
    `get_many`, iteration and `destroy`.

    All operations are local in MPI's sense: they need no matching call anywhere.  Between hosts
    without RDMA hardware they wait until the target rank makes MPI progress.  A waiting client
    uses no processor time to speak of.  Objects may be used by several threads at once.

    A pickled `Queue` is a reference: its copy is a client of the same queue.  The memory is freed
    by `destroy`, which ``with Queue() as q:`` calls at the end, and when the program ends; items
    that are in it then are lost, and a warning names it.

    An item belongs to whoever has taken it: a consumer that fails after that has lost it.

    Examples
    --------
    ::

        q = Queue()
        q.put("an item")
        q.get()
    """

    def __init__(self, maxsize: int = 0, *, near: int | None = None) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an int, not {maxsize!r}.")
        # On ranks >= 1 of a plain `mpiexec python app.py` this does not return.
        home = attachment.home_or_start()
        if near is None:
            near = home.rank
        elif not isinstance(near, int) or not 0 <= near < home.size:
            raise ValueError(f"near={near} is not a rank of this program of {home.size} ranks.")
        self._attach(home, home.make_queue(max(maxsize, 0), near))

    def _attach(self, home: Home, descriptor: QueueDescriptor) -> None:
        self._descriptor = descriptor
        self._home = home
        self._client = home.queue(descriptor)
        homes.follow(self)

    def _move(self, old: Home, new: Home) -> None:
        if self._home is old:
            self._home = new
            self._client = new.queue(self._descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        return _attached, (type(self), tuple(self._descriptor))

    # -- one item ----------------------------------------------------------

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end.

        Parameters
        ----------
        obj
            Is pickled before anything else, and may be changed afterwards.
        block : bool, default True
            Wait while the queue is full.
        timeout : float, optional
            Seconds to wait at most; None waits for ever.

        Raises
        ------
        queue.Full
            There was no room in time.
        QueueClosedError
            The queue is closed.
        QueueMemoryError
            The memory pool has no room for the item.
        SerializationError
            The item cannot be pickled.

        Notes
        -----
        Whatever is raised, the item is not in the queue, except after an exception from outside
        (`KeyboardInterrupt`), when it may be.
        """
        self._client.put(dump_item(obj), timeout if block else 0.0)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the item at the front.

        Parameters
        ----------
        block : bool, default True
            Wait while the queue is empty.
        timeout : float, optional
            Seconds to wait at most; None waits for ever.

        Raises
        ------
        queue.Empty
            There was none in time.
        QueueClosedError
            The queue is closed, and nothing is left in it.
        SerializationError
            The item cannot be rebuilt in this process; it has been taken.
        """
        return load_item(self._client.get(timeout if block else 0.0))  # type: ignore[no-any-return]

    def put_nowait(self, obj: T) -> None:
        """Put an item if there is room now, as ``put(obj, block=False)``."""
        self._client.put(dump_item(obj), 0.0)

    def get_nowait(self) -> T:
        """Take an item if there is one now, as ``get(block=False)``."""
        return load_item(self._client.get(0.0))  # type: ignore[no-any-return]

    # -- many items ----------------------------------------------------------

    def put_many(self, objs: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put several items in their order, many small ones at a time.

        Other producers' items may come between.  All are pickled first; if one cannot be, none is
        put.  Options as `put`; after an error the message says how many were put.
        """
        items = [dump_item(obj) for obj in objs]
        self._client.put_many(items, timeout if block else 0.0)

    def get_many(self, limit: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Wait for one item as `get`, then take what is there, at most `limit` items.

        An item that cannot be rebuilt raises as in `get`, and those taken with it are lost.
        """
        if limit < 1:
            raise ValueError(f"limit={limit}: at least one item must be asked for.")
        items = self._client.get_many(limit, timeout if block else 0.0)
        return [load_item(item) for item in items]

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is closed and empty; waits for each."""
        while True:
            try:
                item = self._client.get()
            except QueueDestroyedError:
                raise
            except QueueClosedError:
                return
            yield load_item(item)

    # -- how full it is ----------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """Items that the queue may hold, 0 for no bound."""
        return self._descriptor.maxsize

    def qsize(self) -> int:
        """Return the number of items; exact while nobody else takes any, else not too small."""
        return self._client.count()

    def empty(self) -> bool:
        """Tell whether there was no item at a moment within the call."""
        return self._client.count() == 0

    def full(self) -> bool:
        """Tell whether there is no room for another item, as far as `qsize` knows."""
        return 0 < self.maxsize <= self._client.count()

    # -- tasks done ----------------------------------------------------------

    def task_done(self) -> None:
        """Say that an item that was got is done with, for `join`.

        Raises
        ------
        ValueError
            Called more often than items were put.
        """
        if not self._client.finish():
            raise ValueError("task_done() called too many times")

    def join(self, timeout: float | None = None) -> None:
        """Wait until `task_done` was called for every item that was put.

        Raises
        ------
        TimeoutError
            It was not within `timeout` seconds.
        """
        if not self._client.join(timeout):
            raise TimeoutError(
                f"{self._client.unfinished()} items of {self!r} are not done after {timeout} s: "
                "each get() wants a task_done()."
            )

    # -- the end ----------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the queue was closed, here or by another client."""
        return self._client.closed()

    def close(self) -> None:
        """Let nothing be put any more, by any client; what is there can still be got.

        Afterwards `put` raises `QueueClosedError` everywhere, `get` does when the queue is empty,
        and iteration ends there.  So call it once, when all producers are done; a client that is
        done itself has nothing to do.  May be called again.
        """
        self._client.close()

    def join_thread(self) -> None:
        """Do nothing: an item is in the queue when `put` returns, no thread sends it later."""

    def cancel_join_thread(self) -> None:
        """Do nothing, as `join_thread`."""

    def destroy(self) -> None:
        """Free the memory; whatever any client does with the queue afterwards raises.

        Items that are still in it are lost.

        Raises
        ------
        QueueDestroyedError
            It has been destroyed before.
        """
        self._client.destroy()

    def stats(self) -> dict[str, Any]:
        """Return ``items``, ``unfinished``, ``maxsize``, ``closed``, ``rank`` and ``host``.

        Rank and host are those of the memory that the queue was made in.
        """
        near = self._descriptor.near
        return {
            "items": self._client.count(),
            "unfinished": self._client.unfinished(),
            "maxsize": self.maxsize,
            "closed": self._client.closed(),
            "rank": near,
            "host": self._home.hosts[near],
        }

    def __enter__(self) -> Queue[T]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(QueueDestroyedError):
            self.destroy()

    def __repr__(self) -> str:
        bound = f", at most {self.maxsize} items" if self.maxsize else ""
        return f"<Queue {self._descriptor.uid:x} on rank {self._descriptor.near}{bound}>"

    # -- as a communication object ----------------------------------------------------------

    def communication_object(self) -> CommunicationObject:
        """Return what stands for this queue in the accesses of tasks."""
        return CommunicationObject(CommunicationDomain(), ("Queue", self._descriptor.uid))

    def channel_key(self, channel: object) -> Hashable:
        """Refuse: a queue is one channel."""
        raise TypeError(
            f"A Queue has one channel, and {channel!r} cannot be another: write batch.read(queue) "
            "or batch.write(queue)."
        )


def _attached(cls: type[Queue[Any]], descriptor: tuple[int, int, int, int]) -> Queue[Any]:
    """Make a client of an existing queue: what a pickled `Queue` becomes."""
    client = cls.__new__(cls)
    client._attach(attachment.home(), QueueDescriptor(*descriptor))
    return client
