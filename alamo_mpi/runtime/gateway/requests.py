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
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["DONE", "FAILED", "HELLO", "MORE", "Welcome"]

#: First bytes of a connection; the number changes with the messages.
HELLO: Final = b"alamo_mpi gateway 1\n"

DONE: Final = 0
FAILED: Final = 1
MORE: Final = 2


class Welcome(NamedTuple):
    """The rank's answer to HELLO; travels as a plain tuple."""

    rank: int
    hosts: tuple[str, ...]
