"""Whether a task is to run isolated: what the caller, the batch and the environment say."""

from __future__ import annotations

import os

__all__ = ["VARIABLE", "default_isolation", "isolates"]

VARIABLE = "ALAMO_ISOLATE"
_SAID = {"": False, "0": False, "1": True}


def default_isolation() -> bool:
    """Return what the environment says.

    Raises
    ------
    ValueError
        If it says something else than 0 or 1.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if said not in _SAID:
        raise ValueError(
            f"{VARIABLE}={said!r}: set it to 1 to run function tasks isolated, in a process of "
            "their own beside the worker, or to 0."
        )
    return _SAID[said]


def isolates(isolate: bool | None, default: bool) -> bool:
    """Return whether to isolate, where the caller may have said nothing.

    Raises
    ------
    TypeError
        If what was said is no bool.
    """
    if isolate is None:
        return default
    if not isinstance(isolate, bool):
        raise TypeError(f"isolate must be True, False or None (as the batch says), not {isolate!r}")
    return isolate
