"""The place of a cell in its task: while that waits, its worker runs others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from alamo_mpi.runtime.cellstreams import CellStreams
from alamo_mpi.runtime.celltalk import GOES_ON, WAITS
from alamo_mpi.runtime.parcels import Parcel, receive

__all__ = ["CellSeat"]


class CellSeat:
    """See `turn.Seat`; one for each task, for the thread that runs it.

    Parameters
    ----------
    connection
        To the worker.
    streams
        Of this process.
    uid, depth
        Of the task, and of what it starts.
    """

    def __init__(
        self, connection: socket.socket, streams: CellStreams, uid: int, depth: int
    ) -> None:
        self._connection = connection
        self._streams = streams
        self.uid = uid
        self.depth = depth
        self.at_end: list[Callable[[], None]] = []
        #: Called by nobody: a task that is given up ends with its process.
        self.at_loss: list[Callable[[], None]] = []

    def end(self) -> None:
        """Call what is to be called at the end of the task."""
        while self.at_end:
            self.at_end.pop()()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let the worker run others for the length of a block; it has to agree to its end."""
        self._streams.settle()
        Parcel().send(self._connection, (WAITS, None))
        try:
            yield
        finally:
            Parcel().send(self._connection, (GOES_ON, None))
            moved, fds, _ = receive(self._connection)
            if moved:
                self._streams.lead_to(fds)

    def check(self) -> None:
        """Do nothing: what interrupts the task ends this process."""
