"""The rank's half of the gateway: does to the rank's dictionaries what attached processes ask.

Each method is one operation of `runtime.gateway.remote`.  It runs on a connection's thread, under
the pool's lock where it changes something.  Keys and values stay pickled: nothing of the user's is
imported or run here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from alamo_mpi.core.bucket import Bucket
from alamo_mpi.core.dictionary import Descriptor, Dictionary
from alamo_mpi.core.many import Item
from alamo_mpi.core.records import Record
from alamo_mpi.core.table import Entry
from alamo_mpi.runtime.gateway.kept import Kept
from alamo_mpi.runtime.gateway.wire import buffers, outside
from alamo_mpi.runtime.pool import Pool

__all__ = ["ServedDictionaries"]

#: Records that travel together: so many, and not much more than so many bytes.
_PAGE_RECORDS: Final = 200
_PAGE_NBYTES: Final = 1 << 20

_Where = tuple[int, int, int, int]


class ServedDictionaries:
    """Serve one rank's pool to attached processes.

    Parameters
    ----------
    pool : Pool

    Attributes
    ----------
    operations : dict
        Operation -> what does it; a result that is an iterator is sent page by page.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._stores = Kept(lambda *where: pool.dictionary(Descriptor(*where)))
        self._store = self._stores.get
        self.operations: dict[str, Callable[..., Any]] = {
            "make": self._make,
            "publish": pool.publish,
            "get": self._get,
            "find": self._find,
            "wait": self._wait,
            "put": self._put,
            "get_many": self._get_many,
            "put_many": self._put_many,
            "insert": self._insert,
            "replace": self._replace,
            "remove": self._remove,
            "records": self._records,
            "count": lambda where: self._store(where).count(),
            "count_on": lambda where, rank: self._store(where).count_on(rank),
            "figures": lambda where: self._store(where).figures(),
            "clear": lambda where: self._whole(Dictionary.clear, where),
            "seal": lambda where: self._whole(Dictionary.seal, where),
            "unseal": lambda where: self._whole(Dictionary.unseal, where),
            "destroy": self._destroy,
        }

    def _make(self, total_nbytes: int | None) -> _Where:
        uid, root, nshards, quota = self._pool.make_dictionary(total_nbytes)
        return uid, root, nshards, quota

    def _get(self, where: _Where, key_hash: int, key: bytes) -> Any:
        record = self._store(where).get(key_hash, key)
        return None if record is None else _packed(record)

    def _find(self, where: _Where, key_hash: int, key: bytes) -> Any:
        return _packed_entry(self._store(where).find(key_hash, key))

    def _wait(self, where: _Where, key_hash: int, key: bytes, known: int, limit_s: float) -> Any:
        store = self._store(where)
        return _packed_entry(self._pool.wait_for_change(store, (key, key_hash), known, limit_s))

    def _put(
        self, where: _Where, key_hash: int, key: bytes, body: Any, frames: Any, on: int | None
    ) -> None:
        with self._pool.lock:
            self._store(where).put(key_hash, key, body, frames, on=on)

    def _get_many(self, where: _Where, keys: list[tuple[int, bytes]]) -> list[Any]:
        return [record and _packed(record) for record in self._store(where).get_many(keys)]

    def _put_many(self, where: _Where, items: list[Any]) -> None:
        with self._pool.lock:
            self._store(where).put_many([Item(*each) for each in items])

    def _insert(
        self, where: _Where, key_hash: int, key: bytes, body: Any, frames: Any, on: int | None
    ) -> Any:
        with self._pool.lock:
            record = self._store(where).insert(key_hash, key, body, frames, on=on)
        return None if record is None else _packed(record)

    def _replace(
        self, where: _Where, found: Any, key_hash: int, body: Any, frames: Any, on: int | None
    ) -> bool:
        with self._pool.lock:
            return self._store(where).replace(_entry(found), key_hash, body, frames, on=on)

    def _remove(self, where: _Where, found: Any, key_hash: int) -> bool:
        with self._pool.lock:
            store = self._store(where)
            # What an earlier operation of this client would have learned: where the count is.
            store.shard_root(key_hash % store.nshards, make=False)
            return store.remove(_entry(found), key_hash)

    def _records(self, where: _Where, on: int | None) -> Iterator[list[Any]]:
        records = self._store(where).records(on=on)
        while True:
            page: list[Any] = []
            nbytes = 0
            for record in itertools.islice(records, _PAGE_RECORDS):
                page.append(_packed(record))
                nbytes += len(record.body) + sum(len(frame) for frame in record.frames)
                if nbytes >= _PAGE_NBYTES:
                    break
            if not page:
                return
            yield page

    def _whole(self, change: Callable[[Dictionary], None], where: _Where) -> None:
        with self._pool.lock:
            change(self._store(where))

    def _destroy(self, where: _Where) -> None:
        try:
            self._whole(Dictionary.destroy, where)
        finally:
            self._stores.forget(where)


def _packed(record: Record) -> tuple[Any, Any, list[Any]]:
    key, body, frames = record
    return bytes(key), outside(body), buffers(frames)


def _packed_entry(entry: Entry | None) -> Any:
    if entry is None:
        return None
    return tuple(entry.bucket), entry.slot, entry.pointer, _packed(entry.record)


def _entry(found: tuple[Any, int, int, bytes]) -> Entry:
    """Make an entry of what a client got from `find`, its value aside."""
    bucket, slot, pointer, key = found
    return Entry(Bucket(*bucket), slot, pointer, Record(key, b"", ()))
