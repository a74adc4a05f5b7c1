"""What the two ends of a gateway connection say to each other.

attached process                          rank, one thread for each connection
HELLO + token            ───────────>     the bytes are compared, nothing is unpickled before
                         <───────────     Welcome, or the end
(operation, *arguments)  ───────────>
                         <───────────     (DONE, value) or (FAILED, exception)
(operation, *arguments)  ───────────>
                         <───────────     (MORE, list)
True: go on              ───────────>
                         <───────────     (MORE, list), ..., and (DONE, None) at the end
False: no more           ───────────>     the iteration is closed
                         <───────────     (DONE, None)
(BATCHES,)               ───────────>
                         <───────────     (DONE, number); from here on both ends speak at any time
(tag, rank, fields)      ───────────>
                         <───────────     (tag, 0, fields)
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["BATCHES", "DONE", "FAILED", "HELLO", "MORE", "Welcome"]

#: First bytes of a connection; the number changes with the messages.
HELLO: Final = b"alamo_mpi gateway 2\n"

DONE: Final = 0
FAILED: Final = 1
MORE: Final = 2

#: The operation that makes a connection one of batches (`served_batches`); answered by its number.
BATCHES: Final = "batches"


class Welcome(NamedTuple):
    """The rank's answer to HELLO; travels as a plain tuple."""

    rank: int
    hosts: tuple[str, ...]
