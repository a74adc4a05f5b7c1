"""Messages over a stream socket: one pickle each, large buffers behind it as they are.

    | uint64 n | uint64 nbytes of the pickle | n x uint64 nbytes | pickle | buffer 0 | ... |

What was read beyond a message is the beginning of the next one, and is kept.  Buffers of 16 KiB and
more are neither copied into the pickle nor out of it.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from alamo_mpi.core.items import Item
from alamo_mpi.core.window import Buffer
from alamo_mpi.mpi.buffers import Buffers

__all__ = ["Wire", "buffers", "outside", "packed_item", "written"]

_HEAD: Final = struct.Struct("<QQ")
_FIRST_READ: Final = 1 << 16
#: Most that one call may take: the kernel's own limit is just below 2 GiB.
_PIECE: Final = 1 << 30
#: From here on a buffer travels outside of the pickle.
_OUTSIDE_NBYTES: Final = 1 << 14

_buffers = Buffers()


def outside(data: Buffer) -> Buffer | pickle.PickleBuffer:
    """Return bytes as they should be put into a message."""
    if len(data) >= _OUTSIDE_NBYTES:
        return pickle.PickleBuffer(data)
    return bytes(data) if isinstance(data, memoryview) else data


def buffers(frames: Sequence[memoryview]) -> list[pickle.PickleBuffer]:
    """Return large buffers as they should be put into a message."""
    return [pickle.PickleBuffer(frame) for frame in frames]


def packed_item(item: Item) -> tuple[Any, list[pickle.PickleBuffer], int]:
    """Return an item of a queue as it should be put into a message."""
    return outside(item.body), buffers(item.frames), item.kind


def written(message: Any) -> list[bytes | memoryview]:
    """Return what is to be written for a message, in pieces that one call can take."""
    frames: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, 5, buffer_callback=frames.append)
    if not frames:
        return [_HEAD.pack(0, len(body)) + body]
    raws = [frame.raw() for frame in frames]
    sizes = struct.pack(f"<{len(raws)}Q", *(raw.nbytes for raw in raws))
    pieces: list[bytes | memoryview] = [_HEAD.pack(len(raws), len(body)) + sizes + body]
    for raw in raws:
        pieces += [raw[start : start + _PIECE] for start in range(0, raw.nbytes, _PIECE)]
    return pieces


class Wire:
    """One end of a connection; for one thread at a time that sends, and one that receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        #: Read, and not yet returned.
        self._rest = b""

    def send(self, message: Any) -> None:
        """Send a message; blocks until the kernel has it all.

        Raises
        ------
        OSError
            The other end is gone.
        """
        for piece in written(message):
            self._socket.sendall(piece)

    def receive(self) -> Any:
        """Wait for a message and return it; its large buffers are private and writable.

        Raises
        ------
        EOFError, OSError
            The other end is gone.
        """
        data = self._rest
        if len(data) < _HEAD.size:
            data = self._more(data, _HEAD.size)
        count, nbytes = _HEAD.unpack_from(data)
        start = _HEAD.size + 8 * count
        end = start + nbytes
        if len(data) < end:
            data = self._more(data, end)
        if not count:
            self._rest = data[end:]
            return pickle.loads(data[start:end])
        sizes = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
        rest = memoryview(data)[end:]
        frames = []
        for size in sizes:
            frame = _buffers.empty(size)
            here = min(size, len(rest))
            frame[:here] = rest[:here]
            rest = rest[here:]
            self._fill(frame[here:])
            frames.append(frame)
        self._rest = bytes(rest)
        return pickle.loads(memoryview(data)[start:end], buffers=frames)

    @property
    def pending(self) -> bool:
        """Whether the beginning of another message was read with the last one."""
        return bool(self._rest)

    def _more(self, data: bytes, nbytes: int) -> bytes:
        """Read on until there are `nbytes` bytes at least."""
        parts = [data]
        have = len(data)
        while have < nbytes:
            part = self._socket.recv(max(_FIRST_READ, min(nbytes - have, _PIECE)))
            if not part:
                raise EOFError
            parts.append(part)
            have += len(part)
        return parts[-1] if have == len(parts[-1]) else b"".join(parts)

    def _fill(self, buffer: memoryview) -> None:
        while len(buffer):
            got = self._socket.recv_into(buffer[:_PIECE], 0, socket.MSG_WAITALL)
            if not got:
                raise EOFError
            buffer = buffer[got:]

    def shut(self) -> None:
        """Let both ends' `receive` end at once; on any thread."""
        with contextlib.suppress(OSError):  # the other end was quicker
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up this process's descriptor; a fork's copy of it goes on."""
        self._socket.close()
