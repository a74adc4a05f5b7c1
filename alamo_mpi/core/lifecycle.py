"""When is a batch over: its clients, and the three ends close, join and terminate."""

from __future__ import annotations

from alamo_mpi.errors import TaskStateError

__all__ = ["Lifecycle"]

#: The client that made the batch.
PRIMARY = 0


class Lifecycle:
    """The clients of one batch and what they may still do.

    A batch is *over* when every client has closed and no task is unfinished, or when it was
    terminated.  Pure bookkeeping; O(1) each.
    """

    __slots__ = ("_open", "_registered", "joined", "terminated")

    def __init__(self) -> None:
        self._open = {PRIMARY}
        self._registered = 1
        #: Whether `join` has come to its end.
        self.joined = False
        self.terminated = False

    def register(self) -> int:
        """Add a client; return its number."""
        if self.terminated or self.joined:
            raise TaskStateError("This Batch has ended; create a new one.")
        client = self._registered
        self._registered += 1
        self._open.add(client)
        return client

    def close(self, client: int) -> None:
        """Note that a client will submit nothing more; closing twice is harmless."""
        self._open.discard(client)

    def is_open(self, client: int) -> bool:
        """Tell whether this client may submit."""
        return client in self._open and not self.terminated

    def check_submit(self, client: int) -> None:
        """Raise unless this client may submit.

        Raises
        ------
        TaskStateError
            Saying why not, and what to do instead.
        """
        if self.terminated:
            raise TaskStateError("This Batch was terminated; create a new Batch to run more tasks.")
        if client not in self._open:
            raise TaskStateError(
                "This Batch is closed and takes no more tasks; start all tasks before close(), "
                "or create a new Batch."
            )

    @property
    def all_closed(self) -> bool:
        """Whether every client has closed."""
        return not self._open
