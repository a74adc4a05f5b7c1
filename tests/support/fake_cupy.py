"""As much of cupy as moving arrays needs, on numpy: the "device" is a private copy."""

from __future__ import annotations

import types
from typing import Any

import numpy as np


class ndarray:  # noqa: N801 - the name is what is looked at
    """An array that only `get` and `set` let out and in."""

    __module__ = "cupy"

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self._data = data

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    flags = property(lambda self: self._data.flags)
    T = property(lambda self: ndarray(self._data.T))

    def get(self, out: np.ndarray[Any, Any]) -> None:
        assert out.flags.c_contiguous == self.flags.c_contiguous
        out[...] = self._data

    def set(self, host: np.ndarray[Any, Any]) -> None:
        self._data[...] = host

    def __reduce__(self) -> Any:
        raise AssertionError("pickled by itself, not by the package")


class _Stream:
    def synchronize(self) -> None: ...


def module() -> types.ModuleType:
    """Return a module to stand in ``sys.modules``; it counts what was allocated pinned."""
    made: Any = types.ModuleType("cupy")
    made.ndarray = ndarray
    made.pinned_nbytes = 0

    def alloc_pinned_memory(nbytes: int) -> bytearray:
        made.pinned_nbytes += nbytes
        return bytearray(nbytes)

    made.cuda = types.SimpleNamespace(
        alloc_pinned_memory=alloc_pinned_memory, get_current_stream=_Stream
    )
    made.empty = lambda shape, dtype: ndarray(np.empty(shape, dtype))
    made.asarray = lambda data: ndarray(np.array(data))
    made.ascontiguousarray = lambda array: ndarray(np.ascontiguousarray(array._data))
    return made
