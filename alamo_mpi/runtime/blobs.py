"""Large argument buffers on rank 0: one snapshot each, sent to each worker at most once.

A buffer is recognised by its place in memory.  Within one `Task.start` that is enough: the tasks
keep it alive, so one place is one buffer.  At a later start the content is compared with the
snapshot (some 10 GB/s, far below what sending costs), since the user may have changed it between.

A blob is *used* from the start of a task until that task is final.  An unused one is kept, here
and on the workers that have it, within `IDLE_NBYTES`: the same array is often an argument again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Blob", "BlobTable"]

#: Unused blobs are kept up to this many bytes.
IDLE_NBYTES = 1 << 28


class Blob:
    """A snapshot of one buffer.

    Attributes
    ----------
    number : int
        Its name on the wire.
    data : bytearray
        The snapshot.
    holders : set of int
        Ranks that it was sent to.
    """

    __slots__ = ("data", "holders", "number", "place", "users")

    def __init__(self, number: int, place: tuple[int, int], data: bytearray) -> None:
        self.number = number
        self.place = place
        self.data = data
        self.users = 0
        self.holders: set[int] = set()


class BlobTable:
    """All blobs of one program.

    Parameters
    ----------
    idle_nbytes
        Unused blobs are kept up to this many bytes.
    """

    def __init__(self, idle_nbytes: int = IDLE_NBYTES) -> None:
        self._most_idle_nbytes = idle_nbytes
        self._blobs: dict[int, Blob] = {}
        self._places: dict[tuple[int, int], Blob] = {}
        #: Unused blobs, the longest unused first.
        self._idle: OrderedDict[int, Blob] = OrderedDict()
        self._idle_nbytes = 0
        self._next = 0
        # Tasks are started by users' threads and end on the one that drives.
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> Blob:
        return self._blobs[number]

    def __len__(self) -> int:
        return len(self._blobs)

    def use(self, raw: memoryview, met: dict[tuple[int, int], tuple[int, memoryview]]) -> int:
        """Return the number of the blob for a buffer that a task needs; take a snapshot if new.

        Parameters
        ----------
        raw
            The buffer, flat and contiguous.
        met
            Buffers met in this start, one dictionary for each start.  It keeps them alive, so
            that no other buffer can come to stand in the same place meanwhile.

        Returns
        -------
        int
            To be given to `release` once when the task is final.
        """
        # Whoever has such buffers has imported numpy; a program without starts faster.
        import numpy as np

        view = np.frombuffer(raw, np.uint8)
        place = (view.__array_interface__["data"][0], raw.nbytes)
        known = met.get(place)
        with self._lock:
            if known is not None:
                blob = self._blobs[known[0]]
            else:
                found = self._places.get(place)
                if found is None or not _equal(view, found.data):
                    found = Blob(self._next, place, bytearray(raw))
                    self._next += 1
                    # An older snapshot of the same place stays until its tasks are final.
                    self._blobs[found.number] = self._places[place] = found
                blob = found
                met[place] = (blob.number, raw)
            if self._idle.pop(blob.number, None) is not None:
                self._idle_nbytes -= len(blob.data)
            blob.users += 1
            return blob.number

    def adopt(self, data: bytearray, users: int) -> int:
        """Return the number of a new blob that came by message, with so many users."""
        with self._lock:
            # No address is negative, so nothing in memory is taken for it.
            blob = Blob(self._next, (-1, self._next), data)
            self._next += 1
            self._blobs[blob.number] = blob
            blob.users = users
            return blob.number

    def release(self, number: int) -> list[Blob]:
        """Note that a task that needed it is final; return the blobs to be forgotten."""
        with self._lock:
            blob = self._blobs[number]
            blob.users -= 1
            return self._rest(blob) if not blob.users else []

    def _rest(self, blob: Blob) -> list[Blob]:
        """Keep an unused blob, at the cost of the longest unused ones."""
        self._idle[blob.number] = blob
        self._idle_nbytes += len(blob.data)
        dropped = []
        while self._idle_nbytes > self._most_idle_nbytes:
            number, old = self._idle.popitem(last=False)
            self._idle_nbytes -= len(old.data)
            del self._blobs[number]
            if self._places.get(old.place) is old:
                del self._places[old.place]
            dropped.append(old)
        return dropped


def _equal(view: NDArray[np.uint8], data: bytearray) -> bool:
    import numpy as np

    return bool(np.array_equal(view, np.frombuffer(data, np.uint8)))
