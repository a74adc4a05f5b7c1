"""Messages over point-to-point MPI: send never waits, poll hands over what has arrived.

A message is one pickle on `World.comm`, its tag the kind (`core.messages.KINDS`).  Buffers that
pickle protocol 5 leaves out of band follow on `World.bulk`, in order, in pieces that fit MPI's
32-bit counts::

    comm, tag = kind   | uint32 n | n x uint64 nbytes | pickle of the fields |
    bulk, tag 0        | buffer 0 | ... | buffer n-1 |

Invariants: messages from one rank are handed over in the order in which they were sent (MPI does
not let messages overtake each other, and a message whose buffers are still under way holds back
those behind it); a buffer belongs to the transport from `send` until its request is complete.
Nobody ever waits here, so two ranks that send each other gigabytes cannot block one another, as
long as both poll now and then.

Every MPI call of this package after the start is made under ``lock``: one thread at a time is in
MPI, as MPI is slow with several (a blocked one starves the others).
"""

from __future__ import annotations

import pickle
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mpi4py import MPI

from alamo_mpi.core.messages import KINDS, tag_of
from alamo_mpi.mpi.survival import Losses
from alamo_mpi.mpi.world import World

__all__ = ["Transport"]

#: Largest piece of a buffer that goes in one MPI call; below 2**31 with room to spare.
_PIECE = 1 << 30
_COUNT = struct.Struct("<I")


class _Partial:
    """A message whose buffers are still under way."""

    __slots__ = ("body", "buffers", "requests", "tag")

    def __init__(self, tag: int, body: memoryview, buffers: list[bytearray]) -> None:
        self.tag = tag
        self.body = body
        self.buffers = buffers
        self.requests: list[MPI.Request] = []


class Transport:
    """Send and receive the messages of one rank.

    Parameters
    ----------
    world
        The communicators to use.

    Notes
    -----
    Local; nothing here blocks but for the length of a copy.  Cost of a small message: about 3 µs
    on either side.
    """

    def __init__(self, world: World) -> None:
        self.lock = threading.Lock()
        self._comm = world.comm
        self._bulk = world.bulk
        self._rank = world.rank
        self._status = MPI.Status()
        #: Sends under way: to whom, and what must stay alive until they are complete.
        self._sends: deque[tuple[MPI.Request, int, Any]] = deque()
        #: Those to ranks that were lost; MPI may still look at what they were to send.
        self._given_up: list[tuple[MPI.Request, int, Any]] = []
        #: Messages to and from this very rank: in a world of one there is nobody else.
        self._own: deque[tuple[int, Any]] = deque()
        #: Messages by source that have arrived but cannot be handed over yet.
        self._held: dict[int, deque[_Partial]] = {}
        #: Ranks that were lost: nothing is sent to them, and nothing comes of them any more.
        self.lost = world.lost
        self._losses = Losses(world.comm, self.lost)
        #: Tells whether a message to a rank may be sent.
        self.reaches: Callable[[int], bool] = _any
        #: Called with the rank to which something was sent.
        self.sent: Callable[[int], None] = _nothing
        #: Bytes sent to each rank so far.
        self.nbytes_sent = [0] * world.size

    def send(self, rank: int, message: Any) -> None:
        """Send a message; local, returns at once.

        Parameters
        ----------
        rank
            Destination in the world's communicator.
        message
            One of the named tuples of `core.messages`.  Its buffers must stay unchanged.

        Raises
        ------
        pickle.PicklingError
            If a field cannot be pickled; the payloads were pickled before, so none should.
        """
        if rank == self._rank:
            self._own.append((rank, message))
            return
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(tuple(message), 5, buffer_callback=buffers.append)
        raws = [buffer.raw() for buffer in buffers]
        head = struct.pack(f"<I{len(raws)}Q", len(raws), *(raw.nbytes for raw in raws))
        data = head + body
        self.nbytes_sent[rank] += len(data) + sum(raw.nbytes for raw in raws)
        with self.lock:
            if rank in self.lost:
                return  # nobody is there
            if not self.reaches(rank):
                self.lost.add(rank)
                return
            try:
                self._start(self._comm.Isend((data, MPI.BYTE), rank, tag_of(message)), rank, data)
                for raw in raws:
                    for piece in _pieces(raw):
                        self._start(self._bulk.Isend((piece, MPI.BYTE), rank, 0), rank, piece)
            except MPI.Exception as error:
                if not self._losses.explains(error, rank):
                    raise
        self.sent(rank)

    def _start(self, request: MPI.Request, rank: int, data: Any) -> None:
        if not request.Test():
            self._sends.append((request, rank, data))

    def _ended(self, request: MPI.Request, rank: int) -> bool:
        """Tell whether a send is complete, or will never be."""
        try:
            return request.Test()
        except MPI.Exception as error:
            if not self._losses.explains(error, rank):
                raise
            return True

    def poll(self) -> list[tuple[int, Any]]:
        """Return the messages that have arrived, as (source rank, message); local.

        Makes the progress that sends and receives under way need.
        """
        arrived: list[tuple[int, Any]] = []
        with self.lock:
            sends = self._sends
            while sends and self._ended(*sends[0][:2]):
                sends.popleft()
            try:
                self._receive(arrived)
            except MPI.Exception as error:
                # What a lost rank has sent before comes with the next call.
                if not self._losses.explains(error):
                    raise
        while self._own:
            arrived.append(self._own.popleft())
        return arrived

    def _receive(self, arrived: list[tuple[int, Any]]) -> None:
        status = self._status
        while self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            source, tag = status.Get_source(), status.Get_tag()
            data = bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv((data, MPI.BYTE), source, tag)
            self._arrive(source, tag, data, arrived)
        if self._held:
            self._hand_over(arrived)

    def give_up(self, rank: int) -> None:
        """Forget what a lost rank has not sent completely, or not received; local."""
        with self.lock:
            self._held.pop(rank, None)
            # Requests that may never complete, and would hold back those behind them.
            self._given_up += [send for send in self._sends if send[1] == rank]
            self._sends = deque(send for send in self._sends if send[1] != rank)

    def _arrive(
        self, source: int, tag: int, data: bytearray, arrived: list[tuple[int, Any]]
    ) -> None:
        (count,) = _COUNT.unpack_from(data)
        if not count and source not in self._held:
            arrived.append((source, KINDS[tag](*pickle.loads(memoryview(data)[4:]))))
            return
        sizes = struct.unpack_from(f"<{count}Q", data, 4)
        partial = _Partial(
            tag, memoryview(data)[4 + 8 * count :], [bytearray(size) for size in sizes]
        )
        for buffer in partial.buffers:
            for piece in _pieces(memoryview(buffer)):
                partial.requests.append(self._bulk.Irecv((piece, MPI.BYTE), source, 0))
        self._held.setdefault(source, deque()).append(partial)

    def _hand_over(self, arrived: list[tuple[int, Any]]) -> None:
        """Move messages from the head of each source's queue whose buffers are complete."""
        for source in list(self._held):
            queue = self._held[source]
            while queue and MPI.Request.Testall(queue[0].requests):
                partial = queue.popleft()
                fields = pickle.loads(partial.body, buffers=partial.buffers)
                arrived.append((source, KINDS[partial.tag](*fields)))
            if not queue:
                del self._held[source]

    @property
    def moving(self) -> bool:
        """Whether bytes are under way that need polls to get on: over TCP some 64 KiB each."""
        return bool(self._sends or self._held)

    @property
    def quiet(self) -> bool:
        """Whether no send is under way."""
        with self.lock:
            while self._sends and self._ended(*self._sends[0][:2]):
                self._sends.popleft()
            return not self._sends

    def close(self) -> None:
        """Give up what is still under way; local, for the end of the session."""
        with self.lock:
            for request, rank, _ in self._sends:
                if not self._ended(request, rank):
                    request.Cancel()
                    request.Free()
            self._sends.clear()
            for queue in self._held.values():
                for partial in queue:
                    for request in partial.requests:
                        request.Cancel()
                        request.Wait()
            self._held.clear()


def _any(rank: int) -> bool:
    """Take any rank."""
    return True


def _nothing(rank: int) -> None:
    """Do nothing."""


def _pieces(buffer: memoryview) -> Iterator[memoryview]:
    """Split a buffer into pieces that one MPI call can take."""
    for first in range(0, buffer.nbytes, _PIECE):
        yield buffer[first : first + _PIECE]
