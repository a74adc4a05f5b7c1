"""Views of a `DDict` that read each value once, where the standard ones would look up every key."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, TypeVar

__all__ = ["DDictItems", "DDictValues"]

K = TypeVar("K")
V = TypeVar("V")


class DDictItems(ItemsView[K, V]):
    """The items of a dictionary."""

    _mapping: Any  # DDict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        yield from self._mapping.iterate_items()


class DDictValues(ValuesView[V]):
    """The values of a dictionary."""

    _mapping: Any  # DDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        yield from self._mapping.iterate_values()
