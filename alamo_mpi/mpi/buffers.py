"""Copies, and large private buffers that are used again when nothing refers to them any more.

Memory that is new to the process costs as much to fault in as the copy into it costs; a program
that reads one large array after another pays that once.

numpy is imported by the first large value, not before: programs that have none start without it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from alamo_mpi.core.window import Buffer

    _Array = npt.NDArray[np.uint8]

__all__ = ["Buffers", "copy"]

_LARGE: Final = 1 << 20
_KEPT_NBYTES: Final = 1 << 28
#: From here on numpy copies, and lets other threads run meanwhile.
_LARGE_COPY: Final = 1 << 16


def copy(target: memoryview, source: Buffer) -> None:
    """Copy bytes between buffers of equal length that do not overlap."""
    if len(target) < _LARGE_COPY:
        target[:] = source
        return
    import numpy as np

    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


class Buffers:
    """Hands out buffers, and keeps up to 256 MiB of those that came back."""

    def __init__(self) -> None:
        self._free: dict[int, list[_Array]] = {}
        self._kept_nbytes = 0

    def empty(self, nbytes: int) -> memoryview:
        """Return a writable buffer, content undefined, that is nobody else's."""
        if nbytes < _LARGE:
            return memoryview(bytearray(nbytes))
        memory = self._take(nbytes)
        # What is handed out is a view: when it and all that was made of it are gone, nothing can
        # reach the memory, and it is put back.
        view = memory[:]
        finalizer = weakref.finalize(view, self._give, memory)
        finalizer.atexit = False
        return memoryview(view)  # type: ignore[arg-type]

    def _take(self, nbytes: int) -> _Array:
        try:
            # One atomic step: a finalizer may run anywhere, in any thread.
            memory = self._free.get(nbytes, []).pop()
        except IndexError:
            import numpy as np

            return np.empty(nbytes, np.uint8)
        self._kept_nbytes -= nbytes
        return memory

    def _give(self, memory: _Array) -> None:
        if self._kept_nbytes + len(memory) > _KEPT_NBYTES:
            self._free.clear()
            self._kept_nbytes = 0
        if len(memory) <= _KEPT_NBYTES:
            self._kept_nbytes += len(memory)
            self._free.setdefault(len(memory), []).append(memory)
