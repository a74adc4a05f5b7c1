"""The items of a queue as blocks of the memory pool.

A block holds one item, or a batch of 2**n small ones:

    one      key hash: kind | body, frames                        a block as of a dictionary
    batch    taken (8 bytes, SUM) | 2**n + 1 offsets (4 each) | the bodies

A block belongs to the producer until it is published, and to those who took its items from there
on: nobody else reads or frees it, so reading it needs no second look.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from . import layout as at
from .blocks import Allocator
from .fifo import Part
from .records import read_content, read_frames
from .window import Buffer, Window

__all__ = ["PICKLE", "RAW", "Item", "Items"]

#: A pickle, with the large buffers that it refers to.
PICKLE: Final = 0
#: The content of a ``bytes`` object, as the only frame.
RAW: Final = 1

_TAKEN: Final = at.CONTENT


class Item(NamedTuple):
    """One item as bytes: what is put, and what is got."""

    body: Buffer
    frames: Sequence[Buffer] = ()
    kind: int = PICKLE


class Items:
    """Writes, reads and frees the blocks of one queue."""

    def __init__(self, window: Window, allocator: Allocator, uid: int) -> None:
        self._window = window
        self._allocator = allocator
        self._uid = uid

    def write(self, item: Item) -> int:
        """Write a block of one item; return its pointer word.

        Raises
        ------
        DDictFullError
        """
        body, frames, kind = item
        return self._allocator.write_block(self._uid, kind, b"", body, frames)  # type: ignore[arg-type]

    def write_batch(self, bodies: Sequence[Buffer]) -> int:
        """Write a block of items that have no frames; return its pointer word.

        Raises
        ------
        DDictFullError
        """
        end = 8 + 4 * (len(bodies) + 1)
        offsets = [end]
        for body in bodies:
            end += len(body)
            offsets.append(end)
        head = struct.pack(f"@Q{len(offsets)}I", 0, *offsets)
        return self._allocator.write_block(self._uid, PICKLE, b"", b"".join([head, *bodies]))

    def read(self, part: Part) -> list[Item]:
        """Read items that were taken."""
        rank, offset = at.place(part.address)
        header, content = read_content(self._window, rank, offset)
        if part.size == 1:
            return [self._single(rank, offset, header, content)]
        first, count = part.first, part.nitems
        offsets = struct.unpack_from(f"@{count + 1}I", content, 8 + 4 * first)
        return [Item(content[offsets[i] : offsets[i + 1]]) for i in range(count)]

    def _single(self, rank: int, offset: int, header: tuple[int, ...], content: bytes) -> Item:
        _, _, _, kind, _, shape, content_nbytes, _ = header
        nframes = shape >> 32
        if not nframes:
            return Item(content, (), kind)
        lengths = struct.unpack_from(f"@{nframes}Q", content)
        if kind == RAW:
            start = offset + at.align(at.CONTENT + content_nbytes)
            return Item(b"", (self._window.read(rank, start, lengths[0]),), kind)
        frames = read_frames(self._window, rank, offset, content_nbytes, lengths)
        return Item(content[8 * nframes :], frames, kind)

    def free(self, part: Part) -> None:
        """Be done with items that were taken; the last to be frees the block."""
        if part.nitems < part.size:
            rank, offset = at.place(part.address)
            before = self._window.add(rank, offset + _TAKEN, part.nitems)
            if before + part.nitems < part.size:
                return
        self._allocator.retire(part.address)
