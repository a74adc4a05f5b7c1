"""Sleeping where nothing comes, and being woken by what does.

A rank that has waited for long naps up to 10 ms, and what is sent to it would lie until it wakes.
So before it naps it leaves the name of its bell on the page of its host (`runtime.witnesspage`),
and whoever sends something to it from there rings.  Ranks on other hosts are not woken.
"""

from __future__ import annotations

from collections.abc import Callable

from alamo_mpi.runtime.backoff import Backoff
from alamo_mpi.runtime.bell import own_bell, ring
from alamo_mpi.runtime.witnessed import mark
from alamo_mpi.runtime.witnesspage import BELL

__all__ = ["doze", "waker"]

#: A bell's wait counts in milliseconds; and for less, ringing would cost more than it gains.
_LEAST_NAP_S = 1e-3


def doze(
    look: Callable[[], bool], backoff: Backoff, longest_s: float, *, moving: bool = False
) -> bool:
    """Wait for a moment as `Backoff.pause` does, but no longer than until something is sent.

    Parameters
    ----------
    look
        Receives what has come; tells whether anything had.
    backoff, longest_s, moving
        See `Backoff.pause`.

    Returns
    -------
    bool
        Whether `look` was called and found something.
    """
    nap_s, here = backoff.nap_s(longest_s), mark()
    if moving or nap_s < _LEAST_NAP_S or here.page is None:
        backoff.pause(longest_s, moving=moving)
        return False
    bell = own_bell()
    here.slot[BELL] = bell.name
    try:
        # Once more: who has sent before the name was there does not ring.  Where the two still
        # miss each other (no fence orders a store and MPI's loads), it costs one nap.
        if look():
            return True
        bell.wait(nap_s)
        return False
    finally:
        here.slot[BELL] = 0


def waker() -> Callable[[int], None]:
    """Return what to call with a rank to which something was sent."""
    here = mark()

    def wake(rank: int) -> None:
        name = here.take_bell(rank)
        if name:
            ring((name,))

    return wake
