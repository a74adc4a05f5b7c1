"""The hub of one job, on the worker that leads it: where the wrappers of all its ranks connect.

It tells each wrapper what to run, serves PMI-1 to the programs where no launcher does, gathers
output, values and exit statuses, and ends the job when `core.jobstate` says that it has failed,
when its time is over, or when the task is interrupted.  One thread, one selector, no MPI.

Who may connect: on one host an abstract Unix socket whose peer must be of our user; between hosts
TCP.  Either way the first frame has to hold a token that only the wrappers of this job were given.
What a wrapper sends is unpickled, so a stranger must not get that far.
"""

from __future__ import annotations

import contextlib
import hmac
import marshal
import os
import pickle
import secrets
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alamo_mpi.core.jobstate import JobState
from alamo_mpi.core.pmi import Server
from alamo_mpi.core.silence import SETTING, silence_s
from alamo_mpi.runtime.joboutput import JobOutput
from alamo_mpi.runtime.jobwrapper import HEAD, bound_silence, frames

__all__ = ["Hub", "Part"]

#: Seconds that all wrappers have to connect.
CONNECT_S = 30.0
#: Seconds that ranks have to end when asked to, and to have ended when not asked any more.
GRACE_S = 0.3
_GIVE_UP_S = 3.0
_NAP_S = 0.05
_LATER_S = 3.0
_PIECE = 1 << 18
_HELLO_NBYTES = 4096


class Part(NamedTuple):
    """What one rank of a job runs."""

    argv: list[str]
    #: Variables to set, or to remove (None), in what its wrapper was started with.
    env: dict[str, str | None]
    cwd: str | None
    #: The CPUs that it may use; None for those of its wrapper.
    cpus: tuple[int, ...] | None
    #: For a Python callable what `runtime.jobrunner` reads.
    call: bytes | None


class _Connection:
    """A wrapper; a stranger, while `rank` is below 0."""

    __slots__ = ("rank", "received", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.rank = -1
        self.received = bytearray()


class Hub:
    """Run the processes of one job, once something starts their wrappers.

    Parameters
    ----------
    parts
        What each rank runs.
    hosts
        Host name by rank.
    mode
        Who serves PMI to the programs: ``"pmi"`` this hub, ``"relay"`` the launcher of this
        program through the wrapper, ``"watch"`` a nested launcher through the wrapper, ``"none"``
        whoever started the wrappers, unseen.

    Attributes
    ----------
    told : str
        Token and addresses, for the wrappers.
    state : JobState
        How the ranks stand.
    output : JobOutput
        What they write.
    values : dict
        Rank -> pickle of what its callable returned, or of why it did not the fields of a
        `Failure`.
    problems : dict
        Rank -> why its program could not be started, as arguments of `OSError`.
    """

    def __init__(self, parts: Sequence[Part], hosts: Sequence[str], mode: str) -> None:
        self._parts = parts
        self._hosts = hosts
        self._mode = mode
        size = len(parts)
        self.state = JobState(size, seen=mode != "none")
        self.output = JobOutput(size)
        self.values: dict[int, Any] = {}
        self.problems: dict[int, tuple[Any, ...]] = {}
        #: Name of the job's key-value space.
        self.space = f"alamo_{secrets.token_hex(8)}"
        self._pmi = Server(hosts, self.space)
        if mode == "pmi":
            self.state.initialized = self._pmi.initialized
            self.state.finalized = self._pmi.finalized
        self._lines = [b""] * size
        #: Rank -> number of its program's process and process group.
        self._pids: dict[int, int] = {}
        #: The same, for those that nobody watches over any more.
        self.orphans: dict[int, int] = {}
        self._wrappers: dict[int, _Connection] = {}
        self._vanished: set[int] = set()
        self._token = secrets.token_hex(16)
        self._selector = selectors.DefaultSelector()
        self._one_host = len(set(hosts)) == 1
        self._silence_s = silence_s(os.environ.get(SETTING, ""))
        self._listener, addresses = _listen(hosts[0], self._one_host)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self.told = " ".join([self._token, *addresses])
        #: When the ranks were told to end.
        self._killed_at: float | None = None

    @property
    def connected(self) -> bool:
        """Whether every rank's wrapper has been here."""
        return len(self._wrappers) == len(self._parts)

    @property
    def unheard_of(self) -> set[int]:
        """Ranks that have ended, or not, without a word of what watched over them."""
        silent = {rank for rank, status in enumerate(self.state.statuses) if status is None}
        return silent | self._vanished

    def run(self, timeout_s: float | None, problem: Callable[[], str | None]) -> None:
        """Serve the ranks until all have ended, or the job has failed and they were told to.

        Parameters
        ----------
        timeout_s
            Seconds after which the job has failed.
        problem
            Asked now and then, says what went wrong with starting the wrappers.
        """
        started = time.monotonic()
        while not self.state.over:
            self._turn()
            now = time.monotonic()
            self.state.check(now)
            if timeout_s is not None and now > started + timeout_s:
                self.state.late(timeout_s)
            told = problem()
            if not self.connected:
                self._check_start(now - started, told)
            if self.state.fault is not None and self._kill(now):
                break
        self.output.finish()

    def drain(self, finished: Callable[[], bool], limit_s: float) -> None:
        """End whatever runs, and go on serving the wrappers until something has `finished`."""
        until = time.monotonic() + limit_s
        self._kill(time.monotonic())
        while not finished() and time.monotonic() < until:
            self._turn()
        self._turn(0.0)  # what they had sent before that: the name of MPI's shared memory

    def _turn(self, wait_s: float = _NAP_S) -> None:
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                self._accept()
            else:
                self._read(key.data)

    def _check_start(self, waited_s: float, told: str | None) -> None:
        if told is not None:
            self.state.fail(-1, told)
        elif waited_s > CONNECT_S:
            missing = [r for r in range(len(self._parts)) if r not in self._wrappers]
            hosts = sorted({self._hosts[rank] for rank in missing})
            self.state.fail(
                missing[0],
                f"was not started within {CONNECT_S:g} s, nor were {len(missing) - 1} others "
                f"(on {', '.join(hosts)})",
            )

    def _kill(self, now: float) -> bool:
        """Tell the ranks to end; return whether there is nobody left to wait for."""
        if self._killed_at is None:
            self._killed_at = now
            for rank, wrapper in self._wrappers.items():
                if self.state.statuses[rank] is None:
                    _send(wrapper.socket, b"K", f"{GRACE_S}".encode())
        alive = [rank for rank in self._wrappers if self.state.statuses[rank] is None]
        return not alive or now > self._killed_at + _GIVE_UP_S

    # Wrappers -----------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connected, _ = self._listener.accept()
            if self._one_host and _user_of(connected) != os.geteuid():
                connected.close()
                return
            if not self._one_host:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A little later than others notice, who say it better: a host was lost, not a job.
                bound_silence(connected, self._silence_s + _LATER_S)
            self._selector.register(connected, selectors.EVENT_READ, _Connection(connected))

    def _read(self, wrapper: _Connection) -> None:
        try:
            data = wrapper.socket.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            self._lose(wrapper)
            return
        wrapper.received += data
        if wrapper.rank < 0 and not self._greet(wrapper):
            return
        for letter, body in frames(wrapper.received):
            self._take(wrapper, letter, body)

    def _greet(self, wrapper: _Connection) -> bool:
        """Find out who that is, and what it has to run; return whether it is one of ours."""
        if len(wrapper.received) < HEAD.size:
            return False
        letter, length = HEAD.unpack_from(wrapper.received)
        if letter != b"H" or length > _HELLO_NBYTES:
            self._drop(wrapper)
            return False
        for _, body in frames(wrapper.received):
            # Plain text: nothing that a stranger sends is decoded.
            token, _, rank_text = body.partition(b" ")
            known = hmac.compare_digest(token, self._token.encode())
            rank = int(rank_text) if known and rank_text.isdigit() else -1
            if rank in self._wrappers or not 0 <= rank < len(self._parts):
                self._drop(wrapper)
                return False
            wrapper.rank = rank
            self._wrappers[rank] = wrapper
            self._employ(wrapper)
            return True
        return False

    def _employ(self, wrapper: _Connection) -> None:
        rank = wrapper.rank
        part = self._parts[rank]
        env = dict(part.env)
        if self._mode == "pmi":
            host = self._hosts[rank]
            env["PMI_RANK"], env["PMI_SIZE"] = str(rank), str(len(self._parts))
            env["MPI_LOCALRANKID"] = str(list(self._hosts[:rank]).count(host))
            env["MPI_LOCALNRANKS"] = str(list(self._hosts).count(host))
        job = {
            "argv": part.argv,
            "env": env,
            "cwd": part.cwd,
            "cpus": part.cpus,
            "call": part.call,
            "mode": self._mode,
            "silence_s": self._silence_s,
        }
        _send(wrapper.socket, b"J", marshal.dumps(job))
        if self._killed_at is not None:
            _send(wrapper.socket, b"K", b"0")

    def _take(self, wrapper: _Connection, letter: bytes, body: bytes) -> None:
        rank, state = wrapper.rank, self.state
        if letter in (b"O", b"E"):
            self.output.add(rank, 1 if letter == b"O" else 2, body)
        elif letter == b"P":
            self._serve_pmi(rank, body)
        elif letter == b"S":
            self._pids[rank] = int(body)
        elif letter == b"N":
            self.space = body.decode()
        elif letter == b"I":
            state.initialized.add(rank)
        elif letter == b"F":
            state.finalized.add(rank)
        elif letter == b"A":
            state.fail(rank, f"called MPI_Abort with status {body.decode()}", int(body))
        elif letter == b"X":
            status, told, problem, value = marshal.loads(body)
            if problem is not None:
                self.problems[rank] = problem
                state.fail(rank, f"could not be started: {problem[1]}: {problem[2]!r}")
            if value:
                returned, self.values[rank] = pickle.loads(value)
                if not returned:
                    state.fail(rank, "raised an exception", status)
            state.ended(rank, status, time.monotonic(), told=told)

    def _serve_pmi(self, rank: int, data: bytes) -> None:
        *lines, self._lines[rank] = (self._lines[rank] + data).split(b"\n")
        for line in lines:
            for to, answer in self._pmi.handle(rank, line.decode(errors="replace")):
                if to in self._wrappers:
                    _send(self._wrappers[to].socket, b"P", answer.encode() + b"\n")
        if self._pmi.aborted is not None:
            who, status = self._pmi.aborted
            self.state.fail(who, f"called MPI_Abort with status {status}", status)

    def _lose(self, wrapper: _Connection) -> None:
        self._drop(wrapper)
        rank = wrapper.rank
        if rank >= 0 and self.state.statuses[rank] is None:
            self._vanished.add(rank)
            if self._pids.get(rank):
                self.orphans[rank] = self._pids[rank]
            if self._mode != "none":
                self.state.fail(rank, "vanished: what watched over it was killed")
            self.state.ended(rank, -signal.SIGKILL, time.monotonic(), told=True)

    def _drop(self, wrapper: _Connection) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(wrapper.socket)
        wrapper.socket.close()

    def close(self) -> None:
        """Break all connections: whatever of the job still runs is ended by its wrapper."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._drop(key.data)
        self._selector.close()
        self._listener.close()


def _send(to: socket.socket, letter: bytes, body: bytes) -> None:
    with contextlib.suppress(OSError):  # one that is gone is noticed by reading
        to.sendall(HEAD.pack(letter, len(body)) + body)


def _listen(host: str, one_host: bool) -> tuple[socket.socket, list[str]]:
    """Return a listening socket and how wrappers reach it."""
    if one_host:
        listener = socket.socket(socket.AF_UNIX)
        # An abstract name leaves no file behind, whatever ends us.
        name = f"alamo-job-{secrets.token_hex(8)}"
        listener.bind("\0" + name)
        listener.listen(1024)
        return listener, [f"@{name}"]
    listener = socket.create_server(("", 0), backlog=1024)
    port = listener.getsockname()[1]
    names = [host, *_own_addresses(host)]
    return listener, [f"{name}:{port}" for name in dict.fromkeys(names)]


def _own_addresses(host: str) -> list[str]:
    """Return this host's IPv4 addresses, as far as its name leads to them."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        return [str(entry[4][0]) for entry in found if not str(entry[4][0]).startswith("127.")]
    return []


def _user_of(connected: socket.socket) -> int:
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[1])
