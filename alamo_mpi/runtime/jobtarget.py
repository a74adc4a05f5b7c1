"""The callable of a job on its way to the ranks that call it.

One that goes by value costs more to pickle, and to unpickle, than all else of a short job on ranks.
So as with numbered functions of tasks (`runtime.functions`), one of which all that it refers to is
provably the same is pickled once, and each worker unpickles it once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from alamo_mpi.runtime.functions import FunctionTable
from alamo_mpi.runtime.packing import dumps, loads

__all__ = ["Travelling", "packed"]

_table = FunctionTable()


class Travelling(NamedTuple):
    """A callable, pickled."""

    pickled: bytes
    #: Whether whoever gets it twice may call the same object twice.
    lasting: bool

    def unpacked(self) -> Callable[..., Any]:
        """Return the callable; for one that lasts the same as last time."""
        function: Callable[..., Any] = (_kept if self.lasting else loads)(self.pickled)
        return function


def packed(function: Callable[..., Any]) -> Travelling:
    """Pickle a callable.

    Raises
    ------
    SerializationError
        If that cannot be done.
    """
    number = _table.number(function)
    if number:
        return Travelling(_table.definitions[number], lasting=True)
    return Travelling(dumps(function), lasting=False)


@functools.lru_cache(maxsize=16)
def _kept(pickled: bytes) -> Any:
    return loads(pickled)
