"""Reading a block through its pointer word: the rule of the read.

A reader has a pointer word from a slot.  It reads the block in any order and the sequence last:
if the low bits of the sequence are the pointer's generation, all that was read belongs to the life
of the block that the pointer meant (``ARCHITECTURE.md``, the memory pool, the rule of the read).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from . import layout as at
from .window import Window

__all__ = ["FIRST_READ", "Record", "Records", "read_content", "read_frames"]

# One read of this length costs no more than one of 64 bytes between hosts, and holds most values.
FIRST_READ: Final = 2048
#: From here on a view of the body is cheaper than a copy.
_LARGE_BODY: Final = 4096
_HEADER: Final = struct.Struct("@8Q")


class Record(NamedTuple):
    """The content of a block, copied: nothing of it changes any more."""

    key: bytes
    body: bytes | memoryview
    frames: Sequence[memoryview]


#: A third of the time of calling the class, on the path of every read.
_record: Final = functools.partial(tuple.__new__, Record)


class Records:
    """Reads the blocks of one dictionary."""

    def __init__(self, window: Window, uid: int) -> None:
        self._window = window
        self._uid = uid
        self._nbytes = window.nbytes
        self._direct = window.direct

    def load(
        self, pointer: int, key: bytes | None = None, *, sealed: bool = False
    ) -> Record | bool:
        """Read a block.

        Parameters
        ----------
        pointer : int
            As found in a slot; the frozen bit is ignored.
        key : bytes, optional
            Read no more than needed if the block is of another key.
        sealed : bool
            The pointer was read frozen in a sealed bucket: nobody can retire the block, and the
            last look at the sequence is spared.

        Returns
        -------
        Record
            What the pointer meant.
        False
            The block is of another key.
        True
            The block is not what the pointer meant any more: look at the slot again.
        """
        rank = (pointer & at.ADDRESS_MASK) >> at.UNIT_BITS
        offset = (pointer & at.UNIT_MASK) << 6
        window = self._window
        if self._direct[rank]:
            header = window.words(rank, offset, at.HEADER_WORDS)
            data = None
        else:
            data = window.read(rank, offset, min(FIRST_READ, self._nbytes - offset))
            header = _HEADER.unpack_from(data)
        sequence, _, uid, _, _, shape, content_nbytes, body_nbytes = header
        if sequence & at.GENERATION_MASK != pointer >> at.GENERATION_SHIFT & at.GENERATION_MASK:
            return True
        # Lengths may be of another life, which the last look at the sequence will tell; until
        # then they must only not lead out of the arena.
        start = offset + at.CONTENT
        if content_nbytes > self._nbytes - start:
            return True
        if data is None:
            data = window.read(rank, start, content_nbytes)
        else:
            data = _rest(window, data, rank, offset, at.CONTENT + content_nbytes)
        if not sealed and window.word(rank, offset) != sequence:
            return True
        key_nbytes = shape & 0xFFFFFFFF
        nframes = shape >> 32
        if key is None:
            key = data[:key_nbytes]
        elif key_nbytes != len(key) or not data.startswith(key) or uid != self._uid:
            return False
        if not nframes:
            body: bytes | memoryview = data if body_nbytes < _LARGE_BODY else memoryview(data)
            return _record((key, body[key_nbytes:], ()))
        body = data[content_nbytes - body_nbytes :]
        lengths = struct.unpack_from(f"@{nframes}Q", data[key_nbytes : key_nbytes + 8 * nframes])
        frames = read_frames(window, rank, offset, content_nbytes, lengths)
        if not sealed and window.word(rank, offset) != sequence:
            return True
        return _record((key, body, frames))

    def has_key(self, pointer: int, key: bytes) -> bool | None:
        """Tell whether the block is of this key; None: it is not what the pointer meant any more.

        A yes is only as good as the pointer word is when the caller swaps it: a block whose
        pointer is still in its slot has been alive all the time.
        """
        rank, offset = at.place(pointer)
        window = self._window
        nbytes = at.HEADER_BYTES + len(key)
        if nbytes > self._nbytes - offset:
            return None if window.word(rank, offset) == 0 else False
        data = window.read(rank, offset, nbytes)
        sequence, _, uid, _, _, shape, _, _ = _HEADER.unpack_from(data)
        if (
            shape & 0xFFFFFFFF == len(key)
            and uid == self._uid
            and data.endswith(key)
            and sequence & at.GENERATION_MASK == pointer >> at.GENERATION_SHIFT & at.GENERATION_MASK
        ):
            return True
        last = window.word(rank, offset) & at.GENERATION_MASK
        return False if last == pointer >> at.GENERATION_SHIFT & at.GENERATION_MASK else None


def read_content(window: Window, rank: int, offset: int) -> tuple[tuple[int, ...], bytes]:
    """Return header and content of a block that nobody frees meanwhile."""
    if window.direct[rank]:
        header = window.words(rank, offset, at.HEADER_WORDS)
        return header, window.read(rank, offset + at.CONTENT, header[6])
    data = window.read(rank, offset, min(FIRST_READ, window.nbytes - offset))
    header = _HEADER.unpack_from(data)
    return header, _rest(window, data, rank, offset, at.CONTENT + header[6])


def _rest(window: Window, data: bytes, rank: int, offset: int, nbytes: int) -> bytes:
    """Return the content of a block of which `data` is the beginning."""
    if nbytes <= len(data):
        return data[at.CONTENT : nbytes]
    more = window.read(rank, offset + len(data), nbytes - len(data))
    return data[at.CONTENT :] + more


def read_frames(
    window: Window, rank: int, offset: int, content_nbytes: int, lengths: Sequence[int]
) -> list[memoryview]:
    """Return private copies of a block's frames."""
    end = at.CONTENT + content_nbytes
    frames = []
    for nbytes in lengths:
        end = at.align(end)
        frame = window.empty(nbytes)
        window.read_into(rank, offset + end, frame)
        frames.append(frame)
        end += nbytes
    return frames
