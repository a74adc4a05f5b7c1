"""`DDict`: a dictionary spread over the ranks by one-sided MPI."""

from __future__ import annotations

from collections.abc import (
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    ValuesView,
)
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from alamo_mpi import attachment
from alamo_mpi.core.access import CommunicationDomain, CommunicationObject
from alamo_mpi.core.dictionary import Descriptor
from alamo_mpi.core.layout import place
from alamo_mpi.core.records import Record
from alamo_mpi.dictviews import MISSING as _MISSING
from alamo_mpi.dictviews import DDictItems, DDictValues
from alamo_mpi.errors import DDictTimeoutError
from alamo_mpi.runtime import home as homes
from alamo_mpi.runtime.dictclient import DictClient, Placement, equal
from alamo_mpi.runtime.home import Home
from alamo_mpi.runtime.values import encode, load_key, load_value

__all__ = ["DDict", "Owner"]

K = TypeVar("K")
V = TypeVar("V")


class Owner(NamedTuple):
    """Where a value is."""

    rank: int
    host: str


class Options(NamedTuple):
    """How a client behaves; goes with it when it is pickled."""

    wait_for_keys: bool
    timeout: float | None
    near: Placement


class DDict(MutableMapping[K, V]):
    """Make an empty dictionary, or one with initial content; local.

    Parameters
    ----------
    data : mapping or iterable of pairs, optional
    wait_for_keys : bool, default False
        A reader of a missing key (``d[key]``, `get` without a default) waits until some client
        writes it, instead of raising `KeyError`.
    timeout : float, optional
        Seconds that such readers wait before they raise `DDictTimeoutError`; None waits for ever.
    near : int or callable, optional
        The rank, or a function from key to rank, whose memory new values are stored in as long as
        it has room.  By default the rank that writes a value keeps it.
    total_mem : int, optional
        Bytes that its values may take on all ranks together, keys and headers included; each takes
        a multiple of 64.  Without it, what the memory pool has.

    Notes
    -----
    Keys and values are anything picklable; keys must be hashable too.  Two keys are the same if
    their pickles are: unlike in a `dict`, ``1``, ``1.0`` and ``True`` are three keys.  Values are
    copies: changing an object that was stored or read changes nothing in the dictionary.

    Single operations on one key are linearizable.  Iteration is weakly consistent: a key that is
    there all the time comes once, one that comes or goes meanwhile may come or not, and nothing is
    raised when others write.  No order is kept.  The bulk operations (`update`, `clear`, `copy`,
    ``==``) are sequences of single ones.

    All operations are local: they need no matching call anywhere.  Between hosts without RDMA
    hardware they wait until the target rank makes MPI progress.
    A pickled `DDict` is a reference: its copy is a client of the same dictionary.  The memory is
    freed by `destroy`, which ``with DDict() as d:`` calls at the end, and when the program ends.

    Examples
    --------
    ::

        d = DDict()
        d["weights"] = np.zeros(1000)
        d.fetch_add("steps", 1)
    """

    def __init__(
        self,
        data: Mapping[K, V] | Iterable[tuple[K, V]] = (),
        /,
        *,
        wait_for_keys: bool = False,
        timeout: float | None = None,
        near: Placement = None,
        total_mem: int | None = None,
    ) -> None:
        if total_mem is not None and total_mem < 1:
            raise ValueError(f"total_mem={total_mem} is not a positive number of bytes.")
        # On ranks >= 1 of a plain `mpiexec python app.py` this does not return.
        home = attachment.home_or_start()
        if isinstance(near, int) and not 0 <= near < home.size:
            raise ValueError(f"near={near} is not a rank of this program of {home.size} ranks.")
        descriptor = home.make_dictionary(total_mem)
        self._attach(home, descriptor, Options(bool(wait_for_keys), timeout, near))
        self.update(data)

    def _attach(self, home: Home, descriptor: Descriptor, options: Options) -> None:
        self._descriptor = descriptor
        self._options = options
        self._wait, self._timeout, self._near = options
        self._settle(home)
        homes.follow(self)

    def _settle(self, home: Home) -> None:
        self._home = home
        self._lock = home.lock
        self._client = DictClient(home, self._descriptor, self._near)
        self._table = self._client.table
        self._cursor: Iterator[Record] | None = None  #: where `popitem` goes on

    def _move(self, old: Home, new: Home) -> None:
        if self._home is old:
            self._settle(new)

    def __reduce__(self) -> tuple[object, ...]:
        return _attached, (type(self), tuple(self._descriptor), tuple(self._options))

    # -- single keys ----------------------------------------------------------

    def __getitem__(self, key: K) -> V:
        """Return a copy of the value.

        Raises
        ------
        KeyError
            The key is missing.
        DDictTimeoutError
            It is missing, and did not come in the time of a dictionary that waits for keys.
        SerializationError
            The value cannot be rebuilt in this process.
        """
        data, key_hash = encode(key)
        record = self._table.get(key_hash, data)
        if record is None:
            if not self._wait:
                raise KeyError(key)
            record = self._client.wait(key, (data, key_hash), self._timeout)
        return load_value(record)  # type: ignore[no-any-return]

    def __setitem__(self, key: K, value: V) -> None:
        """Store a copy of the value.

        Raises
        ------
        DDictFullError
            There is no room; everything stored before is untouched.
        DDictFrozenError
            The dictionary is frozen.
        SerializationError
            Key or value cannot be pickled.
        """
        self._client.store(key, encode(key), value)

    def __delitem__(self, key: K) -> None:
        """Delete a key; `KeyError` if it is missing."""
        if self._client.take(encode(key)) is None:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether the key is there; never waits."""
        data, key_hash = encode(key)
        return self._table.get(key_hash, data) is not None

    def get(self, key: K, default: Any = _MISSING, *, timeout: Any = _MISSING) -> Any:
        """Return a key's value.

        Parameters
        ----------
        default : optional
            Returned when `key` is missing, after the wait if there is one.
        timeout : float or None, optional
            Seconds to wait for a missing key, None for ever; by default as ``wait_for_keys`` says.

        Raises
        ------
        DDictTimeoutError
            After a wait without a `default`.
        """
        encoded = data, key_hash = encode(key)
        record = self._table.get(key_hash, data)
        if record is None:
            waits = self._wait if timeout is _MISSING else timeout is None or timeout > 0
            limit = self._timeout if timeout is _MISSING else timeout
            if not waits or (default is not _MISSING and limit is None and timeout is _MISSING):
                return None if default is _MISSING else default
            try:
                record = self._client.wait(key, encoded, limit)
            except DDictTimeoutError:
                if default is _MISSING:
                    raise
                return default
        return load_value(record)

    def setdefault(self, key: K, default: Any = None) -> Any:
        """Return the key's value, after setting it to `default` if it was missing; atomic."""
        encoded = data, key_hash = encode(key)
        record = self._table.get(key_hash, data)
        if record is None:
            record = self._client.insert(key, encoded, default)
        return default if record is None else load_value(record)

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Delete a key and return its value: of several clients, one gets it."""
        record = self._client.take(encode(key))
        if record is not None:
            return load_value(record)
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Delete some key and return it with its value; `KeyError` if there is none."""
        resumed = self._cursor is not None
        while True:
            # Where the last call has stopped: what lies before has been emptied.
            if self._cursor is None:
                self._cursor = self._table.records()
            for record in self._cursor:
                key = load_key(record.key)
                taken = self._client.take(encode(key))
                if taken is not None:
                    return key, load_value(taken)
            self._cursor = None
            if not resumed:
                break
            resumed = False
        raise KeyError("popitem(): dictionary is empty")

    # -- synchronisation ----------------------------------------------------------

    def fetch_add(self, key: K, delta: Any = 1, default: Any = 0) -> Any:
        """Add `delta` to a value with ``+`` and return what it was, atomically.

        A missing key counts as `default`.
        """
        encoded = encode(key)
        # One thread of this process at a time: others would only make each other start again.
        with self._lock:
            while True:
                entry = self._client.find(encoded)
                old = default if entry is None else load_value(entry.record)
                if self._client.exchange(key, encoded, entry, old + delta):
                    return old

    def compare_and_set(self, key: K, expected: Any, value: V) -> bool:
        """Set a value if it equals `expected`, atomically; tell whether it was set.

        A missing key equals nothing.
        """
        encoded = encode(key)
        while True:
            entry = self._client.find(encoded)
            if entry is None or not equal(load_value(entry.record), expected):
                return False
            if self._client.exchange(key, encoded, entry, value):
                return True

    def wait_for(self, key: K, *, value: Any = _MISSING, timeout: float | None = None) -> Any:
        """Wait until a key is there, or has a given value; return its value.

        Parameters
        ----------
        key
        value : optional
            Compared by ``==``.
        timeout : float, optional
            Seconds; None waits for ever.

        Raises
        ------
        DDictTimeoutError
            The message names the key.
        """
        if value is _MISSING:
            return load_value(self._client.wait(key, encode(key), timeout))
        seen: list[Any] = []

        def accept(record: Record) -> bool:
            seen[:] = [load_value(record)]
            return equal(seen[0], value)

        self._client.wait(key, encode(key), timeout, accept)
        return seen[0]

    # -- many keys ----------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of keys; reads one word of each rank."""
        return self._table.count()

    def __iter__(self) -> Iterator[K]:
        return (load_key(record.key) for record in self._table.records())

    def iterate_items(self, on: int | None = None) -> Iterator[tuple[K, V]]:
        """Iterate over the items, those in the memory of rank `on` only if given."""
        for record in self._table.records(on=on):
            yield load_key(record.key), load_value(record)

    def iterate_values(self, on: int | None = None) -> Iterator[V]:
        """Iterate over the values, likewise."""
        return (load_value(record) for record in self._table.records(on=on))

    def items(self) -> ItemsView[K, V]:
        """Return a view of the items; iterating reads each key and value once."""
        return DDictItems(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values."""
        return DDictValues(self)

    def clear(self) -> None:
        """Delete all keys, one by one."""
        with self._lock:
            self._table.clear()

    def copy(self) -> DDict[K, V]:
        """Return a new dictionary with the same content and options."""
        return type(self)(
            self.items(), wait_for_keys=self._wait, timeout=self._timeout, near=self._near
        )

    __copy__ = copy

    @classmethod
    def fromkeys(cls, keys: Iterable[K], value: Any = None) -> DDict[K, Any]:
        """Make a dictionary in which every key has the same value."""
        made = cls()
        for key in keys:
            made[key] = value
        return made

    def __or__(self, other: object) -> DDict[K, V]:
        if not isinstance(other, Mapping):
            return NotImplemented
        union = self.copy()
        union.update(other)
        return union

    def __ior__(self, other: Any) -> DDict[K, V]:  # type: ignore[misc]
        self.update(other)
        return self

    def put_many(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """Store several values; each by itself is atomic, all together are not.

        Of equal keys the last one wins.  Errors as ``d[key] = value``, which may leave some of
        the items stored.  Between hosts the steps of different keys overlap: hundreds of small
        values take a few round trips together.
        """
        self._client.store_many(items.items() if isinstance(items, Mapping) else items)

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Store items of a mapping or of an iterable of pairs, and keywords, by `put_many`."""
        if hasattr(other, "keys") and not isinstance(other, Mapping):
            other = {key: other[key] for key in other.keys()}  # noqa: SIM118
        self.put_many(other)
        if kwargs:
            self.put_many(kwargs)  # type: ignore[arg-type]

    def get_many(self, keys: Iterable[K]) -> list[V]:
        """Return the values of several keys in their order; errors and waits as ``d[key]``.

        Between hosts the reads of different keys overlap.
        """
        wanted = list(keys)
        records = self._client.get_many([encode(key) for key in wanted])
        return [
            self[key] if record is None else load_value(record)
            for key, record in zip(wanted, records, strict=True)
        ]

    # -- placement ----------------------------------------------------------

    def owner(self, key: K) -> Owner:
        """Tell which rank's memory holds the value now; `KeyError` if the key is missing."""
        entry = self._client.find(encode(key))
        if entry is None:
            raise KeyError(key)
        rank, _ = place(entry.pointer)
        return Owner(rank, self._home.hosts[rank])

    def local_keys(self) -> Iterator[K]:
        """Iterate over the keys whose values are in this rank's memory."""
        return (load_key(record.key) for record in self._table.records(on=self._home.rank))

    def local_values(self) -> Iterator[V]:
        """Iterate over the values in this rank's memory."""
        return self.iterate_values(self._home.rank)

    def local_items(self) -> Iterator[tuple[K, V]]:
        """Iterate over the items whose values are in this rank's memory."""
        return self.iterate_items(self._home.rank)

    def local_len(self) -> int:
        """Return the number of values in this rank's memory; reads the whole index."""
        return self._table.count_on(self._home.rank)

    # -- the dictionary as a whole ----------------------------------------------------------

    def freeze(self) -> None:
        """Refuse all writes, by every client, until `unfreeze`; takes time for each key.

        Meanwhile reads skip validation: between hosts one round trip of three.  Unfreeze when no
        read is under way any more, such as after the tasks that read have ended.
        """
        with self._lock:
            self._table.seal()

    def unfreeze(self) -> None:
        """Allow writes again."""
        with self._lock:
            self._table.unseal()

    def destroy(self) -> None:
        """Free the memory; whatever any client does with the dictionary afterwards raises.

        Raises
        ------
        DDictDestroyedError
            It has been destroyed before.
        """
        with self._lock:
            self._table.destroy()

    def stats(self) -> list[dict[str, int]]:
        """Return figures for each rank: of this dictionary, and of the memory pool.

        Returns
        -------
        list of dict
            By rank: ``keys`` and ``nbytes`` (values of this dictionary in its memory, with their
            headers), ``pool_nbytes`` (the rank's part of the pool), ``leased_nbytes`` (of that,
            ever used, for values or index), and of the rank as a manager: ``managed_nbytes``,
            ``free_nbytes``, ``largest_nbytes`` (the largest contiguous free piece, parked
            ones aside), as of its latest bookkeeping.

        Notes
        -----
        Reads the whole index.
        """
        self._home.publish()
        return self._table.figures()

    def __enter__(self) -> DDict[K, V]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<DDict {self._descriptor.uid:x} on {self._home.size} ranks>"

    # -- as a communication object ----------------------------------------------------------

    def communication_object(self) -> CommunicationObject:
        """Return what stands for this dictionary in the accesses of tasks."""
        return CommunicationObject(CommunicationDomain(), ("DDict", self._descriptor.uid))

    def channel_key(self, channel: object) -> Hashable:
        """Return what stands for a key in the accesses of tasks: keys equal here, equal there."""
        return encode(channel)[0]


def _attached(
    cls: type[DDict[Any, Any]],
    descriptor: tuple[int, int, int, int],
    options: tuple[bool, float | None, Placement],
) -> DDict[Any, Any]:
    """Make a client of an existing dictionary: what a pickled `DDict` becomes."""
    client = cls.__new__(cls)
    client._attach(attachment.home(), Descriptor(*descriptor), Options(*options))
    return client
