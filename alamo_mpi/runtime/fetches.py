"""Values on workers that rank 0 has asked for, for whoever waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import Fetch, Key, Value
from alamo_mpi.errors import WorkerDiedError

__all__ = ["Fetches"]

Answer = list[tuple[Any] | None]


class Fetches:
    """What was asked for; used under the manager's lock.

    Parameters
    ----------
    send
        ``send(rank, message)``.
    hosts
        Host name by rank.
    """

    def __init__(self, send: Callable[[int, Any], None], hosts: tuple[str, ...]) -> None:
        self._send = send
        self._hosts = hosts
        #: key -> rank, and where the answer goes, for all who wait for it.
        self._asked: dict[Key, tuple[int, Answer]] = {}
        self._lost: set[int] = set()

    def __len__(self) -> int:
        """Return how many values are under way."""
        return len(self._asked)

    def ask(self, rank: int, key: Key) -> Answer:
        """Ask for a value; return the list that its answer will be in.

        Raises
        ------
        WorkerDiedError
            If its rank was lost.
        """
        self.check(rank, key)
        if key not in self._asked:
            self._asked[key] = rank, []
            self._send(rank, Fetch(key))
        return self._asked[key][1]

    def arrived(self, value: Value) -> None:
        """Take in an answer."""
        self._asked.pop(value.key)[1].append(value.payload)

    def lose(self, rank: int) -> None:
        """Answer those who wait for a lost rank."""
        self._lost.add(rank)
        for key, (asked, answer) in list(self._asked.items()):
            if asked == rank:
                del self._asked[key]
                answer.append(None)

    def check(self, rank: int, key: Key) -> None:
        """Raise if a value was lost with its rank.

        Raises
        ------
        WorkerDiedError
        """
        if rank in self._lost:
            raise WorkerDiedError(
                f"The {key[1]} of task {key[0]} was kept on rank {rank} (host "
                f"{self._hosts[rank]}), which was lost. Run the task again.",
                uid=key[0],
                rank=rank,
                host=self._hosts[rank],
            )
