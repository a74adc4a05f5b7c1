"""Values that workers keep, as rank 0 asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import Fetch, Key, Value
from alamo_mpi.errors import WorkerDiedError

__all__ = ["Fetches"]

Answer = list[tuple[Any] | None]


class Fetches:
    """Ask for values, and keep the answers for all who wait for them.

    Parameters
    ----------
    lock
        The manager's.
    send
        ``send(rank, message)``.
    drive
        ``drive(done, timeout)``, waits as `Manager.drive` does.
    hosts
        Host name by rank.
    """

    def __init__(
        self,
        lock: contextlib.AbstractContextManager[object],
        send: Callable[[int, Any], None],
        drive: Callable[[Callable[[], bool], float | None], bool],
        hosts: tuple[str, ...],
    ) -> None:
        self._lock = lock
        self._send = send
        self._drive = drive
        self._hosts = hosts
        #: Key -> rank, and where the answer goes, for all who wait for it.
        self._asked: dict[Key, tuple[int, Answer]] = {}
        self._lost: set[int] = set()

    def __len__(self) -> int:
        """Return the number of values under way."""
        return len(self._asked)

    def fetch(self, rank: int, key: Key, timeout: float | None) -> tuple[Any] | None:
        """Get a kept value from its worker; blocks until it is here.

        Returns
        -------
        tuple of payload, or None
            None if the worker does not have it any more.

        Raises
        ------
        TimeoutError
            If it is not here in time.
        WorkerDiedError
            If its worker was lost.
        """
        with self._lock:
            self._check(rank, key)
            if key not in self._asked:
                self._asked[key] = rank, []
                self._send(rank, Fetch(key))
            answer = self._asked[key][1]
        if not self._drive(lambda: bool(answer), timeout):
            raise TimeoutError(f"the value of task {key[0]} did not arrive within {timeout} s")
        if answer[0] is None:
            self._check(rank, key)
        return answer[0]

    def arrived(self, message: Value) -> None:
        """Take in an answer; under the lock."""
        self._asked.pop(message.key)[1].append(message.payload)

    def lose(self, rank: int) -> None:
        """Answer those who wait for a lost rank; under the lock."""
        self._lost.add(rank)
        for key, (asked, answer) in list(self._asked.items()):
            if asked == rank:
                del self._asked[key]
                answer.append(None)

    def _check(self, rank: int, key: Key) -> None:
        if rank in self._lost:
            raise WorkerDiedError(
                f"The {key[1]} of task {key[0]} was kept on rank {rank} (host "
                f"{self._hosts[rank]}), which was lost. Run the task again.",
                uid=key[0],
                rank=rank,
                host=self._hosts[rank],
            )
