"""Settings that are a number of seconds, as their variables have them."""

from __future__ import annotations

from alamo_mpi.errors import LaunchError

__all__ = ["bounded_seconds_of", "seconds_of"]


def seconds_of(setting: str, text: str) -> float | None:
    """Return what a variable says; None if it is empty.

    Raises
    ------
    LaunchError
        If it is no positive number.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise LaunchError(f"{setting}={text!r} is no positive number of seconds.")
    return seconds


def bounded_seconds_of(setting: str, text: str, default_s: float, longest_s: float) -> float:
    """Return what a variable says: the default if it is empty, and no more than the longest.

    Raises
    ------
    LaunchError
        If it is no positive number.
    """
    seconds = seconds_of(setting, text)
    return default_s if seconds is None else min(seconds, longest_s)
