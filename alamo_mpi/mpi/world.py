"""The ranks that one program runs on: communicators of our own, host names, thread level.

Nothing but this file and the session above it touches ``MPI.COMM_WORLD``.  Messages and raw
buffers travel on two duplicates, so that neither can match what the host program sends, nor each
other.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from mpi4py import MPI

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.announced import survives
from alamo_mpi.mpi.lastwords import drain, tell_error

__all__ = ["THREAD_LEVELS", "Communicator", "World", "unlink_shared_memory"]

#: For annotations in the rooms that do not import mpi4py.
Communicator: TypeAlias = MPI.Intracomm

THREAD_LEVELS = {
    MPI.THREAD_SINGLE: "MPI_THREAD_SINGLE",
    MPI.THREAD_FUNNELED: "MPI_THREAD_FUNNELED",
    MPI.THREAD_SERIALIZED: "MPI_THREAD_SERIALIZED",
    MPI.THREAD_MULTIPLE: "MPI_THREAD_MULTIPLE",
}


class World:
    """Duplicate a communicator twice and learn who is where; collective over it.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that belong together; ``MPI.COMM_WORLD`` by default.  It stays the caller's.
    about : object, optional
        Something that each rank tells all others with its host's name.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        Our duplicate for messages.
    bulk : mpi4py.MPI.Intracomm
        Our duplicate for raw buffers.
    rank, size : int
        This process in ``comm``, and the number of processes.
    hosts : tuple of str
        Host name by rank.
    host : str
        The name of this rank's host.
    told : tuple of object
        What each rank has told, by rank.
    one_node : bool
        Whether all ranks share memory; else operations on another node's memory wait until a rank
        there polls.
    local_rank : int
        How many ranks below this one share its host.

    Raises
    ------
    LaunchError
        On every rank, when MPI does not give ``MPI_THREAD_MULTIPLE``, or has been finalized.
    TypeError
        When ``comm`` is not an intracommunicator.
    ValueError
        When ``comm`` is ``MPI.COMM_NULL``.

    Notes
    -----
    Costs two ``MPI_Comm_dup`` and one allgather of the host names.
    """

    def __init__(self, comm: MPI.Intracomm | None = None, about: object = None) -> None:
        _check_library()
        parent = MPI.COMM_WORLD if comm is None else comm
        _check_communicator(parent)
        _check_thread_level()
        self.comm = parent.Dup()
        self.bulk = parent.Dup()
        for own in (self.comm, self.bulk):
            own.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank: int = self.comm.Get_rank()
        self.size: int = self.comm.Get_size()
        told = self.comm.allgather((MPI.Get_processor_name(), about))
        self.hosts: tuple[str, ...] = tuple(host for host, _ in told)
        self.told: tuple[object, ...] = tuple(more for _, more in told)
        self.host: str = self.hosts[self.rank]
        neighbours = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.one_node: bool = neighbours.Get_size() == self.size
        neighbours.Free()
        self.local_rank: int = self.hosts[: self.rank].count(self.host)
        #: Ranks that were lost.
        self.lost: set[int] = set()
        #: Whether each rank ends by itself: where one may be lost and not all know it yet, nothing
        #: collective can be done, MPI_Finalize included.
        self.ends_apart = self.size > 1 and survives()
        self._freed = False
        self._before_free: list[Callable[[], None]] = []
        self._before_abort: list[Callable[[], None]] = []

    def abort(self, status: int) -> NoReturn:
        """End every process of the MPI job with `status`, at once; local, does not return.

        Parameters
        ----------
        status : int
            The exit status of the job, 1 to 255.

        Notes
        -----
        Python's streams are flushed first, since MPI ends the process without asking Python, and
        the launcher gets the time to read them.  It ends the whole job, not only the ranks of this
        world.
        """
        for callback in self._before_abort:
            callback()
        flush_streams()
        drain()
        unlink_shared_memory()
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # MPICH's returns while the launcher gathers its strength

    def fail(self, error: BaseException) -> NoReturn:
        """Tell an error in one piece, then abort with status 1; local, does not return."""
        tell_error(error)
        self.abort(1)

    def finalize(self) -> None:
        """Call MPI_Finalize, if nobody has; collective over ``MPI.COMM_WORLD``."""
        _finalize()

    def leave(self, status: int) -> NoReturn:
        """End this process alone, at once, without MPI_Finalize; local, does not return."""
        flush_streams()
        os._exit(status)

    def on_finalize(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once when MPI_Finalize begins, all of MPI still usable; local.

        Returns
        -------
        callable
            Cancels it: without a call of `callback`, and may be called again.

        References
        ----------
        MPI-4.1, "Allowing User Functions at MPI Finalization": attributes of ``MPI_COMM_SELF``
        are deleted before anything else.
        """
        armed = [callback]

        def deleted(comm: MPI.Comm, keyval: int, value: object) -> None:
            while armed:
                armed.pop()()

        keyval = MPI.Comm.Create_keyval(delete_fn=deleted)
        MPI.COMM_SELF.Set_attr(keyval, True)

        def cancel() -> None:
            nonlocal keyval
            if armed and not MPI.Is_finalized():
                armed.clear()
                MPI.COMM_SELF.Delete_attr(keyval)
                keyval = MPI.Comm.Free_keyval(keyval)

        return cancel

    def before_free(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `free` begins, the latest first; it may be collective."""
        self._before_free.append(callback)

    def before_abort(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `abort` begins; it must neither wait nor fail."""
        self._before_abort.append(callback)

    def free(self) -> None:
        """Give both communicators back; collective, may be called again."""
        if self._freed or MPI.Is_finalized() or self.ends_apart:
            return
        self._freed = True
        while self._before_free:
            self._before_free.pop()()
        self.comm.Free()
        self.bulk.Free()


def flush_streams() -> None:
    """Flush Python's standard streams, whatever state they are in; local."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        # A closed, missing or broken stream must not keep the job from ending.
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()


def unlink_shared_memory() -> None:
    """Remove the names of the shared memory that MPI has mapped here; local.

    Notes
    -----
    MPICH removes its ``/dev/shm/mpich_shm_*`` in ``MPI_Finalize`` alone, so that each aborted job
    would leave some megabytes there until the next boot.  Open MPI leaves ``sm_segment.*`` behind
    after every program that was started without its launcher, however it ended.  Such a name is
    of no use once all ranks of the host have mapped it: call this after a collective of them.
    (Open MPI's ranks map those of others later, but for those its launcher cleans up.)
    ``MPI_Finalize`` does not mind.
    """
    try:
        with open("/proc/self/maps", errors="replace") as file:
            maps = file.read()
    except OSError:
        return
    alone = MPI.COMM_WORLD.Get_size() == 1
    pattern = r"/dev/shm/(?:mpich_shm_|sm_segment\.)\S+" if alone else r"/dev/shm/mpich_shm_\S+"
    for name in set(re.findall(pattern, maps)):
        with contextlib.suppress(OSError):
            os.unlink(name)


def _check_library() -> None:
    if MPI.Is_finalized():
        raise LaunchError(
            "MPI has been finalized in this process, so alamo_mpi cannot start: "
            "call MPI.Finalize() after its last use, or leave that to mpi4py."
        )
    if not MPI.Is_initialized():
        # The program has set mpi4py.rc.initialize = False; then mpi4py does not finalize either.
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        atexit.register(_finalize)


def _finalize() -> None:
    if not MPI.Is_finalized():
        MPI.Finalize()


def _check_communicator(comm: object) -> None:
    # MPI.COMM_NULL is no Intracomm, and an empty result of Split is.
    if isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
        raise ValueError(
            "the communicator is MPI.COMM_NULL: only the ranks that belong to a communicator "
            "may enter alamo_mpi with it"
        )
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"an MPI intracommunicator is needed, not {type(comm).__name__}")


def _check_thread_level() -> None:
    given = MPI.Query_thread()
    if given < MPI.THREAD_MULTIPLE:
        raise LaunchError(
            f"alamo_mpi needs MPI_THREAD_MULTIPLE, but MPI was started with "
            f"{THREAD_LEVELS.get(given, given)}. Ask for it before MPI starts: leave "
            f"mpi4py.rc.thread_level at 'multiple' (its default) and unset "
            f"MPI4PY_RC_THREAD_LEVEL, or call MPI_Init_thread(MPI_THREAD_MULTIPLE) in the host "
            f"program; an MPI that was built without threads cannot give it."
        )
