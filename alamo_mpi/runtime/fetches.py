"""Values that workers keep, as rank 0 asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import Fetch, Key, Value

__all__ = ["Fetches"]


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
    """

    def __init__(
        self,
        lock: contextlib.AbstractContextManager[object],
        send: Callable[[int, Any], None],
        drive: Callable[[Callable[[], bool], float | None], bool],
    ) -> None:
        self._lock = lock
        self._send = send
        self._drive = drive
        #: Key -> where the answer goes, for all who wait for it.
        self._asked: dict[Key, list[tuple[Any] | None]] = {}

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
        """
        with self._lock:
            answer = self._asked.get(key)
            if answer is None:
                answer = self._asked[key] = []
                self._send(rank, Fetch(key))
        if not self._drive(lambda: bool(answer), timeout):
            raise TimeoutError(f"the value of task {key[0]} did not arrive within {timeout} s")
        return answer[0]

    def arrived(self, message: Value) -> None:
        """Take in an answer; under the lock."""
        self._asked.pop(message.key).append(message.payload)
