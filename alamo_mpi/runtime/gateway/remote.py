"""An attached process's half of the gateway: each method is one request to the rank.

The objects stand for the rank's pool and for its clients of dictionaries (`runtime.home`); what the
requests do is in `runtime.gateway.served`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from alamo_mpi.core.bucket import Bucket
from alamo_mpi.core.dictionary import Descriptor
from alamo_mpi.core.fifo import QueueDescriptor
from alamo_mpi.core.keyhash import Encoded
from alamo_mpi.core.many import Item
from alamo_mpi.core.records import Record
from alamo_mpi.core.table import Entry
from alamo_mpi.core.window import Buffer
from alamo_mpi.runtime import home, service, turn
from alamo_mpi.runtime.gateway.address import Address
from alamo_mpi.runtime.gateway.link import Link
from alamo_mpi.runtime.gateway.remote_queue import RemoteQueue, ask_until
from alamo_mpi.runtime.gateway.requests import Welcome
from alamo_mpi.runtime.gateway.wire import buffers, outside
from alamo_mpi.runtime.home import Home, Store

if TYPE_CHECKING:
    from alamo_mpi.runtime.gateway.remote_batches import AttachedService

__all__ = ["RemoteDictionary", "RemoteHome", "settle"]

#: Keys asked for in one request.
_BATCH: Final = 256


class RemoteHome:
    """The home of an attached process.

    Parameters
    ----------
    address : Address
    welcome : Welcome, optional
        If it is known already, as in a forked child; then the first request connects.

    Attributes
    ----------
    inherited : bool
        This process is attached by birth, and stays so.

    Raises
    ------
    GatewayError
    """

    def __init__(self, address: Address, welcome: Welcome | None = None) -> None:
        self.link = Link(address, welcome)
        self.rank, self.hosts = self.link.welcome
        self.size = len(self.hosts)
        self.lock = threading.RLock()
        self.inherited = welcome is not None
        self._service: AttachedService | None = None

    def service(self) -> AttachedService:
        """Return what this process's batches talk to; made at the first use."""
        with self.lock:
            if self._service is None:
                from alamo_mpi.runtime.gateway.remote_batches import AttachedService

                self._service = AttachedService(self.link)
            return self._service

    def close(self) -> None:
        """Give the attachment up: close what is open, end all connections."""
        if self._service is not None:
            self._service.retire()
        self.link.close()

    def make_dictionary(self, total_nbytes: int | None) -> Descriptor:
        """Make an empty dictionary; its root is in the rank's memory."""
        return Descriptor(*self.link.request("make", total_nbytes))

    def dictionary(self, descriptor: Descriptor) -> RemoteDictionary:
        """Make a client of a dictionary; sends nothing."""
        return RemoteDictionary(self.link, descriptor)

    def wait_for_change(
        self, store: Store, encoded: Encoded, known: int, limit_s: float | None
    ) -> Entry | None:
        """Wait until a key has a value that is not the known one; the rank looks."""
        assert isinstance(store, RemoteDictionary)
        return ask_until(lambda piece_s: store.wait(encoded, known, piece_s), limit_s)

    def make_queue(self, maxsize: int, near: int) -> QueueDescriptor:
        """Make an empty queue."""
        return QueueDescriptor(*self.link.request("queue_make", maxsize, near))

    def queue(self, descriptor: QueueDescriptor) -> RemoteQueue:
        """Make a client of a queue; sends nothing."""
        return RemoteQueue(self.link, descriptor)

    def publish(self) -> None:
        """Let the rank write its figures where every client can read them."""
        self.link.request("publish")


class RemoteDictionary:
    """A client of one dictionary, by requests; see `core.dictionary.Dictionary`."""

    def __init__(self, link: Link, descriptor: Descriptor) -> None:
        self._ask = link.request
        self._stream = link.stream
        self._where = tuple(descriptor)

    def get(self, key_hash: int, key: bytes) -> Record | None:
        """Return the value of a key, or None."""
        return _record(self._ask("get", self._where, key_hash, key))

    def find(self, key_hash: int, key: bytes) -> Entry | None:
        """Return a key's value and its place, or None."""
        return _entry(self._ask("find", self._where, key_hash, key))

    def wait(self, encoded: Encoded, known: int, limit_s: float) -> Entry | None:
        """Have the rank wait; see `RemoteHome.wait_for_change`."""
        key, key_hash = encoded
        return _entry(self._ask("wait", self._where, key_hash, key, known, limit_s))

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
        self._ask("put", self._where, key_hash, key, outside(body), buffers(frames), on)

    def put_many(self, items: Iterable[Item]) -> None:
        """Set the values of many keys, as many in one request as the caller hands over."""
        packed = [
            (item.key_hash, item.key, outside(item.body), buffers(item.frames), item.on)
            for item in items
        ]
        self._ask("put_many", self._where, packed)

    def get_many(self, keys: Sequence[tuple[int, bytes]]) -> list[Record | None]:
        """Return the values of many keys, given as (hash, key)."""
        found: list[Record | None] = []
        for start in range(0, len(keys), _BATCH):
            packed = self._ask("get_many", self._where, keys[start : start + _BATCH])
            found += [_record(each) for each in packed]
        return found

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
        asked = "insert", self._where, key_hash, key, outside(body), buffers(frames), on
        return _record(self._ask(*asked))

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
        asked = "replace", self._where, _found(entry), key_hash, outside(body), buffers(frames), on
        return bool(self._ask(*asked))

    def remove(self, entry: Entry, key_hash: int) -> bool:
        """Delete `entry`'s key if its value is still that one; tell whether it was."""
        return bool(self._ask("remove", self._where, _found(entry), key_hash))

    def records(self, *, on: int | None = None) -> Iterator[Record]:
        """Iterate over keys and values; they come in pages."""
        for packed in self._stream("records", self._where, on):
            record = _record(packed)
            assert record is not None
            yield record

    def count(self) -> int:
        """Return the number of keys."""
        return int(self._ask("count", self._where))

    def count_on(self, rank: int) -> int:
        """Return the number of values in one rank's memory."""
        return int(self._ask("count_on", self._where, rank))

    def figures(self) -> list[dict[str, int]]:
        """Return figures for each rank."""
        rows: list[dict[str, int]] = self._ask("figures", self._where)
        return rows

    def clear(self) -> None:
        """Delete the keys one by one."""
        self._ask("clear", self._where)

    def seal(self) -> None:
        """Refuse all writes until `unseal`."""
        self._ask("seal", self._where)

    def unseal(self) -> None:
        """Allow writes again."""
        self._ask("unseal", self._where)

    def destroy(self) -> None:
        """Delete everything."""
        self._ask("destroy", self._where)


def _record(packed: Any) -> Record | None:
    return None if packed is None else Record(*packed)


def _entry(packed: Any) -> Entry | None:
    if packed is None:
        return None
    bucket, slot, pointer, record = packed
    return Entry(Bucket(*bucket), slot, pointer, Record(*record))


def _found(entry: Entry) -> tuple[Any, int, int, bytes]:
    """Return what `replace` and `remove` need of an entry: not the value."""
    return tuple(entry.bucket), entry.slot, entry.pointer, entry.record.key


def settle(old: Home, new: RemoteHome) -> None:
    """Have a forked child go on at a home of its own; local, starts nothing."""
    turn.leave_seat()
    service.offer(new.service)
    home.move(old, new)


def _after_fork_in_child() -> None:
    """Connect the child of an attached process anew: locks and connections are its parent's."""
    if home.exists() and isinstance(old := home.current(), RemoteHome):
        old.link.abandon()
        settle(old, RemoteHome(old.link.address, old.link.welcome))


os.register_at_fork(after_in_child=_after_fork_in_child)
