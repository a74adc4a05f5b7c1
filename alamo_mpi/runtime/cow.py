"""Shared argument buffers on a worker: held once, and private to every task that gets them.

A task may change its arguments in place, as in a sequential program, and the next task must not
see it.  A large buffer is therefore held in an anonymous file and mapped copy-on-write for each
task (``MAP_PRIVATE``): no copy is made of what the task only reads.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any

__all__ = ["SharedBuffers"]

#: Below this a copy costs less than a mapping and its page faults.
_MAPPED_NBYTES = 1 << 20


class SharedBuffers:
    """The blobs of one worker by number; local."""

    def __init__(self) -> None:
        self._copied: dict[int, bytes] = {}
        #: number -> (file descriptor, nbytes).
        self._mapped: dict[int, tuple[int, int]] = {}

    def add(self, number: int, data: Any) -> None:
        """Take in a blob that has arrived."""
        view = memoryview(data).cast("B")
        if view.nbytes < _MAPPED_NBYTES:
            self._copied[number] = bytes(view)
            return
        fd = os.memfd_create(f"alamo_mpi blob {number}", os.MFD_CLOEXEC)
        rest = view
        while rest:
            rest = rest[os.write(fd, rest) :]
        self._mapped[number] = fd, view.nbytes

    def find(self, number: int) -> Any:
        """Return a buffer with the blob's content that the caller may change as it likes.

        Raises
        ------
        KeyError
            If there is no such blob.
        """
        copied = self._copied.get(number)
        if copied is not None:
            return bytearray(copied)
        fd, nbytes = self._mapped[number]
        # The mapping ends with the last array on it; the file with `forget`.
        return mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE)

    def file_of(self, number: int) -> tuple[int, int] | bytes:
        """Return the descriptor and size of a blob's file, or its content if it has none.

        Raises
        ------
        KeyError
            If there is no such blob.
        """
        copied = self._copied.get(number)
        return self._mapped[number] if copied is None else copied

    def forget(self, numbers: Iterable[int]) -> None:
        """Free blobs; unknown numbers are ignored."""
        for number in numbers:
            self._copied.pop(number, None)
            if number in self._mapped:
                os.close(self._mapped.pop(number)[0])

    def clear(self) -> None:
        """Free all blobs."""
        self.forget([*self._copied, *self._mapped])
