"""Whose process is at the other end of a local socket: the kernel knows."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

__all__ = ["is_ours"]

#: `struct ucred` of Linux: pid, uid, gid.
_CREDENTIALS: Final = struct.Struct("3i")


def is_ours(connection: socket.socket) -> bool:
    """Tell whether the process at the other end belongs to this process's user."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    return bool(uid == os.geteuid())
