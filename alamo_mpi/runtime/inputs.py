"""Results of tasks on other workers, on their way to the tasks here that take them as arguments."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["Inputs"]


class Inputs:
    """Values that chunks of this worker wait for, each fetched once and kept while one needs it.

    The service thread may take in a chunk, or a value, while the main thread ends another chunk
    that needs the same value: the lock makes each of these one step.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: uid -> number of chunks that need it.
        self._users: dict[int, int] = {}
        #: uid -> what arrived: a 1-tuple, or None when it was not there.
        self._values: dict[int, tuple[Any] | None] = {}

    def need(self, uids: Iterable[int]) -> list[int]:
        """Note that a chunk needs these values; return those that must be asked for."""
        with self._lock:
            fresh = []
            for uid in uids:
                if uid not in self._users:
                    fresh.append(uid)
                self._users[uid] = self._users.get(uid, 0) + 1
            return fresh

    def arrive(self, uid: int, value: tuple[Any] | None) -> None:
        """Take in a value; one that nobody needs any more is dropped."""
        with self._lock:
            if uid in self._users:
                self._values[uid] = value

    def here(self, uid: int) -> bool:
        """Tell whether the answer has arrived."""
        return uid in self._values

    def get(self, uid: int) -> tuple[Any] | None:
        """Return what has arrived for a value that is `here`."""
        return self._values[uid]

    def release(self, uids: Iterable[int]) -> None:
        """Note that a chunk that needed these values has ended."""
        with self._lock:
            for uid in uids:
                self._users[uid] -= 1
                if not self._users[uid]:
                    del self._users[uid]
                    self._values.pop(uid, None)
