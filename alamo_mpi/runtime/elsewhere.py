"""What comes back of a task that has run in another process than its worker's."""

from __future__ import annotations

from typing import Any

from alamo_mpi.core.messages import Failure
from alamo_mpi.runtime.runners import Interruption

__all__ = ["FailedElsewhere", "GivenUp", "Packed"]


class Packed:
    """A result that is a payload already, and not unpacked on its way through the worker."""

    __slots__ = ("payload",)

    def __init__(self, payload: Any) -> None:
        self.payload = payload


class FailedElsewhere(Exception):  # noqa: N818 - carries an error, and is never shown itself
    """The task has failed there; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class GivenUp(Interruption):
    """The task was given up, and its process ended; `text` says where it was."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
