"""The items of a queue as blocks of the memory pool.

A block holds one item, or a batch of 2**n small ones; a very large item has several blocks:

    one      key hash: kind | body, frames                        a block as of a dictionary
    batch    taken (8 bytes, SUM) | 2**n + 1 offsets (4 each) | the bodies
    split    key hash: kind + SPLIT | number of buffers | their lengths | addresses of their pieces

The buffers of a split item are body and frames, each cut into pieces with a block of their own: so
an item needs no contiguous memory, and may be larger than what one rank has.

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
from .window import Window

__all__ = ["PICKLE", "RAW", "Item", "Items"]

#: A pickle, with the large buffers that it refers to.
PICKLE: Final = 0
#: The content of a ``bytes`` object, as the only frame.
RAW: Final = 1

_SPLIT: Final = 2
_PIECE_NBYTES = 1 << 28
_TAKEN: Final = at.CONTENT
_KIND: Final = 3  #: word of the block's header


class Item(NamedTuple):
    """One item as bytes: what is put, and what is got."""

    body: bytes
    frames: Sequence[memoryview] = ()
    kind: int = PICKLE


class Items:
    """Writes, reads and frees the blocks of one queue."""

    def __init__(self, window: Window, allocator: Allocator, uid: int) -> None:
        self._window = window
        self._allocator = allocator
        self._uid = uid
        #: Pieces of split items that were taken and are not freed, by the item's address.
        self._pieces: dict[int, Sequence[int]] = {}

    # -- writing ----------------------------------------------------------

    def write(self, item: Item) -> int:
        """Write an item that no one knows yet; return the pointer word of its block.

        Raises
        ------
        DDictFullError
        """
        body, frames, kind = item
        if len(body) + (sum(map(len, frames)) if frames else 0) > _PIECE_NBYTES:
            return self._write_split(item)
        return self._allocator.write_block(self._uid, kind, b"", body, frames)

    def _write_split(self, item: Item) -> int:
        write_block = self._allocator.write_block
        buffers = [memoryview(item.body), *item.frames]
        pieces: list[int] = []
        try:
            for buffer in buffers:
                for start in range(0, len(buffer), _PIECE_NBYTES):
                    piece = buffer[start : start + _PIECE_NBYTES]
                    pieces.append(write_block(self._uid, 0, b"", piece))
            words = [len(buffers), *map(len, buffers), *pieces]
            table = struct.pack(f"@{len(words)}Q", *words)
            return write_block(self._uid, item.kind | _SPLIT, b"", table)
        except BaseException:
            for pointer in pieces:
                self._allocator.retire(pointer)
            raise

    def write_batch(self, bodies: Sequence[bytes]) -> int:
        """Write items that have no frames, in one block; return its pointer word.

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

    def withdraw(self, pointer: int, size: int) -> None:
        """Free a block of `size` items that was written and not published."""
        self.drop(Part(pointer & at.ADDRESS_MASK, 0, size, size))

    # -- reading ----------------------------------------------------------

    def read(self, part: Part) -> list[Item]:
        """Read items that were taken; `free` follows, whatever comes of it."""
        rank, offset = at.place(part.address)
        header, content = read_content(self._window, rank, offset)
        if part.size == 1:
            return [self._single(part.address, header, content)]
        first, count = part.first, part.nitems
        offsets = struct.unpack_from(f"@{count + 1}I", content, 8 + 4 * first)
        return [Item(content[offsets[i] : offsets[i + 1]]) for i in range(count)]

    def _single(self, address: int, header: tuple[int, ...], content: bytes) -> Item:
        _, _, _, kind, _, shape, content_nbytes, _ = header
        if kind & _SPLIT:
            return self._join(address, kind & ~_SPLIT, content)
        nframes = shape >> 32
        if not nframes:
            return Item(content, (), kind)
        lengths = struct.unpack_from(f"@{nframes}Q", content)
        rank, offset = at.place(address)
        if kind == RAW:
            start = offset + at.align(at.CONTENT + content_nbytes)
            return Item(self._window.read(rank, start, lengths[0]), (), RAW)
        frames = read_frames(self._window, rank, offset, content_nbytes, lengths)
        return Item(content[8 * nframes :], frames, kind)

    def _join(self, address: int, kind: int, content: bytes) -> Item:
        lengths, pieces = _table(content)
        self._pieces[address] = pieces
        left = iter(pieces)
        buffers: list[memoryview] = []
        for nbytes in lengths:
            buffer = self._window.empty(nbytes)
            for start in range(0, nbytes, _PIECE_NBYTES):
                rank, offset = at.place(next(left))
                piece = buffer[start : start + _PIECE_NBYTES]
                self._window.read_into(rank, offset + at.CONTENT, piece)
            buffers.append(buffer)
        if kind == RAW:
            return Item(bytes(buffers[1]), (), RAW)
        return Item(bytes(buffers[0]), buffers[1:], kind)

    # -- freeing ----------------------------------------------------------

    def free(self, part: Part) -> None:
        """Be done with items that were read; the last to be frees the block."""
        if part.nitems < part.size:
            rank, offset = at.place(part.address)
            before = self._window.add(rank, offset + _TAKEN, part.nitems)
            if before + part.nitems < part.size:
                return
        elif self._pieces:
            for pointer in self._pieces.pop(part.address, ()):
                self._allocator.retire(pointer)
        self._allocator.retire(part.address)

    def drop(self, part: Part) -> None:
        """Be done with items that nobody reads."""
        rank, offset = at.place(part.address)
        if part.size == 1:
            header = self._window.words(rank, offset, at.HEADER_WORDS)
            if header[_KIND] & _SPLIT:
                _, content = read_content(self._window, rank, offset)
                self._pieces[part.address] = _table(content)[1]
        self.free(part)


def _table(content: bytes) -> tuple[Sequence[int], Sequence[int]]:
    """Return the lengths of the buffers of a split item, and their pieces."""
    count, *words = struct.unpack(f"@{len(content) // 8}Q", content)
    return words[:count], words[count:]
