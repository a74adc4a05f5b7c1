"""The process that starts the programs of `process` tasks for one rank, and outlives none of them.

Run as a script by `runtime.processes`, with the standard library only.  Programs are children of
this process and not of the rank, because of what the rank cannot do:

- it is a *subreaper*: what a program leaves running when it exits becomes a child of this process,
  which buries it.  In the rank that would take the exit statuses of user code's own children.
- when the rank is gone, however that happened, it ends everything below it: the programs, what
  they started, and what has left their process groups.
- it is small and has one thread, so that starting a program costs no copy of the rank's page
  tables, and forks nothing that has registered memory with a network.  An ordinary program is not
  even forked but started by `os.posix_spawn`, which is a fourth cheaper than `subprocess.Popen`.

*Protocol.*  One Unix socket, packets, each a pickled tuple:

==============================  ======  ==========================================================
packet                          from    meaning
==============================  ======  ==========================================================
("run", number, request)        rank    start a program; descriptors for its stdin, stdout and
                                        stderr come along, and a fourth with the request itself
                                        where that is too large for a packet
("end", number, grace_s)        rank    SIGTERM to its process group, SIGKILL after the grace
("failed", number, exception)   warden  it was not started
("started", number, pid)        warden  it was; told on a report only
("ended", number, ending)       warden  it has ended, and nothing of its process group runs; an
                                        `Ending` as a plain tuple
==============================  ======  ==========================================================

A request has the keyword arguments of `subprocess.Popen`, but "cpus" (a list, or None) and
"preexec" (a pickle, ``sys.path`` to load it with; or None); "env" is None for that of the request
before.  With "report" true, the last descriptor that comes along is a socket: what the warden has
to say of this program it says there, and closes it, so that many programs can be waited for at a
time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

_SET_CHILD_SUBREAPER = 36
_SET_PDEATHSIG = 1
#: The signal that says that the rank may be gone.
_ORPHANED = signal.SIGUSR1
#: Between SIGTERM and SIGKILL for what is left when the rank is gone.
_LAST_GRACE_S = 0.5
#: A process that SIGKILL does not end in this time (it waits for a disk) is not waited for.
_MOURNING_S = 2.0
_LARGEST_PACKET = 1 << 17
#: Added to the score by which the kernel, when memory runs out, picks what it kills: a program is
#: as good as half of the memory larger than a rank, and than this process.
_SOONER = 500
_SCORE = "/proc/self/oom_score_adj"
_HIGHEST_SCORE = 1000
#: stdin, stdout, stderr, a large request, a report.
_MOST_FDS = 5
#: What a Python ignores, and a program should not.
_RESTORED = [getattr(signal, n) for n in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signal, n)]
#: What of a request `os.posix_spawn` cannot do otherwise.
_ORDINARY = {
    "executable": None,
    "close_fds": True,
    "shell": False,
    "restore_signals": True,
    "group": None,
    "extra_groups": None,
    "user": None,
    "umask": -1,
}


class Ending(NamedTuple):
    """How a program has ended."""

    #: As of `subprocess.Popen.returncode`.
    status: int
    #: Most memory that it had at a time; 0 where that is not known.
    peak_nbytes: int


class KilledSooner:
    """Have what is started in a ``with`` block killed before others when memory runs out.

    The score of this process is raised, which the program inherits, and taken back: neither needs
    a privilege.  To write the program's own score would be too late for its first children.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._own = self._raised = b""
        with contextlib.suppress(OSError):  # without /proc, or not permitted
            fd = os.open(_SCORE, os.O_RDWR | os.O_CLOEXEC)
            own = int(os.pread(fd, 16, 0))
            self._own, self._raised = b"%d" % own, b"%d" % min(own + _SOONER, _HIGHEST_SCORE)
            self._fd = fd

    def __enter__(self) -> None:
        self._write(self._raised)

    def __exit__(self, *_: object) -> None:
        self._write(self._own)

    def _write(self, score: bytes) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, score, 0)


_killed_sooner = KilledSooner()


class Ward:
    """One program: its process group, and when the next step against it is due."""

    __slots__ = ("due", "ending", "number", "pid", "report")

    def __init__(self, number: int, pid: int, report: socket.socket) -> None:
        self.number = number
        self.pid = pid
        #: Where its end is told.
        self.report = report
        #: None while it runs.
        self.ending: Ending | None = None
        #: While it runs: when SIGKILL is sent.  Afterwards: when to stop waiting for its group.
        self.due: float | None = None


class Warden:
    """Serve one rank until it is gone."""

    def __init__(self, connection: socket.socket, parent: int) -> None:
        self._connection = connection
        self._parent = parent
        self._wards: dict[int, Ward] = {}
        #: The environment of the last program, which the next one has mostly, too.
        self._environment: dict[bytes, bytes] = {}
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # A child of the rank may have inherited the other end of the socket and keep it open.
        libc.prctl(_SET_PDEATHSIG, int(_ORPHANED), 0, 0, 0)
        self._woken, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        for each in (signal.SIGCHLD, _ORPHANED):
            signal.signal(each, lambda signum, frame: None)

    def serve(self) -> None:
        """Handle requests and ends; returns when the rank is gone."""
        while os.getppid() == self._parent:
            watched = [self._connection.fileno(), self._woken]
            ready, _, _ = select.select(watched, [], [], self._patience())
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._bury()
            if self._wards:
                self._step()
            if watched[0] in ready and not self._receive():
                return

    def end_all(self) -> None:
        """End every process below this one."""
        deadline = time.monotonic() + _LAST_GRACE_S
        for child in _children():
            _signal_group(child, signal.SIGTERM)
        while _reap() and time.monotonic() < deadline:
            time.sleep(0.01)
        deadline = time.monotonic() + _MOURNING_S
        # What a killed process has left becomes a child of this one: again until there is none.
        while _reap() and time.monotonic() < deadline:
            for child in _children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.01)

    def _patience(self) -> float | None:
        due = [ward.due for ward in self._wards.values() if ward.due is not None]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _receive(self) -> bool:
        """Handle one packet; false at the end of the connection."""
        body, fds, _, _ = socket.recv_fds(self._connection, _LARGEST_PACKET, _MOST_FDS)
        if not body:
            return False
        try:
            for fd in fds:  # a program has them as its 0, 1 and 2, and not a second time
                os.set_inheritable(fd, False)
            what, number, rest = pickle.loads(body)
            if what == "run":
                self._run(number, rest, fds)
            else:
                self._end(number, rest)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _run(self, number: int, request: dict[str, Any] | None, fds: list[int]) -> None:
        report = self._connection
        try:
            if request is None:
                with open(fds[3], "rb", closefd=False) as file:
                    file.seek(0)
                    request = pickle.load(file)
            if request.pop("report", False):
                report = socket.socket(fileno=os.dup(fds[-1]))
            if request["env"] is not None:
                given = request["env"].items()
                self._environment = {os.fsencode(k): os.fsencode(v) for k, v in given}
            request["env"] = self._environment
            pid = _start(request, fds)
        except BaseException as error:
            self._say(report, ("failed", number, error))
            self._done_with(report)
        else:
            self._wards[pid] = Ward(number, pid, report)
            if report is not self._connection:
                self._say(report, ("started", number, pid))

    def _end(self, number: int, grace_s: float) -> None:
        for ward in self._wards.values():
            if ward.number == number:
                if ward.ending is None:
                    _signal_group(ward.pid, signal.SIGTERM)
                    ward.due = time.monotonic() + grace_s
                return
        # It has ended meanwhile, or was never started; whoever asks waits for an answer.
        self._say(self._connection, ("ended", number, tuple(Ending(0, 0))))

    def _bury(self) -> None:
        """Take in every child that has ended: programs, and what they have left behind."""
        while True:
            try:
                # Not reaped yet, so that its number, and its group's, cannot be somebody else's.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            ward = self._wards.get(found.si_pid)
            if ward is not None:
                _signal_group(ward.pid, signal.SIGKILL)
                ward.due = time.monotonic() + _MOURNING_S
            _, status, usage = os.wait4(found.si_pid, 0)
            if ward is not None:
                ward.ending = Ending(os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10)

    def _step(self) -> None:
        """Report programs of which nothing is left; kill those whose grace is over."""
        now = time.monotonic()
        for ward in list(self._wards.values()):
            late = ward.due is not None and now >= ward.due
            if ward.ending is not None and (late or not _group_exists(ward.pid)):
                del self._wards[ward.pid]
                self._say(ward.report, ("ended", ward.number, tuple(ward.ending)))
                self._done_with(ward.report)
            elif late:
                _signal_group(ward.pid, signal.SIGKILL)
                ward.due = None

    def _say(self, to: socket.socket, packet: tuple[str, int, Any]) -> None:
        try:
            body = pickle.dumps(packet)
        except Exception:
            body = pickle.dumps((packet[0], packet[1], RuntimeError(repr(packet[2]))))
        with contextlib.suppress(OSError):  # the rank is gone, as the next look will tell
            to.send(body)

    def _done_with(self, report: socket.socket) -> None:
        if report is not self._connection:
            report.close()


def _start(request: dict[str, Any], fds: list[int]) -> int:
    """Start a program in a session, and so a process group, of its own; return its pid."""
    cpus, preexec = request.pop("cpus"), request.pop("preexec")
    if preexec is not None:
        pickled, path = preexec
        import site

        site.main()
        sys.path.extend(each for each in path if each not in sys.path)
        request["preexec_fn"] = pickle.loads(pickled)
    before = None
    if cpus is not None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        if os.sched_getaffinity(0) != set(cpus):
            os.sched_setaffinity(0, before)
            raise OSError(f"this host gives its programs not all of the CPUs {cpus}")
    try:
        with _killed_sooner:
            pid = _spawn(request, fds)
            if pid is not None:
                return pid
            program = subprocess.Popen(
                stdin=fds[0], stdout=fds[1], stderr=fds[2], start_new_session=True, **request
            )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    program.returncode = 0  # `Warden._bury` waits for it: leave it alone
    return program.pid


def _spawn(request: dict[str, Any], fds: list[int]) -> int | None:
    """Start an ordinary program; None if it is not, or if it failed: `subprocess` says why."""
    args = request["args"]
    if isinstance(args, (str, bytes)) or any(
        request.get(name, value) != value for name, value in _ORDINARY.items()
    ):
        return None
    # What a preexec_fn needed may have opened files that only `close_fds` keeps from programs.
    if "site" in sys.modules:
        return None
    try:
        os.chdir(request.get("cwd") or "/")
        return os.posix_spawn(
            _found(os.fsencode(args[0]), request["env"]),
            args,
            request["env"],
            file_actions=[(os.POSIX_SPAWN_DUP2, fds[fd], fd) for fd in range(3)],
            setsid=True,
            setsigdef=_RESTORED,
        )
    except (OSError, ValueError, NotImplementedError):
        return None
    finally:
        os.chdir("/")  # keep no file system from being unmounted


def _found(program: bytes, environment: dict[bytes, bytes]) -> bytes:
    """Return the path of a program, as ``execvp`` looks for it."""
    if b"/" in program:
        return program
    for folder in os.get_exec_path(environment):  # type: ignore[arg-type]
        path = os.path.join(os.fsencode(folder), program)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise FileNotFoundError(program)


def _signal_group(pid: int, signum: int) -> None:
    # Not permitted where a program has another user, and for a zombie on some systems.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _children() -> list[int]:
    """Return the living children of this process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                # The name, in parentheses, may hold anything.
                state, parent = file.read().rpartition(")")[2].split()[:2]
                if int(parent) == os.getpid() and state != "Z":
                    found.append(int(entry))
    return found


def _reap() -> bool:
    """Reap what has ended; tell whether there are still children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main(arguments: list[str]) -> None:
    """Serve the rank at the other end of a descriptor; does not return."""
    connection = socket.socket(fileno=int(arguments[0]))
    connection.set_inheritable(False)
    warden = Warden(connection, int(arguments[1]))
    try:
        warden.serve()
    finally:
        warden.end_all()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
