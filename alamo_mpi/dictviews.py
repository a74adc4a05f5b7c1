"""What a `DDict` shows of itself: views that read each value once, and how "not given" looks."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, Final, TypeVar

__all__ = ["MISSING", "DDictItems", "DDictValues"]

K = TypeVar("K")
V = TypeVar("V")


class _Missing:
    """Stands for "not given"."""

    def __repr__(self) -> str:
        return "<not given>"


MISSING: Final[Any] = _Missing()


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
