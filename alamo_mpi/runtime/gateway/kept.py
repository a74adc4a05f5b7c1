"""The rank's clients of what attached processes use, one for each dictionary or queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["Kept"]

T = TypeVar("T")

_MOST: Final = 256


class Kept(Generic[T]):
    """Make clients when they are first asked for, and keep the latest; for all threads.

    Each knows something of its dictionary or queue that would have to be looked up again.

    Parameters
    ----------
    make : callable
        Makes a client of what a descriptor says.
    """

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._clients: dict[int, T] = {}
        self._lock = threading.Lock()

    def get(self, where: tuple[int, ...]) -> T:
        """Return the client for a descriptor, whose first number is unique."""
        client = self._clients.get(where[0])
        if client is None:
            with self._lock:
                while len(self._clients) >= _MOST:
                    del self._clients[next(iter(self._clients))]
                client = self._clients[where[0]] = self._make(*where)
        return client

    def forget(self, where: tuple[int, ...]) -> None:
        """Keep this one no longer: there is nothing left to be a client of."""
        self._clients.pop(where[0], None)
