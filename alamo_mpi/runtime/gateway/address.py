"""How a process finds the gateway of the rank that it descends from: one environment variable.

    ALAMO_GATEWAY = NAME / TOKEN / MARK

NAME is that of a socket in Linux's abstract namespace, which is no file: when the last process
that listens is gone, however it ended, so is the name.  Anybody on the machine can see and connect
to such a name, so it protects nothing: both ends ask the kernel whose process is at the other, and
the TOKEN, which only processes of the same user can read in an environment, keeps out who has
another user id inside and the same outside of a user namespace.  The MARK is what the rank's
launcher told it (`mpi.announced`): a process that was told the same is no rank of another program.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from alamo_mpi.errors import GatewayError
from alamo_mpi.mpi.announced import Mark, mark_of_launcher

__all__ = ["VARIABLE", "Address", "descent", "new_address", "parse"]

VARIABLE = "ALAMO_GATEWAY"
_TOKEN_NBYTES = 16


class Address(NamedTuple):
    """Of one gateway."""

    name: str
    token: bytes
    mark: Mark

    @property
    def socket_name(self) -> str:
        """What `bind` and `connect` take; the leading zero says that it is no path."""
        return f"\0{self.name}"

    def __str__(self) -> str:
        return f"{self.name}/{self.token.hex()}/{self.mark.variables}-{self.mark.socket}"


def new_address() -> Address:
    """Make the address of a new gateway of this process."""
    name = f"alamo-mpi-{os.getpid()}-{os.urandom(8).hex()}"
    return Address(name, os.urandom(_TOKEN_NBYTES), mark_of_launcher(os.environ))


def parse(text: str) -> Address:
    """Read the value of the variable.

    Raises
    ------
    GatewayError
        It was not written by this package.
    """
    try:
        name, token, mark = text.split("/")
        variables, socket_inode = mark.split("-")
        address = Address(name, bytes.fromhex(token), Mark(int(variables), int(socket_inode)))
    except ValueError:
        raise GatewayError(
            f"{VARIABLE}={text!r} names no gateway: a rank sets it for the programs that its "
            "tasks start; pass it on as it is."
        ) from None
    return address


def descent() -> Address | None:
    """Return the gateway of the rank that this process descends from, being no rank itself."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    address = parse(text)
    return address if mark_of_launcher(os.environ).is_of_child(address.mark) else None
