"""One ring of a queue: where its words are, and what a slot says.

A queue is a chain of rings, each a block of the memory pool; `core.fifo` joins them.  A *position*
counts the items ever put in the queue, from a base that is different for each queue; it belongs to
the slot ``position mod nslots``, in the *lap* ``position div nslots``.  A slot is one word that is
changed by compare-and-swap alone, by producers alone, once a lap at most:

    63..48 lap (16 low bits) | 47..44 kind | 43..0 address of a block or ring

It *holds* a position if the lap is that of the position.  `ARCHITECTURE-queue.md` has the diagram
and the proof.
"""

from __future__ import annotations

import struct
from typing import Final

from . import layout as at
from .blocks import Allocator
from .window import Window

__all__ = [
    "CLOSED",
    "DONE",
    "HEAD",
    "LARGEST_ORDER",
    "LEAST_SLOTS",
    "LINK",
    "OFFSET_BITS",
    "TAIL",
    "Header",
    "Ring",
    "make_ring",
]

# Ring header, byte offsets from the start of the block.
_UID: Final = at.CONTENT
HEAD: Final = at.CONTENT + 8
TAIL: Final = at.CONTENT + 16
DONE: Final = at.CONTENT + 24
_NSLOTS: Final = at.CONTENT + 32
_SLOTS: Final = at.CONTENT + 64

LAP_BITS = 16
_LAP_SHIFT: Final = 48
_KIND_SHIFT: Final = 44
#: A block of 2**kind items up to `LARGEST_ORDER`, or one of these.
LARGEST_ORDER: Final = 9
LINK: Final = 14
CLOSED: Final = 15

#: Head word: position of the oldest block that is not used up (44) | items taken of it (20).
OFFSET_BITS: Final = 20
LEAST_SLOTS: Final = 16
#: A remote ring of up to this many slots is read whole: the time of a read is all latency.
_READ_WHOLE: Final = 256

Header = tuple[int, int, int, int]  #: uid, head, tail hint, done
_HEADER: Final = struct.Struct("@4Q")
_WORD: Final = struct.Struct("@Q")


def make_ring(
    window: Window, allocator: Allocator, uid: int, start: int, nslots: int, on: int | None
) -> int:
    """Write an empty ring whose first position is `start`; return its pointer word.

    Parameters
    ----------
    nslots : int
        A power of two.
    on : int or None
        The arena to use if it has room; the caller's own by default.

    Raises
    ------
    DDictFullError
    """
    lap, first = divmod(start, nslots)
    header = (uid, start << OFFSET_BITS, start, start, nslots, 0, 0, 0)
    # The laps before those that the slots are first used in.
    passed = _word(lap, 0, 0), _word(lap - 1, 0, 0)
    slots = _WORD.pack(passed[0]) * first + _WORD.pack(passed[1]) * (nslots - first)
    return allocator.write_block(uid, 0, b"", struct.pack("@8Q", *header) + slots, on=on)


def _word(lap: int, kind: int, address: int) -> int:
    return (lap & (1 << LAP_BITS) - 1) << _LAP_SHIFT | kind << _KIND_SHIFT | address


class Ring:
    """One client's view of a ring.

    Parameters
    ----------
    window : Window
    pointer : int
        Pointer word or address of its block.

    Attributes
    ----------
    pointer : int
    nslots : int
        0 if there is no ring (any more) at that place.
    tail : int
        A position at which an item begins or is to be put next, as far as this client has seen.
    copied : bool
        Whether `header` reads the slots too, for `glance`.
    following : Ring or None
        The next of the chain, when this client has seen the link.
    """

    def __init__(self, window: Window, uid: int, pointer: int) -> None:
        self.pointer = pointer
        self.tail = 0
        self.following: Ring | None = None
        self._window = window
        self._rank, self._offset = at.place(pointer)
        found, _, _, _, nslots, _, _, _ = window.words(self._rank, self._offset + _UID, 8)
        self.nslots = nslots if found == uid else 0
        self._mask = self.nslots - 1
        self._shift = self.nslots.bit_length() - 1
        self.copied = not window.direct[self._rank] and self.nslots <= _READ_WHOLE
        self._copy = b""
        self._slots = self._offset + _SLOTS

    # -- reading ----------------------------------------------------------

    def header(self) -> Header:
        """Read uid, head, tail hint and done."""
        if not self.copied:
            return self._window.words(self._rank, self._offset + _UID, 4)  # type: ignore[return-value]
        data = self._window.read(self._rank, self._offset + _UID, 64 + 8 * self.nslots)
        self._copy = data
        return _HEADER.unpack_from(data)

    def slot(self, position: int) -> int:
        """Read the slot of a position, not before the header was read last."""
        return self._window.word(self._rank, self._slots + 8 * (position & self._mask))

    def glance(self, position: int) -> int:
        """Return the slot of a position as it may have been a little before `header` returned.

        Good for what a compare-and-swap will confirm, and for a slot that is seen to hold its
        position; what does not hold it is to be looked at by `slot`.
        """
        if self.copied:
            (word,) = _WORD.unpack_from(self._copy, 64 + 8 * (position & self._mask))
            return word  # type: ignore[no-any-return]
        return self.slot(position)

    def age(self, word: int, position: int) -> int:
        """Return how many laps before that of the position a slot was written.

        0: the slot holds the position.  Negative: the position is long past.
        """
        laps = (position >> self._shift) - (word >> _LAP_SHIFT) & (1 << LAP_BITS) - 1
        return laps if laps < 1 << LAP_BITS - 1 else laps - (1 << LAP_BITS)

    @staticmethod
    def kind(word: int) -> int:
        """Return what a slot that holds its position says: order of a block, LINK or CLOSED."""
        return word >> _KIND_SHIFT & 15

    # -- changing ----------------------------------------------------------

    def publish(self, position: int, word: int, kind: int, address: int) -> bool:
        """Let the slot of a position hold it, if it is still `word`."""
        offset = self._slots + 8 * (position & self._mask)
        new = _word(position >> self._shift, kind, address & at.ADDRESS_MASK)
        return self._window.compare_and_swap(self._rank, offset, word, new) == word

    def swap(self, place: int, old: int, new: int) -> bool:
        """Change one word of the header (HEAD, TAIL, DONE) if it is still `old`."""
        return self._window.compare_and_swap(self._rank, self._offset + place, old, new) == old

    def void(self, uid: int) -> bool:
        """End the life of the ring; of several clients one does."""
        return self._window.compare_and_swap(self._rank, self._offset + _UID, uid, 0) == uid

    def largest_order(self, position: int, count: int) -> int:
        """Return log2 of the items that one block at this position may hold, at most `count`.

        A block of several items is published in one slot, and the slots of its other positions
        keep what they had.  Lest a lap number wraps round on one that is never written, a lap in
        2**14 has no such block; none crosses the end of the ring, so that this is said of whole
        laps.
        """
        lap = position >> self._shift
        if not lap & (1 << LAP_BITS - 2) - 1:
            return 0
        most = min(count, self.nslots // 4, self.nslots - (position & self._mask))
        return min(most.bit_length() - 1, LARGEST_ORDER)
