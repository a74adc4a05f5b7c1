"""What the ranks of a host leave for their witness: a page of shared memory, and names."""

from __future__ import annotations

import mmap
import signal

from alamo_mpi.core.loss import Tally

__all__ = [
    *("ARMED", "BELL", "BUSY", "HEARD", "IDLE", "LEAVING", "RUNNING", "STATE", "TASK", "TOKEN"),
    "Page",
]

#: Signals that reach all ranks when somebody ends the program.
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The variable by which a witness is told what proves that it belongs to this program.
TOKEN = "ALAMO_WITNESS_TOKEN"

#: Values of `Page.state`: not watched; to be watched; at its regular end, or at an abort of its
#: own, which it has said why; lost, as the witness has seen.
ABSENT, ARMED, LEAVING, LOST = range(4)
IDLE, BUSY = range(2)

_HEAD_NBYTES = 64
_SLOT_NBYTES = 128
_NAME_AT, _NAME_NBYTES = 32, 96
_HEAD_WORDS = _HEAD_NBYTES // 8
_SLOT_WORDS = _SLOT_NBYTES // 8
#: Words of the head: whether the program is at its end; tasks done, failed, neither, started; how
#: many ranks the witness has seen die; whether it watches.
_ENDING, _DONE, _FAILED, _UNRUN, _STARTED, _NLOST, _WATCHED = range(7)
#: Words of a slot; the last is the name of the bell of a rank that naps, else 0 (`runtime.doze`).
STATE, TASK, RUNNING, BELL = range(4)


class Page:
    """What the ranks of a host leave for the witness, in memory that they share.

    Parameters
    ----------
    fd
        The file in memory.
    nranks
        Number of ranks of this host.

    Attributes
    ----------
    words : memoryview
        Head and slots as 64-bit words; a rank writes to its slot alone, and rank 0 to the head.
    """

    def __init__(self, fd: int, nranks: int) -> None:
        self._memory = mmap.mmap(fd, self.nbytes(nranks))
        self.bytes = memoryview(self._memory)
        self.words = self.bytes.cast("Q")

    @staticmethod
    def nbytes(nranks: int) -> int:
        """Return the size of a page."""
        return _HEAD_NBYTES + nranks * _SLOT_NBYTES

    def slot(self, at: int) -> memoryview:
        """Return the words of a slot: `STATE`, `TASK`, `RUNNING`, `BELL`."""
        first = _HEAD_WORDS + at * _SLOT_WORDS
        return self.words[first : first + _SLOT_WORDS]

    def write_name(self, at: int, name: str) -> None:
        """Store the name of the function that a rank runs."""
        data = name.encode(errors="replace")[: _NAME_NBYTES - 1]
        first = _HEAD_NBYTES + at * _SLOT_NBYTES + _NAME_AT
        self.bytes[first : first + len(data) + 1] = data + b"\0"

    def name(self, at: int) -> str:
        """Return what `write_name` has stored last."""
        first = _HEAD_NBYTES + at * _SLOT_NBYTES + _NAME_AT
        return (
            bytes(self.bytes[first : first + _NAME_NBYTES]).split(b"\0")[0].decode(errors="replace")
        )

    @property
    def ending(self) -> bool:
        """Whether the program is at its end: no death says anything any more."""
        return bool(self.words[_ENDING])

    def end(self) -> None:
        """Note that the program is at its end."""
        self.words[_ENDING] = 1

    @property
    def watched(self) -> bool:
        """Whether the witness watches, so that no end escapes it from now on."""
        return bool(self.words[_WATCHED])

    def watch(self) -> None:
        """Note that it does; the witness does that."""
        self.words[_WATCHED] = 1

    def lose(self, at: int) -> None:
        """Note that a rank was lost; the witness does."""
        self.slot(at)[STATE] = LOST
        self.words[_NLOST] += 1

    @property
    def nlost(self) -> int:
        """Number of ranks that were lost."""
        return self.words[_NLOST]

    def lost(self) -> set[int]:
        """Return the slots of ranks that were lost."""
        nslots = (len(self.words) - _HEAD_WORDS) // _SLOT_WORDS
        return {at for at in range(nslots) if self.slot(at)[STATE] == LOST}

    def count_done(self, count: int) -> None:
        """Count tasks that have a result."""
        self.words[_DONE] += count

    def count_others(self, failed: int, unrun: int) -> None:
        """Count tasks that have failed, and that were skipped or cancelled."""
        self.words[_FAILED] += failed
        self.words[_UNRUN] += unrun

    def count_started(self, count: int) -> None:
        """Count tasks of a new start."""
        self.words[_STARTED] += count

    @property
    def tally(self) -> Tally:
        """What was counted."""
        words = self.words
        done, failed, unrun = words[_DONE], words[_FAILED], words[_UNRUN]
        return Tally(done, failed, max(words[_STARTED] - done - failed - unrun, 0))
