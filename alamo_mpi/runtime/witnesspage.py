"""What the ranks of a host leave for their witness: a page of shared memory, and names."""

from __future__ import annotations

import mmap
import signal

from alamo_mpi.core.loss import Tally

__all__ = [
    *("ARMED", "AWAY", "BELL", "BUSY", "HEARD", "IDLE", "LEAVING", "RUNNING", "STATE", "TASK"),
    *("TOKEN", "Page"),
]

#: Signals that reach all ranks when somebody ends the program.
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The variable by which a witness is told what proves that it belongs to this program.
TOKEN = "ALAMO_WITNESS_TOKEN"

#: Values of `Page.state`: not watched; to be watched; at its regular end, or at an abort of its
#: own, which it has said why.
ABSENT, ARMED, LEAVING = range(3)
IDLE, BUSY = range(2)

_HEAD_NBYTES = 64
_SLOT_NBYTES = 128
_NAME_AT, _NAME_NBYTES = 40, 88
_HEAD_WORDS = _HEAD_NBYTES // 8
_SLOT_WORDS = _SLOT_NBYTES // 8
#: Words of the head: whether the program is at its end; tasks done, failed, neither, started; how
#: many ranks the witness has seen die; whether it watches.
_ENDING, _DONE, _FAILED, _UNRUN, _STARTED, _NLOST, _WATCHED = range(7)
#: Fates of lost ranks: of which no task is known; after the task of which the uid is added.
_LOST, _LOST_AFTER = 1, 2
#: Words of a slot.  `BELL` is the name of the bell of a rank that naps, else 0 (`runtime.doze`);
#: `AWAY` one more than the rank for whose answer MPI waits (`mpi.wary`), else 0.
STATE, TASK, RUNNING, BELL, AWAY = range(5)


class Page:
    """What the ranks of a host leave for the witness, in memory that they share.

    Parameters
    ----------
    fd
        The file in memory.
    nranks
        Number of ranks of this host.
    nworld
        Number of all ranks.

    Attributes
    ----------
    words : memoryview
        Head, slots and fates as 64-bit words; a rank writes to its slot alone, rank 0 to the head,
        and the witness to the fates: of each rank of the program 0 as long as it is not lost.
    """

    def __init__(self, fd: int, nranks: int, nworld: int) -> None:
        self._memory = mmap.mmap(fd, self.nbytes(nranks, nworld))
        self.bytes = memoryview(self._memory)
        self.words = self.bytes.cast("Q")
        self._fates = self.words[_HEAD_WORDS + nranks * _SLOT_WORDS :][:nworld]

    @staticmethod
    def nbytes(nranks: int, nworld: int) -> int:
        """Return the size of a page."""
        return _HEAD_NBYTES + nranks * _SLOT_NBYTES + 8 * nworld

    def slot(self, at: int) -> memoryview:
        """Return the words of a slot: `STATE`, `TASK`, `RUNNING`, `BELL`, `AWAY`."""
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

    def lose(self, rank: int, last: int | None) -> bool:
        """Note that a rank was lost, and the uid of its last task; the witness does.

        Returns
        -------
        bool
            Whether that was news.
        """
        if self._fates[rank]:
            return False
        self._fates[rank] = _LOST if last is None else _LOST_AFTER + last
        self.words[_NLOST] += 1
        return True

    @property
    def nlost(self) -> int:
        """Number of ranks that were lost."""
        return self.words[_NLOST]

    def lost(self) -> set[int]:
        """Return the ranks that were lost."""
        return {rank for rank, fate in enumerate(self._fates) if fate}

    def last_task(self, rank: int) -> int | None:
        """Return the uid of the task that a lost rank has begun last, None if unknown."""
        fate = self._fates[rank]
        return fate - _LOST_AFTER if fate >= _LOST_AFTER else None

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
