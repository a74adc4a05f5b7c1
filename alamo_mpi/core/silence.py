"""How long nothing may be heard of a host before it counts as lost."""

from __future__ import annotations

from alamo_mpi.core.seconds import bounded_seconds_of

__all__ = ["SETTING", "silence_s"]

SETTING = "ALAMO_HOST_TIMEOUT"
_DEFAULT_S = 6.0
#: The kernel counts milliseconds in 31 bits.
_LONGEST_S = 20 * 86400.0


def silence_s(text: str) -> float:
    """Return the seconds after which a host that cannot be reached is given up.

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
