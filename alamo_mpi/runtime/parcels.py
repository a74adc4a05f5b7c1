"""Messages between a worker and its cells: what is large lies in memory that both can map.

A message is one packet, and so is sent whole or not at all.  Its large parts are in an *arena*, an
anonymous file whose descriptor goes along with the packet: the sender writes it once and forgets
it, the receiver maps it, and it is gone with the last array on it.

A payload (`core.messages`) keeps its shape on the way, but for what follows the pickle in a list:
a buffer becomes its place in the arena, (begin, end), and a blob that has a file of its own the
number of its descriptor and its size, (number, size, "file").
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = ["Parcel", "receive"]

#: A message up to this size is a packet; with any buffers, or longer, it has an arena.
_PACKET_NBYTES: Final = 1 << 15
_RECEIVED_NBYTES: Final = _PACKET_NBYTES + 4096
#: Where the message itself is in the arena.  A pickle begins with another byte than 0.
_HEAD: Final = struct.Struct("<B7xQQ")
#: Buffers begin at multiples of this, as numpy likes best.
_ALIGNMENT: Final = 64
#: Below this a copy costs less than a mapping and its page faults.
_MAPPED_NBYTES: Final = 1 << 20
#: Each mapping holds a descriptor; beyond so many, arenas are copied.
_MOST_MAPPINGS: Final = 256
#: Linux passes 253 with one packet.
_MOST_FDS: Final = 250
_CONTROL_NBYTES: Final = socket.CMSG_SPACE(4 * 253)


class _Mapping(mmap.mmap):
    """An arena in memory; counted, since each has a descriptor."""

    count = 0

    def __init__(self, *_: object) -> None:
        _Mapping.count += 1

    def __del__(self) -> None:
        _Mapping.count -= 1


class Parcel:
    """A message that is put together; the payloads in it come from `payload`.

    Parameters
    ----------
    fds
        Descriptors that go along, in front of those of blobs; they stay the caller's.
    """

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self._fds = [*fds]
        self._raws: list[tuple[int, memoryview]] = []
        self._end = 0

    def payload(
        self, payload: Any, file_of: Callable[[int], tuple[int, int] | Any] | None = None
    ) -> Any:
        """Return what stands for a payload in the message.

        Parameters
        ----------
        payload
            Of a call or a result.
        file_of
            Gives, for the name of a blob, its file's descriptor and size, or its bytes.
        """
        if type(payload) is not list:
            return payload
        return [payload[0], *(self._place(each, file_of) for each in payload[1:])]

    def _place(self, what: Any, file_of: Callable[[int], Any] | None) -> tuple[Any, ...]:
        if type(what) is int:
            assert file_of is not None
            what = file_of(what)
            if type(what) is tuple:
                fd, nbytes = what
                if len(self._fds) < _MOST_FDS:
                    self._fds.append(fd)
                    return len(self._fds) - 1, nbytes, "file"
                what = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        raw = memoryview(what).cast("B")
        begin = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = begin + raw.nbytes
        self._raws.append((begin, raw))
        return begin, self._end

    def send(self, connection: socket.socket, message: Any) -> None:
        """Send a message with all that was placed.

        Raises
        ------
        OSError
            The other end is gone, or there is no memory left for an arena.
        """
        body = pickle.dumps(message, 5)
        if not self._raws and len(body) <= _PACKET_NBYTES:
            if self._fds:
                socket.send_fds(connection, [body], self._fds)
            else:
                connection.send(body)
            return
        arena = os.memfd_create("alamo-mpi-arena", os.MFD_CLOEXEC)
        try:
            for begin, raw in self._raws:
                _write(arena, raw, begin)
            _write(arena, memoryview(body), self._end)
            packet = _HEAD.pack(0, self._end, len(body))
            socket.send_fds(connection, [packet], [*self._fds, arena])
        finally:
            os.close(arena)


def receive(connection: socket.socket) -> tuple[Any, list[int], Callable[[Any], Any]]:
    """Wait for a message.

    Returns
    -------
    message
        As sent.
    fds
        Descriptors that came along, those of blobs behind; they are the caller's to close.
    payload : callable
        Turns what stands for a payload in the message into the payload: its buffers are private
        to this process and can be written.  To be called before the descriptors are closed.

    Raises
    ------
    EOFError, OSError
        The other end is gone.
    """
    packet, control, flags, _ = connection.recvmsg(
        _RECEIVED_NBYTES, _CONTROL_NBYTES, socket.MSG_CMSG_CLOEXEC
    )
    if not packet:
        raise EOFError
    fds: list[int] = _fds_of(control) if control else []
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}: what was sent is lost")
        if packet[0]:
            return pickle.loads(packet), fds, _Opener(b"", fds)
        arena = fds.pop()
        try:
            _, begin, nbytes = _HEAD.unpack(packet)
            contents = _contents(arena, begin, nbytes)
        finally:
            os.close(arena)
        # A pickle has what it needs copied out of it.
        message = pickle.loads(memoryview(contents)[begin : begin + nbytes])
        return message, fds, _Opener(contents, fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


class _Opener:
    """Turns what stands for a payload into the payload."""

    def __init__(self, contents: Any, fds: list[int]) -> None:
        self._contents = memoryview(contents)
        self._fds = fds

    def __call__(self, sent: Any) -> Any:
        if type(sent) is not list:
            return sent
        return [sent[0], *map(self._buffer, sent[1:])]

    def _buffer(self, place: tuple[Any, ...]) -> Any:
        if len(place) == 2:
            return self._contents[place[0] : place[1]]
        number, nbytes, _ = place
        # Others map the same file: what is written here stays here.
        return mmap.mmap(self._fds[number], nbytes, flags=mmap.MAP_PRIVATE)


def _fds_of(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _contents(arena: int, begin: int, nbytes: int) -> Any:
    """Return what is in an arena: mapped, or copied where it is small."""
    size = begin + nbytes
    if begin >= _MAPPED_NBYTES and _Mapping.count < _MOST_MAPPINGS:
        return _Mapping(arena, size)
    copy = bytearray(size)
    view, at = memoryview(copy), 0
    while at < size:
        got = os.preadv(arena, [view[at:]], at)
        if not got:
            raise EOFError
        at += got
    return copy


def _write(fd: int, raw: memoryview, at: int) -> None:
    while raw:
        written = os.pwrite(fd, raw, at)
        raw, at = raw[written:], at + written
