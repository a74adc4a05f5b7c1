"""Where this process's dictionaries and queues are at home: the seam between them and the pool.

`DDict` and `Queue` ask for two things, a `Home` and from it a `Store` or `QueueStore` each.  On a
rank these are the memory pool (`runtime.pool.Pool`), `core.dictionary.Dictionary` and
`runtime.queueclient.QueueClient`, which reach into the memory of all ranks themselves.  In a
process attached to a rank (`runtime.gateway`) each method is one request to it.

A process has one home at a time.  When a rank forks, the child is no rank and gets another home;
the objects that were at home at the rank's are moved there.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from alamo_mpi.errors import DDictError

if TYPE_CHECKING:  # every rank imports this at its start
    import threading

    from alamo_mpi.core.dictionary import Descriptor
    from alamo_mpi.core.fifo import QueueDescriptor
    from alamo_mpi.core.items import Item
    from alamo_mpi.core.keyhash import Encoded
    from alamo_mpi.core.many import Item as DictItem
    from alamo_mpi.core.records import Record
    from alamo_mpi.core.table import Entry
    from alamo_mpi.core.window import Buffer

__all__ = [
    "SETTING",
    "Follower",
    "Home",
    "QueueStore",
    "Store",
    "current",
    "enter",
    "exists",
    "follow",
    "leave",
    "move",
]

#: How many bytes of memory each rank brings.
SETTING = "ALAMO_POOL_BYTES"


class Store(Protocol):
    """One dictionary, as `DDict` uses it; the methods are those of `core.dictionary.Dictionary`."""

    def get(self, key_hash: int, key: bytes) -> Record | None:
        """Return the value of a key, or None."""

    def find(self, key_hash: int, key: bytes) -> Entry | None:
        """Return a key's value and its place, or None."""

    def put(
        self,
        key_hash: int,
        key: bytes,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> None:
        """Set a key's value."""

    def insert(
        self,
        key_hash: int,
        key: bytes,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> Record | None:
        """Set a key's value if it has none; return the one that it has."""

    def put_many(self, items: Iterable[DictItem]) -> None:
        """Set the values of many keys."""

    def get_many(self, keys: Sequence[tuple[int, bytes]]) -> list[Record | None]:
        """Return the values of many keys, given as (hash, key)."""

    def replace(
        self,
        entry: Entry,
        key_hash: int,
        body: Buffer,
        frames: Sequence[memoryview] = (),
        *,
        on: int | None = None,
    ) -> bool:
        """Set the value of `entry`'s key if it is still that one; tell whether it was."""

    def remove(self, entry: Entry, key_hash: int) -> bool:
        """Delete `entry`'s key if its value is still that one; tell whether it was."""

    def records(self, *, on: int | None = None) -> Iterator[Record]:
        """Iterate over keys and values, those in one rank's memory only if given."""

    def count(self) -> int:
        """Return the number of keys."""

    def count_on(self, rank: int) -> int:
        """Return the number of values in one rank's memory."""

    def figures(self) -> list[dict[str, int]]:
        """Return figures for each rank."""

    def clear(self) -> None:
        """Delete the keys one by one."""

    def seal(self) -> None:
        """Refuse all writes until `unseal`."""

    def unseal(self) -> None:
        """Allow writes again."""

    def destroy(self) -> None:
        """Delete everything."""


class QueueStore(Protocol):
    """One queue, as `Queue` uses it; the methods are those of `runtime.queueclient.QueueClient`."""

    def put(self, item: Item, timeout_s: float | None = None) -> None:
        """Put one item."""

    def put_many(self, items: Sequence[Item], timeout_s: float | None = None) -> None:
        """Put several items."""

    def get(self, timeout_s: float | None = None) -> Item:
        """Take one item."""

    def get_many(self, limit: int, timeout_s: float | None = None) -> list[Item]:
        """Wait for one item, and take what is there, up to `limit`."""

    def count(self) -> int:
        """Return the number of items."""

    def closed(self) -> bool:
        """Tell whether the queue was closed."""

    def unfinished(self) -> int:
        """Return for how many items `finish` is still to be called."""

    def finish(self) -> bool:
        """Say that one more item is done with; False if all were."""

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all items are done with; False if they are not in time."""

    def close(self) -> None:
        """Let nothing be put any more."""

    def destroy(self) -> None:
        """Close the queue, drop what is in it, free its memory."""


class Home(Protocol):
    """The memory of a program's ranks, as one process reaches it.

    Attributes
    ----------
    rank : int
        The rank of this process, or the one that it is attached to.
    size : int
        Number of ranks.
    hosts : tuple of str
        Host name by rank.
    lock : threading.RLock
        Held by whoever in this process changes anything.
    """

    rank: int
    size: int
    hosts: tuple[str, ...]
    lock: threading.RLock

    def make_dictionary(self, total_nbytes: int | None) -> Descriptor:
        """Make an empty dictionary."""

    def dictionary(self, descriptor: Descriptor) -> Store:
        """Make a client of a dictionary."""

    def wait_for_change(
        self, store: Store, encoded: Encoded, known: int, limit_s: float | None
    ) -> Entry | None:
        """Wait until a key has a value whose pointer word is not `known`; None: not in time."""

    def make_queue(self, maxsize: int, near: int) -> QueueDescriptor:
        """Make an empty queue."""

    def queue(self, descriptor: QueueDescriptor) -> QueueStore:
        """Make a client of a queue."""

    def publish(self) -> None:
        """Let the figures of the pool be as new as can be."""


class Follower(Protocol):
    """What is of use at a home alone, and moves when the process gets another."""

    def _move(self, old: Home, new: Home) -> None:
        """Go on at `new` if at home at `old`; local, starts nothing."""


_current: Home | None = None
#: By number and not in a set: a mapping cannot be hashed.
_followers: weakref.WeakValueDictionary[int, Follower] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def exists() -> bool:
    """Tell whether this process has a home; local."""
    return _current is not None


def current() -> Home:
    """Return the home of this process; local.

    Raises
    ------
    DDictError
        There is none: this process is neither a rank nor attached to one.
    """
    if _current is None:
        raise DDictError(
            "There is no memory pool in this process: start the runtime first, for example by "
            "alamo_mpi.init(); a process that a task has started calls alamo_mpi.attach()."
        )
    return _current


def enter(home: Home) -> None:
    """Make it the home of this process."""
    global _current
    _current = home


def leave(home: Home) -> None:
    """Have no home any more, if it is this one; what was at home there stays."""
    global _current
    if _current is home:
        _current = None


def move(old: Home, new: Home) -> None:
    """Make `new` the home of this process, and of all that was at home at `old`."""
    enter(new)
    for follower in list(_followers.values()):
        follower._move(old, new)


def follow(follower: Follower) -> None:
    """Have a follower moved along, as long as somebody else holds it."""
    _followers[next(_numbers)] = follower
