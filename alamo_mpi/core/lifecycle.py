"""When is a batch over: its clients, and the three ends close, join and terminate."""

from __future__ import annotations

from collections.abc import Hashable

from alamo_mpi.errors import TaskStateError

__all__ = ["PRIMARY", "Lifecycle"]

#: The client that made the batch.
PRIMARY = 0


class Lifecycle:
    """The clients of one batch and what they may still do.

    Parameters
    ----------
    primary
        The client that made the batch; any name will do for a client.

    A batch is *over* when every client has closed and no task is unfinished, or when it was
    terminated.  Pure bookkeeping; O(1) each.
    """

    __slots__ = ("_open", "_primary", "_registered", "joined", "terminated")

    def __init__(self, primary: Hashable = PRIMARY) -> None:
        #: In the order of their coming.
        self._open: dict[Hashable, None] = {primary: None}
        self._primary = primary
        self._registered = 1
        #: Whether `join` has come to its end.
        self.joined = False
        self.terminated = False

    def register(self) -> int:
        """Add a client; return its number."""
        client = self._registered
        self.admit(client)
        self._registered += 1
        return client

    def admit(self, client: Hashable) -> None:
        """Add a client that has a name of its own."""
        if self.terminated or self.joined:
            raise TaskStateError("This Batch has ended; create a new one.")
        self._open[client] = None

    def close(self, client: Hashable) -> None:
        """Note that a client will submit nothing more; closing twice is harmless."""
        self._open.pop(client, None)

    @property
    def open(self) -> list[Hashable]:
        """The clients that have not closed."""
        return list(self._open)

    def is_open(self, client: Hashable) -> bool:
        """Tell whether this client may submit."""
        return client in self._open and not self.terminated

    def is_primary(self, client: Hashable) -> bool:
        """Tell whether this client made the batch."""
        return client == self._primary

    def check_submit(self, client: Hashable) -> None:
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
