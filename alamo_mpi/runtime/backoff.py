"""Waiting without burning a core, and without being late."""

from __future__ import annotations

import os
import time

__all__ = ["Backoff", "longest_nap_s"]

#: Longest nap where operations on this rank's memory wait for it to poll.
_SERVING_NAP_S = 1e-3
#: How long to go on looking, giving way to others each time, after the last message.
_SPIN_S = 1e-3
#: The same while a large message is under way: it takes many polls on either side.
_SPIN_MOVING_S = 0.25
#: Nap after that: the other side may be in a task that lets nobody poll.
_MOVING_NAP_S = 5e-5
#: Longest nap.
_LONGEST_NAP_S = 10e-3


def longest_nap_s(one_node: bool) -> float:
    """Return how long a rank may nap: it serves the memory that other nodes reach into."""
    return _LONGEST_NAP_S if one_node else _SERVING_NAP_S


class Backoff:
    """Look often at first, then less: naps of 1/64 of the time already waited, at most 10 ms.

    So whoever waits is late by under 2 % of what it waited, an exchange of short messages never
    meets a nap, and an idle rank uses well under 1 % of a core.  `os.sched_yield` and not a bare
    loop, since there may be more ranks than cores.
    """

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def reset(self) -> None:
        """Begin anew, as after a message."""
        self._since = time.perf_counter()

    def pause(self, longest_s: float = _LONGEST_NAP_S, *, moving: bool = False) -> None:
        """Give way to others for a moment that fits how long the wait has been.

        Parameters
        ----------
        longest_s
            Sleep for this long at most.
        moving
            Whether a large message is under way, which moves only when somebody polls.
        """
        if self.waited_s < (_SPIN_MOVING_S if moving else _SPIN_S):
            os.sched_yield()
        elif moving:
            time.sleep(min(_MOVING_NAP_S, longest_s))
        else:
            time.sleep(self.nap_s(longest_s))

    def nap_s(self, longest_s: float) -> float:
        """Return how long the next nap would be."""
        return min(max(self.waited_s / 64, 5e-5), _LONGEST_NAP_S, longest_s)

    @property
    def spinning(self) -> bool:
        """Whether the next pause is a mere yield."""
        return self.waited_s < _SPIN_S

    @property
    def waited_s(self) -> float:
        """Seconds since the last `reset`."""
        return time.perf_counter() - self._since
