"""What another program says of itself, asked within ten seconds."""

from __future__ import annotations

__all__ = ["answer_of"]

_LIMIT_S = 10.0


def answer_of(*command: str) -> str:
    """Return all that a program prints, ``""`` where it cannot be started or takes too long."""
    import subprocess  # here, as workers and the command line import this and seldom ask

    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout + answer.stderr
