"""The memory of all ranks as one RMA window: `core.window.Window` over MPI.

The window is allocated by MPI (never created over given memory: only an allocated one needs no help
from the target on the same host), locked shared for life, and used by passive-target operations,
each complete when the method returns.

Ranks of the same host reach each other's memory by plain loads and stores where MPI maps it
(MPICH) and where the processor keeps their order (x86-64: the protocol relies on stores becoming
visible in the order made, and loads being done in order).  Atomics always go through MPI, so that
all ranks use the same ones.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import TYPE_CHECKING, Final

from mpi4py import MPI

from alamo_mpi.core.window import Buffer
from alamo_mpi.mpi.announced import survives
from alamo_mpi.mpi.buffers import Buffers, copy
from alamo_mpi.mpi.cards import has_card
from alamo_mpi.mpi.library import family_of_library
from alamo_mpi.mpi.survival import shard_lost

if TYPE_CHECKING:
    from alamo_mpi.mpi.wary import WaryWin

__all__ = ["SPARE_WORD", "MpiWindow"]

#: Largest single transfer: MPI counts are 32 bits in places, whatever the interface says.
_CHUNK: Final = 1 << 30
_SPINS: Final = 64
_LONGEST_NAP_S: Final = 1e-3
#: A rank that was told to look naps up to 1/64 of the time since, so this keeps it quick.
_WAKE_EVERY_S: Final = 1e-2
_TOTAL_STORE_ORDER: Final = os.uname().machine in ("x86_64", "AMD64", "i686")
#: Stands in a result until the operation has put its own there; if that is the same, one waits.
_PENDING: Final = 0xA5C396F10B7D2E49
#: Word of the arena header that no block uses: each rank leaves its number there while the window
#: is made, and the doctor measures with it.
SPARE_WORD: Final = 56


class _Scratch(threading.local):
    """Origin, compare and result words; each thread has its own."""

    def __init__(self) -> None:
        self.origin, self.compare, self.result = (array("Q", [0]) for _ in range(3))
        self.specs = [(word, MPI.UINT64_T) for word in (self.origin, self.compare, self.result)]


class MpiWindow:
    """Allocate the memory pool's window; collective over `comm`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Stays the caller's, and must outlive the window.
    nbytes : int
        Bytes of each rank, the same everywhere, a multiple of 64.

    Notes
    -----
    Memory is committed when it is touched.  Between hosts without RDMA hardware an operation needs
    the target to call MPI now and then.
    """

    def __init__(self, comm: MPI.Intracomm, nbytes: int) -> None:
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.nbytes = nbytes
        self._comm = comm
        #: Makes a rank of another node look often for a while; set by whoever can send messages.
        self.wake: Callable[[int], None] = _nobody
        #: Ranks on this node: what is done to their memory needs no help of theirs.
        self._near = frozenset(_neighbours(comm))
        self.one_node = len(self._near) == self.size
        #: Ranks of other nodes, where no network card does what is done to their memory: they do it
        #: themselves when they look.  A flush is one more exchange with them, so that what can be
        #: is done by operations with a request, which are complete with that.
        #: A request would be waited for for ever where its target may be lost.
        flushed = _has_rdma() or survives()
        self._asked = frozenset() if flushed else frozenset(range(self.size)) - self._near
        #: Ranks that were lost, and their memory with them.
        self.lost: set[int] = set()
        #: When each of the others was last told to look often.
        self._woken = [0.0] * self.size
        self._win = _allocate(comm, nbytes)
        self._scratch = _Scratch()
        self._unpack = {count: struct.Struct(f"@{count}Q").unpack_from for count in (4, 8, 16, 128)}
        self._maps: list[memoryview | None] = self._map()
        self._words = [None if m is None else m.cast("Q") for m in self._maps]
        self.direct = [m is not None for m in self._maps]
        #: Ranks for which MPI does atomics by the processor: they are complete when MPI returns,
        #: and a flush would take twice their time.
        shared = sum(self.direct) > 1
        self._at_once = [shared and mapped for mapped in self.direct]
        self._buffers = Buffers()
        self._wary: WaryWin | None = None
        if self.size > 1 and survives():
            from alamo_mpi.mpi.wary import WaryWin  # few programs do

            self._win = self._wary = WaryWin(self._win)
            self._wary.guard(self.lost, self._near, self.progress)
        # One rank alone needs no atomics: its own changes are made one at a time (`Pool.lock`).
        self._alone = self._words[0] if self.size == 1 else None

    # -- set-up and end ----------------------------------------------------------

    def _map(self) -> list[memoryview | None]:
        """Map the memory of ranks on this host, and make sure that it is theirs; collective."""
        maps: list[memoryview | None] = [None] * self.size
        if not _TOTAL_STORE_ORDER:
            return maps
        own = memoryview(self._win.tomemory()).cast("B")  # type: ignore[arg-type]
        own.cast("Q")[SPARE_WORD // 8] = self.rank + 1
        self._win.Sync()
        self._comm.Barrier()
        self._win.Sync()
        for rank in sorted(self._near):
            segment = own if rank == self.rank else self._query(rank)
            if segment is not None and segment.cast("Q")[SPARE_WORD // 8] == rank + 1:
                maps[rank] = segment
        self._comm.Barrier()
        return maps

    def _query(self, rank: int) -> memoryview | None:
        try:
            memory, _ = self._win.Shared_query(rank)
        except MPI.Exception:
            return None  # Open MPI maps only windows from Win.Allocate_shared
        segment = memoryview(memory).cast("B")  # type: ignore[arg-type]
        return segment if len(segment) == self.nbytes else None

    def _flush(self, rank: int) -> None:
        """Complete what was started on a rank; one on another node is made to look for it."""
        self._wake_if_far(rank)
        self._win.Flush(rank)

    def lose(self, rank: int) -> None:
        """Use a rank's memory no more; local.

        On this host it is still mapped, but what the rank was writing there is half written.
        """
        self.lost.add(rank)
        self._maps[rank] = self._words[rank] = None
        self.direct[rank] = self._at_once[rank] = False

    def check(self, rank: int) -> None:
        """Raise if a rank was lost.

        Raises
        ------
        ShardLostError
        """
        if rank in self.lost:
            raise shard_lost(rank)

    def reaches(self, rank: int) -> bool:
        """Tell whether a message to a rank, lost as it may be, does no harm; local."""
        if self._wary is None or rank in self._near:
            return True
        return self._wary.reaches(rank, SPARE_WORD)

    def _wake_if_far(self, rank: int) -> None:
        if rank not in self._near:
            now = time.perf_counter()
            if now - self._woken[rank] > _WAKE_EVERY_S:
                self._woken[rank] = now
                self.wake(rank)

    def _exchange(self, rank: int, offset: int, value: int, operation: MPI.Op) -> int:
        """Change a word of a rank that is asked; return what it was.  Complete on both sides."""
        scratch = self._scratch
        scratch.origin[0] = value
        origin, _, result = scratch.specs
        place = (offset, 1, MPI.UINT64_T)
        request = self._win.Rget_accumulate(origin, result, rank, place, operation)
        self._wake_if_far(rank)
        request.Wait()
        return scratch.result[0]

    def _flush_all(self, ranks: Iterable[int]) -> None:
        """Complete what was started on several ranks, having made all of them look first."""
        ranks = set(ranks)
        for rank in ranks:
            self._wake_if_far(rank)
        for rank in ranks:
            self._win.Flush(rank)

    def wait_openly(self, word: MutableSequence[int]) -> None:
        """Have it said in a word whom MPI lets this rank wait for, plus one; local."""
        if self._wary is not None:
            self._wary.away = word

    def near(self, rank: int) -> bool:
        """Tell whether a rank shares this one's host, so that its memory needs no help of its."""
        return rank in self._near

    def free(self) -> None:
        """Give the memory back; collective, after the last operation of every rank."""
        if self._win == MPI.WIN_NULL:
            return
        self._alone = None
        for views in (self._words, self._maps):
            for view in views:
                if view is not None:
                    view.release()
        self._words, self._maps = [], []
        self._win.Unlock_all()
        self._win.Free()

    # -- reading ----------------------------------------------------------

    def word(self, rank: int, offset: int) -> int:
        """Read one word."""
        words = self._words[rank]
        if words is not None:
            return words[offset >> 3]
        # An atomic read, so that a word under compare-and-swap is never seen half-changed.
        if rank in self._asked:
            return self._exchange(rank, offset, 0, MPI.NO_OP)
        scratch = self._scratch
        origin, _, result = scratch.specs
        self._win.Fetch_and_op(origin, result, rank, offset, MPI.NO_OP)
        self._flush(rank)
        return scratch.result[0]

    def words(self, rank: int, offset: int, count: int) -> tuple[int, ...]:
        """Read words."""
        segment = self._maps[rank]
        if segment is None:
            return self._unpack[count](self.read(rank, offset, 8 * count))
        return self._unpack[count](segment, offset)

    def read(self, rank: int, offset: int, nbytes: int) -> bytes:
        """Return a copy of bytes."""
        segment = self._maps[rank]
        if segment is not None:
            return bytes(segment[offset : offset + nbytes])
        buffer = bytearray(nbytes)
        self._get(rank, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, rank: int, offset: int, buffer: memoryview) -> None:
        """Fill a buffer."""
        segment = self._maps[rank]
        if segment is not None:
            copy(buffer, segment[offset : offset + len(buffer)])
        else:
            self._get(rank, offset, buffer)

    def fill_many(self, reads: Sequence[tuple[int, int, memoryview]]) -> None:
        """Fill buffers."""
        started = set()
        requests: list[MPI.Request] = []
        for rank, offset, buffer in reads:
            if self._maps[rank] is not None:
                self.read_into(rank, offset, buffer)
            else:
                requests += self._start_get(rank, offset, buffer)
                started.add(rank)
        for rank in started & self._asked:
            self._wake_if_far(rank)
        self._flush_all(started - self._asked)
        MPI.Request.Waitall(requests)

    def _get(self, rank: int, offset: int, buffer: memoryview) -> None:
        requests = self._start_get(rank, offset, buffer)
        if rank in self._asked:
            self._wake_if_far(rank)
            MPI.Request.Waitall(requests)
        else:
            self._flush(rank)

    def _start_get(self, rank: int, offset: int, buffer: memoryview) -> list[MPI.Request]:
        """Start reading; return what to wait for, or nothing where a flush completes it."""
        requests = []
        for start in range(0, len(buffer), _CHUNK):
            part = buffer[start : start + _CHUNK]
            spec = [part, len(part), MPI.BYTE]
            place = (offset + start, len(part), MPI.BYTE)
            if rank in self._asked:
                requests.append(self._win.Rget(spec, rank, place))
            else:
                self._win.Get(spec, rank, place)
        return requests

    # -- writing ----------------------------------------------------------

    def write_word(self, rank: int, offset: int, value: int) -> None:
        """Store a word."""
        words = self._words[rank]
        if words is not None:
            words[offset >> 3] = value
            return
        if rank in self._asked:
            self._exchange(rank, offset, value, MPI.REPLACE)
            return
        scratch = self._scratch
        scratch.origin[0] = value
        self._win.Put(scratch.specs[0], rank, offset)
        self._flush(rank)

    def write_words(self, writes: Sequence[tuple[int, int, int]]) -> None:
        """Store words."""
        memory = array("Q", [value for _, _, value in writes])
        words = memoryview(memory)
        started = set()
        for at, (rank, offset, value) in enumerate(writes):
            if self._words[rank] is not None:
                self.write_word(rank, offset, value)
            else:
                self._win.Put([words[at : at + 1], 1, MPI.UINT64_T], rank, offset)
                started.add(rank)
        self._flush_all(started)

    def write(self, rank: int, offset: int, data: Buffer) -> None:
        """Store bytes."""
        segment = self._maps[rank]
        nbytes = len(data)
        if segment is None:
            for start in range(0, nbytes, _CHUNK):
                part = memoryview(data)[start : start + _CHUNK]
                spec = [part, len(part), MPI.BYTE]
                self._win.Put(spec, rank, (offset + start, len(part), MPI.BYTE))
            self._flush(rank)
        else:
            copy(segment[offset : offset + nbytes], data)

    # -- atomics ----------------------------------------------------------

    def compare_and_swap(self, rank: int, offset: int, expected: int, desired: int) -> int:
        """Swap a word if it is what is expected."""
        if self._alone is not None:
            seen = self._alone[offset >> 3]
            if seen == expected:
                self._alone[offset >> 3] = desired
            return seen
        scratch = self._scratch
        scratch.origin[0] = desired
        scratch.compare[0] = expected
        origin, compare, result = scratch.specs
        scratch.result[0] = _PENDING
        self._win.Compare_and_swap(origin, compare, result, rank, offset)
        return self._outcome(scratch.result, rank)

    def swap_many(self, swaps: Sequence[tuple[int, int, int, int]]) -> list[int]:
        """Swap words."""
        if self._alone is not None:
            return [self.compare_and_swap(*swap) for swap in swaps]
        memory = array("Q", bytes(24 * len(swaps)))
        words = memoryview(memory)
        for at, (rank, offset, expected, desired) in enumerate(swaps):
            place = 3 * at
            memory[place], memory[place + 1] = desired, expected
            origin, compare, result = (
                [words[part : part + 1], 1, MPI.UINT64_T] for part in range(place, place + 3)
            )
            self._win.Compare_and_swap(origin, compare, result, rank, offset)
        self._flush_all(rank for rank, *_ in swaps)
        return list(memory[2::3])

    def add(self, rank: int, offset: int, delta: int) -> int:
        """Add to a word."""
        if self._alone is not None:
            seen = self._alone[offset >> 3]
            self._alone[offset >> 3] = seen + delta & 0xFFFFFFFFFFFFFFFF
            return seen
        if rank in self._asked:
            return self._exchange(rank, offset, delta & 0xFFFFFFFFFFFFFFFF, MPI.SUM)
        scratch = self._scratch
        scratch.origin[0] = delta & 0xFFFFFFFFFFFFFFFF
        origin, _, result = scratch.specs
        scratch.result[0] = _PENDING
        self._win.Fetch_and_op(origin, result, rank, offset, MPI.SUM)
        return self._outcome(scratch.result, rank)

    def _outcome(self, result: array[int], rank: int) -> int:
        """Return what an atomic has found, when it is complete."""
        if result[0] == _PENDING or not self._at_once[rank] or self.lost:
            self._flush(rank)
        return result[0]

    # -- other ----------------------------------------------------------

    def empty(self, nbytes: int) -> memoryview:
        """Return a new buffer."""
        return self._buffers.empty(nbytes)

    def progress(self) -> None:
        """Let MPI serve operations that other ranks have started here; local, returns at once."""
        self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)

    def pause(self, attempt: int) -> None:
        """Yield the processor, then nap; makes MPI progress."""
        self.progress()
        if attempt < _SPINS:
            os.sched_yield()
        else:
            time.sleep(min(5e-5 * 1.25 ** min(attempt - _SPINS, 20), _LONGEST_NAP_S))


def _has_rdma() -> bool:
    """Tell whether this host has a card that serves memory, or an MPI that may do better alone.

    What goes by requests instead of flushes was measured with MPICH over TCP.
    """
    return family_of_library() != "MPICH" or has_card()


def _nobody(rank: int) -> None:
    """Wake nobody."""


def _neighbours(comm: MPI.Intracomm) -> list[int]:
    """Return the ranks that share memory with this one, itself included; collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    ours, everyone = local.Get_group(), comm.Get_group()
    ranks = MPI.Group.Translate_ranks(ours, list(range(local.Get_size())), everyone)
    ours.Free()
    everyone.Free()
    local.Free()
    return list(ranks)


def _allocate(comm: MPI.Intracomm, nbytes: int) -> MPI.Win:
    info = MPI.Info.Create()
    info.Set("same_disp_unit", "true")
    info.Set("same_size", "true")
    # The standard's default, said aloud: one atomic operation per word, and reads of it.
    info.Set("accumulate_ops", "same_op_no_op")
    # Open MPI over UCX: one network operation an atomic instead of three.
    info.Set("acc_single_intrinsic", "true")
    if os.environ.get("ALAMO_DISABLE_SHM_ACCUMULATE"):
        # MPICH over libfabric with RDMA hardware: its atomics stay hardware atomics.
        info.Set("disable_shm_accumulate", "true")
    try:
        win = MPI.Win.Allocate(nbytes, 1, info=info, comm=comm)
    finally:
        info.Free()
    win.Set_errhandler(MPI.ERRORS_RETURN)
    win.Lock_all(MPI.MODE_NOCHECK)
    return win
