"""Queues that still have items when the program ends: what was put there, nobody will get.

Each rank remembers the queues that it has made with their words in its own memory, looks at them
when it stops serving, and names those in the log.  After an error nobody is told: then the
program's end is what matters.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from alamo_mpi.errors import AlamoError
from alamo_mpi.runtime import ends

if TYPE_CHECKING:
    from alamo_mpi.core.fifo import QueueDescriptor
    from alamo_mpi.runtime.pool import Pool

__all__ = ["LeftQueues"]

logger = logging.getLogger(__name__)

#: So many are named; of the others the number is told.
_MOST_NAMED: Final = 5


class LeftQueues:
    """The queues that a rank has made, for the end of its program.

    Parameters
    ----------
    pool : Pool
        Of this rank.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: By unique number.
        self._made: dict[int, QueueDescriptor] = {}
        self._entered = False

    def made(self, descriptor: QueueDescriptor) -> None:
        """Note a new queue; local."""
        if descriptor.near != self._pool.rank:
            return  # at the end its rank may be gone
        self._made[descriptor.uid] = descriptor
        if not self._entered:
            self._entered = True
            ends.at_end(self._tell)

    def destroyed(self, descriptor: QueueDescriptor) -> None:
        """Note that a queue has gone; local."""
        self._made.pop(descriptor.uid, None)

    def _tell(self) -> None:
        """Warn of those that have items; local."""
        self._entered = False
        made, self._made = list(self._made.values()), {}
        if ends.failed():
            return
        left = []
        for descriptor in made:
            try:
                count = self._pool.queue(descriptor).count()
            except AlamoError:
                continue  # destroyed by another rank
            if count:
                items = "1 item" if count == 1 else f"{count} items"
                left.append(f"Queue {descriptor.uid:x} on rank {descriptor.near} with {items}")
        if not left:
            return
        named = ", ".join(left[:_MOST_NAMED])
        more = f", and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        logger.warning(
            "Items that nobody got are lost with the end of the program: %s%s. Get them, or say "
            "that they do not matter: use `with Queue() as q:`, or call destroy().",
            named,
            more,
        )
