"""One process's use of one distributed dictionary, below its face as a mapping.

`alamo_mpi.ddict.DDict` is the face.  Here are the steps that its methods share: find, store, take,
exchange, wait; each takes the process's lock where it changes something.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from alamo_mpi.core.dictionary import Descriptor
from alamo_mpi.core.keyhash import Encoded
from alamo_mpi.core.many import Item
from alamo_mpi.core.records import Record
from alamo_mpi.core.table import Entry
from alamo_mpi.errors import DDictTimeoutError
from alamo_mpi.runtime.home import Home
from alamo_mpi.runtime.values import dump_value, encode

__all__ = ["DictClient", "Placement", "equal"]

_T = TypeVar("_T")
#: Items packed at a time.
_BATCH: Final = 256

#: A rank, or a function from key to rank; None: the rank that writes.
Placement = int | Callable[[Any], int] | None


class DictClient:
    """A client of one dictionary.

    Parameters
    ----------
    home : Home
    descriptor : Descriptor
    near : int, callable or None
        Where values are stored.
    """

    def __init__(self, home: Home, descriptor: Descriptor, near: Placement) -> None:
        self.home = home
        self.descriptor = descriptor
        self.near = near
        self.table = home.dictionary(descriptor)
        self._lock = home.lock

    def _place(self, key: Any) -> int | None:
        near = self.near
        return near(key) if callable(near) else near

    def store(self, key: Any, encoded: Encoded, value: Any) -> None:
        """Set a key's value."""
        data, key_hash = encoded
        body, frames = dump_value(value)
        with self._lock:
            self.table.put(key_hash, data, body, frames, on=self._place(key))

    def insert(self, key: Any, encoded: Encoded, value: Any) -> Record | None:
        """Set a key's value if it has none; return the one that it has."""
        data, key_hash = encoded
        body, frames = dump_value(value)
        with self._lock:
            return self.table.insert(key_hash, data, body, frames, on=self._place(key))

    def take(self, encoded: Encoded) -> Record | None:
        """Delete a key; return the value that it had."""
        data, key_hash = encoded
        with self._lock:
            while (entry := self.table.find(key_hash, data)) is not None:
                if self.table.remove(entry, key_hash):
                    return entry.record
        return None

    def store_many(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Set the values of many keys; each is packed before anything of its batch is changed."""
        for batch in _batches(items):
            packed = []
            for key, value in batch:
                data, key_hash = encode(key)
                packed.append(Item(key_hash, data, *dump_value(value), self._place(key)))
            with self._lock:
                self.table.put_many(packed)

    def get_many(self, encoded: Sequence[Encoded]) -> list[Record | None]:
        """Return the values of many keys."""
        return self.table.get_many([(key_hash, data) for data, key_hash in encoded])

    def find(self, encoded: Encoded) -> Entry | None:
        """Return a key's value and place."""
        data, key_hash = encoded
        return self.table.find(key_hash, data)

    def exchange(self, key: Any, encoded: Encoded, entry: Entry | None, value: Any) -> bool:
        """Set a key from what `entry` says it is (None: missing); False if it is not."""
        _, key_hash = encoded
        if entry is None:
            return self.insert(key, encoded, value) is None
        body, frames = dump_value(value)
        with self._lock:
            return self.table.replace(entry, key_hash, body, frames, on=self._place(key))

    def wait(
        self,
        key: Any,
        encoded: Encoded,
        timeout: float | None,
        accept: Callable[[Record], bool] = lambda record: True,
    ) -> Record:
        """Return the key's value when it is there and accepted.

        Raises
        ------
        DDictTimeoutError
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        refused = 0  # the pointer word of a value that was looked at
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            entry = self.home.wait_for_change(self.table, encoded, refused, left)
            if entry is None:
                state = "has another value" if refused else "is missing"
                raise DDictTimeoutError(
                    f"Key {key!r} {state} after {timeout} s.", rank=self.home.rank
                )
            if accept(entry.record):
                return entry.record
            refused = entry.pointer


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Cut into lists, so that not all of many values need be in memory twice."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch


def equal(one: Any, other: Any) -> bool:
    """Compare, arrays as wholes."""
    same = one == other
    if isinstance(same, bool):
        return same
    return bool(getattr(same, "all", lambda: same)())
