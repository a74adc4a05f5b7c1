"""What is started in place of a rank of MPICH: it starts the rank, and its launcher hears no loss.

``python -I -S shield.py PROGRAM ARGUMENT...``, made part of the command line by ``alamo-mpi run
--survive``.  MPICH's launcher ends all ranks, or its own process on that host falls over, once one
has ended without MPI_Finalize.  So this process holds the connection to the launcher (``PMI_FD``),
passes on what the rank and the launcher say to each other, and says the rank's finalize for it.
It knows nothing of messages between ranks: that nobody sends to a rank that was lost is seen to by
`alamo_mpi.mpi.survival`.

Until the rank has said, by one byte into a pipe (`alamo_mpi.mpi.announced.COVER`), that the others
could go on without it, all is as without a shield: others wait for it in collectives, and the
launcher must end them.

Imports nothing of the package, nor of the standard library what it can do without: it delays the
start of each rank.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_PIECE = 1 << 16
_FINALIZE = b"cmd=finalize"
#: What a rank says to a launcher of MPICH's own; Slurm's is told in another language (PMI-2), and
#: lets ranks end as they like.
_HYDRAS = b"cmd=init "
#: So long the witness of the host has for asking how a rank has ended, of which a zombie tells.
_ASKED_S = 0.1
#: The program's process group gets these signals too.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class _IgnoringErrors:
    """Suppress OSError, as `contextlib.suppress` does, which costs 10 ms to import."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


_ignoring_errors = _IgnoringErrors()


class _Shield:
    """The rank, its launcher, and what passes between them."""

    def __init__(self, launcher: socket.socket | None) -> None:
        self.launcher = launcher
        self.rank: socket.socket | None = None
        #: What the rank has said last, as far as that matters.
        self.said = b""
        self.hydra = self.finalized = False
        self.pid = 0

    def start(self, program: list[str], environ: dict[str, str]) -> int:
        """Start the rank; return a pipe that is written to once it is covered."""
        covered, cover = os.pipe()
        os.set_blocking(covered, False)  # what the rank has forked may hold the other end
        inherited = [cover]
        environ = {**environ, "ALAMO_COVER": str(cover), "ALAMO_SURVIVE": "1"}
        if self.launcher is not None:
            self.rank, theirs = socket.socketpair()
            inherited.append(theirs.detach())
            environ["PMI_FD"] = str(inherited[-1])
            os.set_inheritable(self.launcher.fileno(), False)
        for fd in inherited:
            os.set_inheritable(fd, True)
        try:
            # Python ignores these, and would hand that down.
            default = [signal.SIGPIPE, signal.SIGXFSZ]
            self.pid = os.posix_spawnp(program[0], program, environ, setsigdef=default)
        finally:
            for fd in inherited:
                os.close(fd)
        return covered

    def run(self) -> None:
        """Pass on what is said until the rank has ended; it stays a zombie."""
        poll = select.poll()
        ended = os.pidfd_open(self.pid)
        poll.register(ended, select.POLLIN)
        actions: dict[int, Callable[[], bool]] = {}
        if self.launcher is not None and self.rank is not None:
            actions[self.launcher.fileno()] = self.from_launcher
            actions[self.rank.fileno()] = self.from_rank
        for fd in actions:
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            # What was said before the end is passed on, too.
            if ready == [ended]:
                return
            for fd in ready:
                if fd != ended and not actions[fd]():
                    poll.unregister(fd)

    def from_launcher(self) -> bool:
        """Pass on what the launcher says; tell whether more can come."""
        assert self.launcher is not None
        assert self.rank is not None
        data = b""
        with _ignoring_errors:
            data = self.launcher.recv(_PIECE)
        if not data and not self.finalized:
            os.kill(self.pid, signal.SIGKILL)  # nobody else would end a rank without a launcher
        _send(self.rank, data)
        return bool(data)

    def from_rank(self) -> bool:
        """Pass on what the rank says; tell whether more can come."""
        assert self.launcher is not None
        assert self.rank is not None
        try:
            data = self.rank.recv(_PIECE)
        except OSError:
            return False
        self.said += data
        self.hydra = self.hydra or _HYDRAS in self.said
        self.finalized = self.finalized or _FINALIZE in self.said
        self.said = self.said[-len(_FINALIZE) :]
        _send(self.launcher, data)
        return bool(data)

    def finalize(self) -> None:
        """Say to the launcher what the rank should have said at its end."""
        if self.hydra and not self.finalized and self.launcher is not None:
            _send(self.launcher, _FINALIZE + b"\n")
            with _ignoring_errors:
                self.launcher.recv(_PIECE)


def _send(to: socket.socket, data: bytes) -> None:
    with _ignoring_errors:  # that side has ended, which is seen elsewhere
        to.sendall(data)


def main() -> None:
    """Stand before one rank; does not return."""
    environ = dict(os.environ)
    launcher = None
    if environ.get("PMI_FD", "").isdigit():
        launcher = socket.socket(fileno=int(environ["PMI_FD"]))
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: None)
    shield = _Shield(launcher)
    program = sys.argv[1:]
    try:
        covered = shield.start(program, environ)
    except OSError as error:
        os.write(2, f"alamo_mpi: {program[0]} cannot be started: {error.strerror}.\n".encode())
        os._exit(127)
    shield.run()
    ended = os.waitid(os.P_PID, shield.pid, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_status:
        time.sleep(_ASKED_S)
    status = os.waitstatus_to_exitcode(os.waitpid(shield.pid, 0)[1])
    said = b""
    with _ignoring_errors:
        said = os.read(covered, 1)
    if said:
        shield.finalize()
        if environ.get("PMI_RANK", environ.get("SLURM_PROCID")) != "0":
            status = 0  # the program ends with that of rank 0
    os._exit(status if status >= 0 else 128 - status)


main()
