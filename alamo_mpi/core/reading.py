"""Reading many blocks at once, by the rule of the read (`core.records`).

Each block is read in the same steps as a single one; a step of all blocks is one batch of reads
that overlap.  The sequences come last, when everything else is here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from . import layout as at
from .records import FIRST_READ, Record
from .window import Window

__all__ = ["have_keys", "load_many"]

_HEADER: Final = struct.Struct("@8Q")
_Reads = list[tuple[int, int, memoryview]]


class _Reading:
    """One block on its way; each step looks at what the last one brought, and asks for more.

    Attributes
    ----------
    outcome : bool or None
        As `Records.load` says it where it is no record: False, another key; True, look again.
    """

    __slots__ = (
        "_body_nbytes",
        "_content",
        "_frames",
        "_head",
        "_key",
        "_nframes",
        "_offset",
        "_pointer",
        "_rank",
        "_sealed",
        "_sequence",
        "_uid",
        "_window",
        "outcome",
    )

    def __init__(self, window: Window, uid: int, pointer: int, key: bytes, sealed: bool) -> None:
        self._window = window
        self._uid = uid
        self._pointer = pointer
        self._key = key
        self._rank, self._offset = at.place(pointer)
        room = window.nbytes - self._offset
        self._head = memoryview(bytearray(min(FIRST_READ, room)))
        self._content = self._head[at.CONTENT :]
        self._body_nbytes = self._nframes = 0
        self._frames: list[memoryview] = []
        self._sealed = sealed
        self._sequence = memoryview(bytearray(8))
        self.outcome: bool | None = None

    def read_head(self) -> _Reads:
        """Ask for the header, and as much of the content as one read may bring."""
        return [(self._rank, self._offset, self._head)]

    def read_content(self) -> _Reads:
        """Ask for the rest of the content."""
        sequence, _, uid, _, _, shape, nbytes, self._body_nbytes = _HEADER.unpack_from(self._head)
        start = self._offset + at.CONTENT
        if not _means(self._pointer, sequence) or nbytes > self._window.nbytes - start:
            self.outcome = True
            return []
        here = self._head[at.CONTENT : at.CONTENT + nbytes]
        key_nbytes, self._nframes = shape & 0xFFFFFFFF, shape >> 32
        if key_nbytes != len(self._key) or here[:key_nbytes] != self._key or uid != self._uid:
            self.outcome = False
            return []
        self._content = here
        if len(here) == nbytes:
            return []
        self._content = memoryview(bytearray(nbytes))
        self._content[: len(here)] = here
        return [(self._rank, start + len(here), self._content[len(here) :])]

    def read_frames(self) -> _Reads:
        """Ask for the large buffers."""
        reads: _Reads = []
        first = len(self._key)
        lengths = self._content[first : first + 8 * self._nframes].cast("B")
        end = at.CONTENT + len(self._content)
        for (nbytes,) in struct.iter_unpack("@Q", lengths):
            end = at.align(end)
            if nbytes > self._window.nbytes - self._offset - end:
                self.outcome = True  # lengths of another life
                return []
            self._frames.append(self._window.empty(nbytes))
            reads.append((self._rank, self._offset + end, self._frames[-1]))
            end += nbytes
        return reads

    def read_sequence(self) -> _Reads:
        """Ask for the sequence again, unless nobody can retire the block."""
        return [] if self._sealed else [(self._rank, self._offset, self._sequence)]

    def result(self) -> Record | bool:
        """Return what `Records.load` would."""
        if self.outcome is not None:
            return self.outcome
        if not self._sealed and self._sequence != self._head[:8]:
            return True
        body = bytes(self._content[len(self._content) - self._body_nbytes :])
        return Record(self._key, body, self._frames)


_STEPS: Final[tuple[Callable[[_Reading], _Reads], ...]] = (
    _Reading.read_head,
    _Reading.read_content,
    _Reading.read_frames,
    _Reading.read_sequence,
)


def load_many(
    window: Window, uid: int, wanted: Sequence[tuple[int, bytes, bool]]
) -> list[Record | bool]:
    """Return what `Records.load` would for each (pointer, key, sealed)."""
    readings = [_Reading(window, uid, *each) for each in wanted]
    for step in _STEPS:
        reads: _Reads = []
        for reading in readings:
            if reading.outcome is None:
                reads += step(reading)
        window.fill_many(reads)
    return [reading.result() for reading in readings]


def have_keys(window: Window, uid: int, wanted: Sequence[tuple[int, bytes]]) -> list[bool]:
    """Tell for each (pointer, key) whether the block is of this key; as good as `has_key`'s yes."""
    reads: _Reads = []
    for pointer, key in wanted:
        rank, offset = at.place(pointer)
        nbytes = min(at.HEADER_BYTES + len(key), window.nbytes - offset)
        reads.append((rank, offset, memoryview(bytearray(nbytes))))
    window.fill_many(reads)
    found = []
    for (pointer, key), (_, _, data) in zip(wanted, reads, strict=True):
        sequence, _, other, _, _, shape, _, _ = _HEADER.unpack_from(data)
        found.append(
            _means(pointer, sequence)
            and other == uid
            and shape & 0xFFFFFFFF == len(key)
            and data[at.HEADER_BYTES :] == key
        )
    return found


def _means(pointer: int, sequence: int) -> bool:
    return sequence & at.GENERATION_MASK == pointer >> at.GENERATION_SHIFT & at.GENERATION_MASK
