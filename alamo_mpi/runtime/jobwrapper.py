"""What is started in place of a job's program: it starts the program, and stands for it.

Run by ``python -S -I`` on the host of its rank, this imports nothing of the package, and little
else, so as to be there in some 20 ms: `socket` and `signal` would double that, for names that
their C halves have as well.  It connects to the *hub* (`runtime.jobhub`, on the worker that leads
the job), is told what to run, runs it as its child, and passes on what it writes, what it says to
its process manager, and how it ends.  Frames in both directions::

    letter | uint32 length | body

    H hello: token and rank, as text               J job: what to run
    P a piece of the program's PMI lines           P a piece of PMI lines for the program
    I, F MPI_Init, MPI_Finalize was called         K end the program, after so many seconds
    A MPI_Abort was called, with this status
    S it was started, as this process
    N the name of its key-value space
    O, E a piece of its stdout, of its stderr
    X it ended: (status, told by a launcher, error, value)

(left: from here, right: from the hub.)  When the connection ends, so does the program: a job
does not outlive whoever leads it.

*Relaying.*  Started by Comm.Spawn (mode ``relay``) this process holds the connection to the
launcher of the parent program, which ends that whole program when a process of it aborts, or ends
without MPI_Finalize; and Spawn returns only when each process has called MPI_Init.  So the lines
of the real program are passed on, but an abort is kept here, the finalize is said for a program
that did not, and for one that never called MPI_Init a two-line MPI program does all of it.  Under
a nested ``mpiexec`` of MPICH's (mode ``watch``) the same is done, so that the hub decides about
the job, which knows more than that launcher.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import marshal
import os
import select
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["ADDRESS", "HEAD", "OVER", "SPARE", "TOLD", "bound_silence", "frames", "main"]

HEAD = struct.Struct("<cI")
#: Environment variable with token and addresses of the hub.
ADDRESS = "ALAMO_JOB_HUB"

#: In place of the rank, where one after another comes by stdin, with folder and environment; what
#: is said to stdout when one has come, and when the next can.
SPARE, TOLD, OVER = "spare", b"+", b"."
_PIECE = 1 << 16
_CONNECT_S = 5.0
_DRAIN_S = 0.5
_ABORT_S = 0.2
#: Variables by which launchers tell a process its rank, in order of trust.
_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_STAND_IN = "from mpi4py import MPI; MPI.Comm.Get_parent().Disconnect()"


class _IgnoringErrors:
    """Suppress OSError, as `contextlib.suppress` does, which costs 10 ms to import."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, (OSError, AttributeError))


_ignoring_errors = _IgnoringErrors()


def frames(data: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole frames out of what was received: (letter, body)."""
    while len(data) >= HEAD.size:
        letter, length = HEAD.unpack_from(data)
        end = HEAD.size + length
        if len(data) < end:
            return
        body = bytes(data[HEAD.size : end])
        del data[:end]
        yield letter, body


def _connect(addresses: list[str]) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            if address.startswith("@"):
                hub = socket.socket(socket.AF_UNIX)
                hub.connect("\0" + address[1:])
                return hub
            host, _, port = address.rpartition(":")
            family, kind, _, _, place = socket.getaddrinfo(
                host, port, socket.AF_INET, socket.SOCK_STREAM
            )[0]
            hub = socket.socket(family, kind)
            hub.settimeout(_CONNECT_S)
            hub.connect(place)
            hub.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hub.settimeout(None)
            return hub
        except OSError as error:
            problem = error
    raise problem or OSError("no address")


def bound_silence(connected: socket.socket, seconds: float) -> None:
    """Have a connection to another host break when nothing comes through for so long.

    A host that is cut off sends no end of it, so hub and programs would go on for ever.  The
    kernel asks every second; the last option ends it, for want of answers as for data.
    """
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


class _Wrapper:
    """One rank's program, and the three that it has to do with: hub, launcher, streams."""

    def __init__(self, hub: socket.socket) -> None:
        self.hub = hub
        self.received = bytearray()
        self.job: dict[str, Any] = {}
        self.pid = 0
        #: Descriptor -> what to do when it can be read.
        self.watched: dict[int, Callable[[], None]] = {}
        self.kill_at: float | None = None
        #: Whether a launcher has told this process to end.
        self.told = False
        #: Whether this rank's program has ended, and what runs only stands in for it.  Of that
        #: the hub wants one thing, the name by which it finds MPI's shared memory.
        self.silent = False
        self.pmi: socket.socket | None = None
        self.upstream: socket.socket | None = None
        self.initialized = self.finalized = False
        self.poll = select.poll()
        #: Descriptors to give back.
        self.owned: list[int] = []

    # Hub ----------------------------------------------------------------------------------------

    def send(self, letter: bytes, body: bytes = b"") -> None:
        if self.silent and letter != b"N":
            return
        with _ignoring_errors:  # a hub that is gone is noticed by reading
            self.hub.sendall(HEAD.pack(letter, len(body)) + body)

    def await_job(self) -> bool:
        """Wait to be told what to run; false where the hub goes without a word."""
        while not self.job:
            data = self.hub.recv(_PIECE)
            if not data:
                return False
            self.received += data
            self.take_frames()
        return True

    def on_hub(self) -> None:
        try:
            data = self.hub.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            self.unwatch(self.hub.fileno())
            self.end(0.0)
        self.received += data
        self.take_frames()

    def take_frames(self) -> None:
        for letter, body in frames(self.received):
            if letter == b"J":
                self.job = marshal.loads(body)
                bound_silence(self.hub, self.job["silence_s"])
            elif letter == b"P" and self.pmi is not None:
                with _ignoring_errors:
                    self.pmi.sendall(body)
            elif letter == b"K" and not self.silent:
                self.end(float(body))

    # The program --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the program; raises OSError if that cannot be."""
        job = self.job
        environ = {name: value for name, value in os.environ.items() if name != ADDRESS}
        for name, value in job["env"].items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value
        inherited = []
        if job["mode"] == "pmi" or self.upstream is not None:
            self.pmi, theirs = socket.socketpair()
            environ["PMI_FD"] = str(theirs.fileno())
            os.set_inheritable(theirs.fileno(), True)
            inherited.append(theirs.fileno())
            self.watch(self.pmi.fileno(), self.on_pmi)
        argv = list(job["argv"])
        if job["call"] is not None:
            inherited += self.open_call(job["call"])
            argv += [str(fd) for fd in inherited[-2:]]
        out, err = self.stream(b"O"), self.stream(b"E")
        try:
            self.spawn(argv, environ, out, err)
        finally:
            self.send(b"S", str(self.pid).encode())
            for fd in (out, err, *(fd for fd in inherited if fd not in self.owned)):
                os.close(fd)
            if self.pmi is not None:
                theirs.detach()

    def spawn(self, argv: list[str], environ: dict[str, str], out: int, err: int) -> None:
        job = self.job
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ]
        if job["cwd"] is not None:
            os.chdir(job["cwd"])
        if job["cpus"] is not None:
            _keep_to(job["cpus"])
        # Where the program is looked for is said by its own environment, as in a shell.
        os.environ["PATH"] = environ.get("PATH", os.defpath)
        self.pid = os.posix_spawnp(
            argv[0],
            argv,
            environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )

    def open_call(self, call: bytes) -> list[int]:
        """Make the files by which a Python program gets its call and returns its value."""
        source, self.sink = os.memfd_create("call", 0), os.memfd_create("value", 0)
        self.owned.append(self.sink)
        with open(source, "wb", closefd=False) as file:
            file.write(call)
        os.lseek(source, 0, os.SEEK_SET)
        return [source, self.sink]

    def stream(self, letter: bytes) -> int:
        """Return the end of a pipe that the program writes to; what comes out goes to the hub."""
        ours, theirs = os.pipe()
        self.owned.append(ours)
        os.set_blocking(ours, False)

        def on_data() -> None:
            try:
                data = os.read(ours, _PIECE)
            except BlockingIOError:
                return
            if data:
                self.send(letter, data)
            else:
                self.unwatch(ours)

        self.watch(ours, on_data)
        return theirs

    def end(self, grace_s: float) -> None:
        """End the program: ask it, and after `grace_s` do not ask."""
        if self.kill_at is None:
            self.signal(signal.SIGTERM if grace_s else signal.SIGKILL)
        self.kill_at = min(self.kill_at or 1e30, time.monotonic() + grace_s)

    def on_sigterm(self, number: int, frame: object) -> None:
        """Let a program that has called MPI_Abort end by itself, then end it."""
        self.told = True
        self.kill_at = min(self.kill_at or 1e30, time.monotonic() + _ABORT_S)

    def signal(self, number: int) -> None:
        if self.pid:
            with _ignoring_errors:
                os.killpg(self.pid, number)

    # Its process manager ------------------------------------------------------------------------

    def on_pmi(self) -> None:
        """Pass on what the program says: to the hub, or to the launcher that holds us."""
        assert self.pmi is not None
        try:
            data = self.pmi.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            self.unwatch(self.pmi.fileno())
            return
        if self.upstream is None:
            self.send(b"P", data)
            return
        for line in data.splitlines(keepends=True):
            if b"cmd=abort" in line:
                status = line.partition(b"exitcode=")[2].split()
                self.send(b"A", status[0] if status else b"1")
                self.signal(signal.SIGKILL)
                return
            if b"cmd=init" in line and not self.initialized:
                self.initialized = True
                self.send(b"I")
            if b"cmd=finalize" in line:
                self.finalized = True
                self.send(b"F")
            self.upstream.sendall(line)

    def on_upstream(self) -> None:
        assert self.upstream is not None
        data = self.upstream.recv(_PIECE)
        if not data:
            self.unwatch(self.upstream.fileno())
            if not self.finalized:
                self.end(0.0)
        elif self.pmi is not None:
            if b"cmd=my_kvsname" in data:
                self.send(b"N", data.partition(b"kvsname=")[2].split()[0])
            with _ignoring_errors:
                self.pmi.sendall(data)

    def settle_upstream(self) -> None:
        """Say to the launcher what the program should have said."""
        if self.upstream is None:
            return
        if not self.initialized and self.job["mode"] == "relay":
            self.stand_in()
        if self.initialized and not self.finalized:
            with _ignoring_errors:
                self.upstream.sendall(b"cmd=finalize\n")
                self.upstream.recv(_PIECE)

    def stand_in(self) -> None:
        """Run a program that calls MPI_Init, until it ends or the hub has gone."""
        self.job |= {"argv": [sys.executable, "-c", _STAND_IN], "env": {}, "cwd": "/"}
        self.job |= {"cpus": None, "call": None}
        self.silent, self.kill_at = True, None
        with _ignoring_errors:
            self.start()
            self.run()

    # The loop -----------------------------------------------------------------------------------

    def watch(self, fd: int, action: Callable[[], None]) -> None:
        self.watched[fd] = action
        self.poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        if self.watched.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def run(self) -> int:
        """Pass on until the program has ended; return its status."""
        longest, ended = 20, -1
        with _ignoring_errors:  # Linux before 5.3
            ended = os.pidfd_open(self.pid)  # can be read once the program has ended
            self.owned.append(ended)
            self.watch(ended, lambda: None)
            longest = 1000
        self.watch(self.hub.fileno(), self.on_hub)
        if self.upstream is not None:
            self.watch(self.upstream.fileno(), self.on_upstream)
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            wait = longest
            if self.kill_at is not None:
                wait = min(max(int((self.kill_at - time.monotonic()) * 1000), 0) + 1, longest)
            self.turn(wait)
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.signal(signal.SIGKILL)
        # While the program is a zombie, its number names its group and nobody else's.
        self.signal(signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        self.unwatch(ended)
        self.unwatch(self.hub.fileno())
        # What it has written is there; what escaped its group may go on writing.
        until = time.monotonic() + _DRAIN_S
        while self.turn(0) and time.monotonic() < until:
            pass
        return status

    def turn(self, wait_ms: int) -> bool:
        """Do what can be done; return whether there was anything."""
        ready = self.poll.poll(wait_ms)
        for fd, _ in ready:
            action = self.watched.get(fd)
            if action is not None:
                action()
        return bool(ready)

    def close(self) -> None:
        """Give back all descriptors."""
        for each in (self.hub, self.pmi, self.upstream):
            if each is not None:
                each.close()
        for fd in self.owned:
            os.close(fd)

    def value(self) -> bytes:
        """Return what a Python program left behind."""
        sink = getattr(self, "sink", -1)
        if sink < 0:
            return b""
        os.lseek(sink, 0, os.SEEK_SET)
        with open(sink, "rb", closefd=False) as file:
            return file.read()


def _be_killed_sooner() -> None:
    """Have the kernel take the program before a rank when memory runs out, as the warden does."""
    with _ignoring_errors, open("/proc/self/oom_score_adj", "rb+", buffering=0) as file:
        file.write(b"%d" % min(int(file.read()) + 500, 1000))


def _keep_to(cpus: tuple[int, ...]) -> None:
    """Let this process, and the program that it starts, run on these CPUs and on no others."""
    with _ignoring_errors:
        os.sched_setaffinity(0, cpus)
    if os.sched_getaffinity(0) != set(cpus):
        raise OSError(22, "not all of the CPUs in its policy can be had", ", ".join(map(str, cpus)))


def _await_rank() -> str:
    """Wait until the worker that started this tells its next rank, or has gone."""
    try:
        rank, folder, environ = marshal.load(sys.stdin.buffer)
    except EOFError:
        os._exit(0)
    os.write(1, TOLD)
    os.environ.clear()
    os.environ.update(environ)
    with _ignoring_errors:
        os.chdir(folder)
    return str(rank)


def _read(path: str) -> str:
    """Return what is in a file, which may not be there yet."""
    until = time.monotonic() + _CONNECT_S
    while time.monotonic() < until:
        with _ignoring_errors, open(path) as file:
            if text := file.read():
                return text
        time.sleep(0.005)
    raise SystemExit(f"{path} is not there")


def main() -> None:
    """Stand for the program of one rank, or of a worker's ranks of one job after another."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _be_killed_sooner()
    if sys.argv[1] != SPARE:
        _stand(sys.argv[1])
        os._exit(0)  # nothing is left to be done, and whoever started this waits for its end
    cpus = os.sched_getaffinity(0)
    while True:
        _stand(_await_rank())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with _ignoring_errors:
            os.sched_setaffinity(0, cpus)
        os.write(1, OVER)


def _stand(given: str) -> None:
    """Connect to the hub of a job, and run the program of a rank until all is over."""
    told = os.environ.get(ADDRESS)
    if told is None:
        told = _read(sys.argv[2])
    token, *addresses = told.split()
    rank = int(given if given != "-" else next(os.environ[n] for n in _RANKS if n in os.environ))
    wrapper = _Wrapper(_connect(addresses))
    signal.signal(signal.SIGTERM, wrapper.on_sigterm)
    wrapper.send(b"H", f"{token} {rank}".encode())
    if wrapper.await_job():
        if wrapper.job["mode"] in ("relay", "watch"):
            wrapper.upstream = socket.socket(fileno=int(os.environ["PMI_FD"]))
        status, problem = 127, None
        try:
            wrapper.start()
            status = wrapper.run()
        except OSError as error:
            problem = (error.errno or 0, error.strerror or str(error), error.filename)
        wrapper.send(b"X", marshal.dumps((status, wrapper.told, problem, wrapper.value())))
        wrapper.settle_upstream()
        # The hub says when to go: a launcher may end the others once one process has; and closing
        # with unread bytes would reset the connection, and lose what is under way.
        with _ignoring_errors:
            while wrapper.hub.recv(_PIECE):
                pass
    wrapper.close()
