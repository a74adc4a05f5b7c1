"""How long a program has that was asked to end."""

from __future__ import annotations

from alamo_mpi.core.seconds import bounded_seconds_of

__all__ = ["SETTING", "grace_s"]

SETTING = "ALAMO_GRACE"
#: Slurm's KillWait is 30 s: the job ends by itself before that, and says what it did.
_DEFAULT_S = 20.0
#: A year; the clocks of all waits take it.
_LONGEST_S = 365 * 86400.0


def grace_s(text: str) -> float:
    """Return the seconds that a program has from the signal to its end.

    Parameters
    ----------
    text : str
        The setting; empty for the default.

    Raises
    ------
    LaunchError
        If it is no positive number.
    """
    return bounded_seconds_of(SETTING, text, _DEFAULT_S, _LONGEST_S)
