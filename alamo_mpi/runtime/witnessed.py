"""A rank's side of its host's witness; `runtime.witness` says what that is for."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import time
from array import array
from collections.abc import MutableSequence, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.announced import SURVIVE, survives
from alamo_mpi.runtime.witnesspage import (
    ARMED,
    AWAY,
    BELL,
    BUSY,
    HEARD,
    IDLE,
    LEAVING,
    RUNNING,
    STATE,
    TASK,
    TOKEN,
    Page,
)

if TYPE_CHECKING:
    import subprocess

    from alamo_mpi.mpi.world import World

__all__ = [
    "BUSY",
    "IDLE",
    "RUNNING",
    "TASK",
    "Mark",
    "attend",
    "attended",
    "last_task",
    "mark",
]

logger = logging.getLogger(__name__)

#: So long it may take to reach rank 0's host.
_REACHED_S = 3.0
#: So long a witness is waited for.
_UP_S = 1.0
#: From here on is the descriptor that tells the end of this process.  The table of descriptors
#: that a process begins with has 64 places, and growing it takes some 30 ms once MPI has threads:
#: the kernel waits until no core reads the old one.
_HIGH_FD = 56
#: The program of the witness.  Nothing of the user's is imported there, nor MPI.  It forks before
#: it imports anything: the rank waits for the first process alone.
_PROGRAM = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from alamo_mpi.runtime.witness import main\n"
    "main(sys.argv[2:])\n"
)
_ROOT = str(Path(__file__).parents[2])


class Mark:
    """What this rank leaves for the witness of its host; of no effect where there is none.

    Attributes
    ----------
    slot : sequence of int
        The words of this rank.  What runs is stored there by whoever runs it: ``slot[TASK]`` and
        ``slot[RUNNING]``; and ``slot[BELL]`` by whoever naps.
    page : Page or None
        The whole of it.
    """

    def __init__(self, page: Page | None = None, ranks: Sequence[int] = (), rank: int = 0) -> None:
        self.page = page
        self._at = 0
        self.slot: memoryview | array[int] = array("Q", bytes(64))
        self._slots: dict[int, memoryview] = {}
        if page is not None:
            self._at = ranks.index(rank)
            self._slots = {each: page.slot(at) for at, each in enumerate(ranks)}
            self.slot = self._slots[rank]

    @property
    def away(self) -> MutableSequence[int]:
        """The word of the slot that says whom MPI lets this rank wait for."""
        return cast("MutableSequence[int]", self.slot[AWAY : AWAY + 1])

    def arm(self) -> None:
        """Have the end of this rank noticed."""
        self.slot[STATE] = ARMED

    def wait_until_watched(self) -> None:
        """Wait until the witness watches; before the first task, by which a rank could be lost.

        Nearly always it does by then.  One that does not come up is waited for once.
        """
        deadline = time.monotonic() + _UP_S
        while self.page is not None and not self.page.watched and time.monotonic() < deadline:
            time.sleep(5e-4)

    def note_lost(self, ranks: set[int]) -> None:
        """Add to the lost ranks those of which the witness knows."""
        if self.page is not None and self.page.nlost > len(ranks):
            ranks |= self.page.lost()

    def take_bell(self, rank: int) -> int:
        """Return the name of the bell of a rank that naps, and take it off; 0 if there is none."""
        slot = self._slots.get(rank)
        if slot is None or not slot[BELL]:
            return 0
        name = slot[BELL]
        slot[BELL] = 0
        return name

    def leave(self) -> None:
        """Say that this rank's end is nothing to be told."""
        self.slot[STATE] = LEAVING

    def end(self) -> None:
        """Say that the program is at its end, or that this rank says itself why it ends it."""
        self.leave()
        if self.page is not None:
            self.page.end()

    def name(self, function: object) -> None:
        """Store the name of the function that runs."""
        if self.page is not None:
            name = getattr(function, "__name__", "") or type(function).__name__
            self.page.write_name(self._at, name)


_none = Mark()
_current = _none
_starting: subprocess.Popen[bytes] | None = None


def mark() -> Mark:
    """Return what this rank leaves; local."""
    return _current


def last_task(rank: int) -> int | None:
    """Return the uid of the last task that a lost rank has begun; None if that is not known.

    MPI may tell of a loss before the witness does, which is then waited for, a second at most.
    """
    page = _current.page
    if page is None:
        return None
    deadline = time.monotonic() + _UP_S
    while rank not in page.lost() and time.monotonic() < deadline:
        time.sleep(1e-3)
    return page.last_task(rank)


def attended() -> None:
    """Wait until the witness is nobody's child; local, and a few milliseconds after `attend`."""
    global _starting
    if _starting is not None:
        _starting.wait()
        _starting = None


def attend(world: World) -> None:
    """Have somebody notice when a rank is lost; collective over the world.

    `attended` is to be called before the user's code runs.

    Raises
    ------
    LaunchError
        On every rank, where the program is to go on without lost ranks, and some would not hear of
        them.

    Notes
    -----
    A rank that cannot reach its host's page (another user, another container) is not watched.
    """
    global _current
    if world.size == 1 or not hasattr(os, "pidfd_open"):
        return
    mine = [rank for rank, host in enumerate(world.hosts) if host == world.host]
    starts = world.rank == mine[0]
    fds: list[int] = []
    ends: list[int] = []
    if starts:
        fds.append(os.memfd_create("alamo-witness"))
        os.ftruncate(fds[0], Page.nbytes(len(mine), world.size))
        for _ in mine:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            ends.append(reading)
            fds.append(writing)
    first = world.rank == 0 and len(mine) < world.size
    server = socket.create_server(("", 0)) if first else None
    court = (server.getsockname()[1], os.urandom(16).hex()) if server is not None else None
    told = world.comm.allgather((os.getpid(), fds, court))
    pids, offered = [told[rank][0] for rank in mine], told[mine[0]][1]
    at = mine.index(world.rank)
    problem = ""
    try:
        page = _mapped(_opened(pids[0], offered[0]), len(mine), world.size)
        _hold(_opened(pids[0], offered[1 + at], os.O_WRONLY))
    except (OSError, ValueError) as error:
        problem = f"Rank {world.rank} cannot reach the witness of its host ({error})"
        logger.debug("%s", problem)
    else:
        _current = Mark(page, mine, world.rank)
        _current.arm()
        world.before_abort(_current.end)
    if survives() and starts and world.host != world.hosts[0] and not problem:
        problem = _no_way_to(world.hosts[0], told[0][2][0])
    # Until all have opened what they need; it goes by the name that it has in this process.
    problems = list(filter(None, world.comm.allgather(problem)))
    if survives() and problems:
        raise LaunchError(
            f"{problems[0]}, so that nobody would hear of a loss there, as {SURVIVE} needs: start "
            "the program without --survive."
        )
    if starts:
        triples = [f"{rank}:{pid}:{end}" for rank, pid, end in zip(mine, pids, ends, strict=True)]
        try:
            _start([fds[0], *ends], world, told[0][2], server, triples)
        finally:
            for fd in (*fds, *ends):
                os.close(fd)
            if server is not None:
                server.close()


def _no_way_to(host: str, port: int) -> str:
    """Return why a port of rank 0's host cannot be reached; empty if it can."""
    try:
        socket.create_connection((host, port), timeout=_REACHED_S).close()
    except OSError as error:
        return f"{socket.gethostname()} cannot reach {host} by TCP ({error})"
    return ""


def _opened(pid: int, fd: int, flags: int = os.O_RDWR) -> int:
    """Open what a process of this host has open."""
    return os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC)


def _mapped(fd: int, nranks: int, nworld: int) -> Page:
    try:
        return Page(fd, nranks, nworld)
    finally:
        os.close(fd)


def _hold(pipe: int) -> None:
    """Keep a pipe open as long as this process lives.

    Under a high number: descriptors are closed from the highest down, and the witness is to see
    the end of this one before the launcher sees that of its own.
    """
    fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    os.close(pipe)


def _start(
    fds: list[int],
    world: World,
    court: tuple[int, str] | None,
    server: socket.socket | None,
    triples: list[str],
) -> None:
    """Start the witness."""
    import subprocess  # on one rank of a host only

    global _starting

    prompt = "0" if "OMPI_COMM_WORLD_SIZE" in os.environ else "1"
    place, token = "", ""
    if court is not None:
        place, token = f"{world.hosts[0]}:{court[0]}", court[1]
    if server is not None:
        place = str(server.fileno())
        fds.append(server.fileno())
    # Inherited: what comes before it can listen is kept for it, and is no traceback of its own.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        _starting = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                _PROGRAM,
                _ROOT,
                str(fds[0]),
                world.host,
                str(world.size),
                prompt,
                place,
                *triples,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={**scrubbed(os.environ), TOKEN: token, SURVIVE: "1" if survives() else ""},
            pass_fds=fds,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
