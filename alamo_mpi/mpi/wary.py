"""The window of a program that goes on without lost ranks: what is done to one of those raises.

On its own host a rank's memory outlives it, and MPI does not notice.  Between hosts MPICH (5.0,
UCX) raises for a put or a get that meets a dead rank, but an atomic that was under way would be
waited for for ever: so their results are looked at, not flushed for.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Collection, MutableSequence
from typing import Any, Final

from mpi4py import MPI

from alamo_mpi.mpi.survival import shard_lost

__all__ = ["WaryWin"]

#: Stands in a result until the operation has put its own there.
_PENDING: Final = 0xA5C396F10B7D2E49
#: If that is what the operation has found.
_LONGEST_S: Final = 30.0
_SPIN_S: Final = 1e-3
_NAP_S: Final = 1e-4


class _Pending(threading.local):
    """Results of atomics that this thread has started, by rank: the word, and who wants it."""

    def __init__(self) -> None:
        self.results: dict[int, list[tuple[array[int], Any]]] = {}


class WaryWin(MPI.Win):
    """A window whose operations may meet lost ranks; the same handle as the one it is made of."""

    _lost: Collection[int]
    _near: Collection[int]
    _progress: Callable[[], None]

    def guard(
        self, lost: Collection[int], near: Collection[int], progress: Callable[[], None]
    ) -> None:
        """Begin.

        Parameters
        ----------
        lost
            Ranks that were lost; the caller adds to it.
        near
            Ranks of this host.
        progress
            Lets MPI get on.
        """
        self._lost = lost
        self._near = near
        self._progress = progress
        self._pending = _Pending()
        #: Whom MPI lets this rank wait for, plus one, while it does: the witness ends a wait for a
        #: rank that is lost, and this rank with it.
        self.away: MutableSequence[int] = array("Q", [0])
        #: Where answers that nobody waits for any more may still arrive.
        self._abandoned: list[Any] = []
        self._words = [array("Q", [rank + 1]) for rank in range(self.Get_group().Get_size())]

    def reaches(self, rank: int, place: int) -> bool:
        """Tell whether MPI still has a connection to a rank: a message without one ends the sender.

        Stores the rank's number and one at `place` there, which is to have that value already.
        """
        self._progress()  # an end that has arrived is taken note of
        try:
            # One that is only met by the first is said by the second.
            for _ in range(2):
                super().Put([self._words[rank], MPI.UINT64_T], rank, place)
        except MPI.Exception:
            return False
        return True

    def Put(self, origin: Any, target_rank: int, target: Any = None) -> None:
        """As of `MPI.Win`."""
        self._do(super().Put, target_rank, origin, target_rank, target)

    def Get(self, origin: Any, target_rank: int, target: Any = None) -> None:
        """As of `MPI.Win`."""
        self._do(super().Get, target_rank, origin, target_rank, target)

    def Fetch_and_op(
        self, origin: Any, result: Any, target_rank: int, target_disp: int = 0, op: MPI.Op = MPI.SUM
    ) -> None:
        """As of `MPI.Win`."""
        result = self._expected(result, target_rank)
        self._do(super().Fetch_and_op, target_rank, origin, result, target_rank, target_disp, op)

    def Compare_and_swap(
        self, origin: Any, compare: Any, result: Any, target_rank: int, target_disp: int = 0
    ) -> None:
        """As of `MPI.Win`."""
        result = self._expected(result, target_rank)
        call = super().Compare_and_swap
        self._do(call, target_rank, origin, compare, result, target_rank, target_disp)

    def Flush(self, rank: int) -> None:
        """As of `MPI.Win`."""
        results = self._pending.results.pop(rank, ())
        began = time.monotonic()
        for word, wanted in results:
            while word[0] == _PENDING and (waited := time.monotonic() - began) < _LONGEST_S:
                if rank in self._lost:
                    self._abandoned.append(results)
                    raise shard_lost(rank)
                self._progress()
                if waited < _SPIN_S:
                    os.sched_yield()
                else:
                    time.sleep(_NAP_S)
            wanted[0] = word[0]
        if rank in self._near:
            self._do(super().Flush, rank, rank)
            return
        self.away[0] = rank + 1
        try:
            self._do(super().Flush, rank, rank)
        finally:
            self.away[0] = 0

    def _expected(self, result: Any, rank: int) -> Any:
        """Return where MPI is to put a result.

        On another host a word of its own: an answer may come after its rank was given up, when the
        caller's word is another operation's.
        """
        if rank in self._near:
            return result
        if rank in self._lost:
            raise shard_lost(rank)
        word = array("Q", [_PENDING])
        self._pending.results.setdefault(rank, []).append((word, result[0]))
        return [word, MPI.UINT64_T]

    def _do(self, call: Callable[..., None], rank: int, *arguments: Any) -> None:
        if rank in self._lost:
            raise shard_lost(rank)
        try:
            call(*arguments)
        except MPI.Exception as error:
            if rank in self._near:
                raise
            self._abandoned.append(self._pending.results.pop(rank, None))
            raise shard_lost(rank) from error
