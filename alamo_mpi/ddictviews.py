"""Views of a `DDict` that read each key and value once, instead of a key and then its value."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from alamo_mpi.ddict import DDict

__all__ = ["Items", "Values"]

K = TypeVar("K")
V = TypeVar("V")


class Items(ItemsView[K, V]):
    """What `DDict.items` returns."""

    _mapping: DDict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._iterate_items()


class Values(ValuesView[V]):
    """What `DDict.values` returns."""

    _mapping: DDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return self._mapping._iterate_values()
