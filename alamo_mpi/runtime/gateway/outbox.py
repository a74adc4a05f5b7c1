"""Sending to a process that may not read, by threads that must not wait for it.

A message is pickled and sent by the thread that has it, as far as the kernel takes it at once.
The rest is queued, and what follows it too; a thread of the outbox sends that.  It is started when
it is first needed, which for a client that reads is never or rarely.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Any

from alamo_mpi.runtime.gateway.wire import written

__all__ = ["Outbox"]


class Outbox:
    """The sending half of one connection; for all threads.

    Parameters
    ----------
    connection : socket.socket
        Stays the caller's.  Nobody else sends on it.
    name : str
        Of the thread.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._socket = connection
        self._name = name
        self._changed = threading.Condition()
        #: What is still to be sent; its first piece may be under way.
        self._pieces: deque[bytes | memoryview] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        #: How many messages there were so far.
        self.count = 0

    def put(self, message: Any) -> None:
        """Send a message; never waits, and does nothing once the other end is gone."""
        pieces = deque(written(message))
        with self._changed:
            self.count += 1
            if self._closed:
                return
            if not self._pieces:
                try:
                    self._send_now(pieces)
                except OSError:
                    self._closed = True
                    return
            if not pieces:
                return
            self._pieces += pieces
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def _send_now(self, pieces: deque[bytes | memoryview]) -> None:
        """Send what the kernel takes at once; what is left stays in `pieces`."""
        while pieces:
            piece = pieces[0]
            try:
                sent = self._socket.send(piece, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if sent < len(piece):
                pieces[0] = memoryview(piece)[sent:]
            else:
                pieces.popleft()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                piece = self._pieces[0]
            try:
                self._socket.sendall(piece)
            except OSError:
                with self._changed:
                    self._closed = True
                    self._pieces.clear()
                return
            with self._changed:
                self._pieces.popleft()

    def close(self) -> None:
        """Drop what is not sent, and wait for the thread; the connection was shut before."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._pieces.clear()
