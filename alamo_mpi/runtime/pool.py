"""The memory pool of a program: one window over all ranks, and this rank's manager of blocks.

Made once, collectively, when the program's ranks meet; everything afterwards is local.  How much
memory each rank brings is a setting, ``ALAMO_POOL_BYTES``; the default leaves half of ``/dev/shm``
to others.  Memory is committed when it is first touched, so the size costs nothing by itself, but
past the room in ``/dev/shm`` the kernel ends a process by SIGBUS: that is why it is checked first.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from alamo_mpi.core.blocks import Allocator
from alamo_mpi.core.layout import MAX_ARENA_BYTES, MAX_RANKS, UNIT
from alamo_mpi.core.messages import Wake
from alamo_mpi.errors import DDictError, LaunchError
from alamo_mpi.mpi.library import family_of_library
from alamo_mpi.mpi.window import MpiWindow
from alamo_mpi.runtime import home
from alamo_mpi.runtime.home import SETTING
from alamo_mpi.runtime.witnessed import mark

if TYPE_CHECKING:
    from alamo_mpi.core.dictionary import Descriptor, Dictionary
    from alamo_mpi.core.fifo import QueueDescriptor
    from alamo_mpi.core.keyhash import Encoded
    from alamo_mpi.core.table import Entry
    from alamo_mpi.mpi.transport import Transport
    from alamo_mpi.mpi.world import Communicator, World
    from alamo_mpi.runtime.leftqueues import LeftQueues
    from alamo_mpi.runtime.queueclient import QueueClient

__all__ = ["SETTING", "Pool", "abandon", "current", "exists", "lose", "open_pool", "tie"]

_DEFAULT_NBYTES = 2 << 30
#: Where MPI fills the memory as it makes the window: Open MPI with ranks on several hosts.  2 GiB
#: would be taken from the host at once, and take seconds.
_FILLED_NBYTES = 256 << 20
_LEAST_NBYTES = 1 << 20
_SHM = "/dev/shm"

#: The pool of this process, whatever its home is (`runtime.home`).
_current: Pool | None = None


def open_pool(world: World) -> Pool:
    """Make the pool of a program, which ends with its world; collective over the world."""
    pool = Pool(world.comm, world.hosts)
    world.before_free(pool.close)
    return pool


def exists() -> bool:
    """Tell whether this process has a pool; local."""
    return _current is not None


def current() -> Pool:
    """Return the pool of this process; local.

    Raises
    ------
    DDictError
        There is none: the runtime has not been started in this process.
    """
    if _current is None:
        raise DDictError(
            "There is no memory pool in this process: start the runtime first, for example by "
            "alamo_mpi.init()."
        )
    return _current


def abandon() -> None:
    """Forget the pool in a forked child, which must leave its parent's MPI alone; local."""
    global _current
    _current = None


def lose(rank: int) -> None:
    """Note that a rank was lost, and with it what lies in its memory; local."""
    if _current is not None:
        _current.window.lose(rank)


def tie(transport: Transport) -> None:
    """Say how a rank of another node is made to look often; local, of no effect without a pool.

    And whether a message is safe, which the memory tells.
    """
    if _current is not None:
        window = _current.window
        window.wake = lambda rank: transport.send(rank, Wake())
        transport.reaches = window.reaches
        window.wait_openly(mark().away)


class Pool:
    """Make the pool; collective over `comm`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Stays the caller's, and must outlive the pool.
    hosts : sequence of str
        Host name by rank.
    nbytes : int, optional
        Bytes each rank brings; by default as ``ALAMO_POOL_BYTES`` says, else 2 GiB or an equal
        part of half of what ``/dev/shm`` has free, whichever is less; with Open MPI on several
        hosts 256 MiB at most.

    Attributes
    ----------
    window : MpiWindow
    allocator : Allocator
    lock : threading.RLock
        Held by whoever changes anything in the pool.
    hosts : tuple of str
    rank, size : int

    Raises
    ------
    LaunchError
        On every rank, when the memory asked for is not there; says the numbers.
    """

    def __init__(
        self, comm: Communicator, hosts: tuple[str, ...], nbytes: int | None = None
    ) -> None:
        global _current
        self.hosts = hosts
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.lock = threading.RLock()
        neighbours = hosts.count(hosts[self.rank])
        wish = _wish(nbytes, neighbours, _default_nbytes(hosts))
        # Everybody's view, so that all refuse or none does.
        wishes: list[int | str] = comm.allgather(wish)
        errors = [each for each in wishes if isinstance(each, str)]
        if errors:
            raise LaunchError(errors[0], rank=self.rank, host=hosts[self.rank])
        if self.size > MAX_RANKS:
            raise LaunchError(f"The memory pool serves at most {MAX_RANKS} ranks.")
        self.window = MpiWindow(comm, min(each for each in wishes if isinstance(each, int)))
        self.allocator = Allocator(self.window, setting=SETTING)
        self.allocator.format()
        self._numbers = itertools.count(1)
        #: This process's view of each dictionary that it uses, by uid.
        self.tables: weakref.WeakValueDictionary[int, Dictionary] = weakref.WeakValueDictionary()
        comm.Barrier()
        _current = self
        home.enter(self)

    def next_number(self) -> int:
        """Return a number that this rank has not given before."""
        return next(self._numbers)

    def close(self) -> None:
        """Give the memory back; collective, may be called again."""
        global _current
        if _current is self:
            _current = None
        home.leave(self)
        with self.lock:
            self.window.free()

    # -- as a home ----------------------------------------------------------
    # What these need is imported by the first dictionary or queue: programs start faster without.

    def make_dictionary(self, total_nbytes: int | None) -> Descriptor:
        """Make an empty dictionary; local.

        Raises
        ------
        DDictFullError
        """
        from alamo_mpi.core.dictionary import create

        with self.lock:
            return create(self.window, self.allocator, self.next_number(), total_nbytes)

    def dictionary(self, descriptor: Descriptor) -> Dictionary:
        """Make a client of a dictionary; local."""
        from alamo_mpi.core.dictionary import Dictionary

        table = Dictionary(self.window, self.allocator, descriptor)
        self.tables[descriptor.uid] = table
        return table

    def wait_for_change(
        self, store: home.Store, encoded: Encoded, known: int, limit_s: float | None
    ) -> Entry | None:
        """Wait until a key has a value that is not the known one; blocks, and makes MPI progress.

        Parameters
        ----------
        store : Dictionary
        encoded
            The key.
        known : int
            Pointer word of the value that is not to be returned; 0 for none.
        limit_s : float or None
            Looks once more when the time is over, then returns None.
        """
        from alamo_mpi.runtime.waiting import wait_for

        table = cast("Dictionary", store)
        data, key_hash = encoded

        def look() -> Entry | None:
            if table.pointer(key_hash, data) in (0, known):
                return None  # without reading the value
            entry = table.find(key_hash, data)
            return None if entry is None or entry.pointer == known else entry

        return wait_for(look, self.window, limit_s)

    def make_queue(self, maxsize: int, near: int) -> QueueDescriptor:
        """Make an empty queue; local, or one write to rank `near`.

        Raises
        ------
        QueueMemoryError
        """
        from alamo_mpi.runtime.queueclient import make_queue

        return make_queue(self, maxsize, near)

    @functools.cached_property
    def left(self) -> LeftQueues:
        """The queues that were made here, for a warning at the end of the program."""
        from alamo_mpi.runtime.leftqueues import LeftQueues

        return LeftQueues(self)

    def queue(self, descriptor: QueueDescriptor) -> QueueClient:
        """Make a client of a queue; local."""
        from alamo_mpi.runtime.queueclient import QueueClient

        return QueueClient(self, descriptor)

    def publish(self) -> None:
        """Write this rank's figures where every client can read them; local."""
        with self.lock:
            self.allocator.publish()


def _default_nbytes(hosts: Sequence[str]) -> int:
    several = any(host != hosts[0] for host in hosts)
    return _FILLED_NBYTES if several and family_of_library() == "Open MPI" else _DEFAULT_NBYTES


def _wish(nbytes: int | None, neighbours: int, default_nbytes: int) -> int | str:
    """Return how many bytes this rank can bring, or why it cannot."""
    text = os.environ.get(SETTING)
    if nbytes is None and text:
        try:
            nbytes = int(text)
        except ValueError:
            return f"{SETTING}={text!r} is not a number of bytes."
    room = _shm_room()
    if nbytes is None:
        nbytes = min(default_nbytes, room // 2 // neighbours)
        if nbytes < _LEAST_NBYTES:
            return (
                f"{_SHM} has {room} bytes free for {neighbours} ranks on this host: too little "
                f"for the memory pool ({_LEAST_NBYTES} bytes a rank, and as much again for "
                f"others). Make it larger (mount -o remount,size=..., docker --shm-size), or "
                f"set {SETTING}."
            )
    if not _LEAST_NBYTES // 16 <= nbytes <= MAX_ARENA_BYTES:
        return (
            f"{SETTING}: {nbytes} bytes a rank; it must be {_LEAST_NBYTES // 16} to "
            f"{MAX_ARENA_BYTES}."
        )
    if nbytes * neighbours > room:
        return (
            f"The memory pool was to have {nbytes} bytes for each of {neighbours} ranks on this "
            f"host ({SETTING}), but {_SHM} has {room} bytes free. Lower {SETTING}, or make "
            f"{_SHM} larger (mount -o remount,size=..., docker --shm-size)."
        )
    return nbytes // UNIT * UNIT


def _shm_room() -> int:
    """Return the free bytes of the file system where MPI keeps memory shared on a host."""
    try:
        status = os.statvfs(_SHM)
    except OSError:
        return MAX_ARENA_BYTES  # not Linux: MPI keeps it elsewhere
    return status.f_bavail * status.f_frsize
