"""The process that says which rank was lost; it outlives them, since the launcher ends all of them.

Run as a script by `runtime.witnessed`, with the standard library only; one for each host of the
program.  It watches the ranks of its host by descriptors of their processes and by a pipe from
each, and reads what they last did from a page of memory that they share (`Page`), so that it costs
them nothing while all is well, and needs none of them afterwards.  ``ARCHITECTURE-loss.md`` has
the protocol.

Two processes, and no child of a rank, so that user code that waits for its own children never
meets them:

- the *watch*, in a session of its own, so that a launcher which ends the ranks' process groups does
  not reach it before it has spoken;
- the *ear*, in the process group of the rank that has started it, so that it hears what reaches all
  ranks: Ctrl-C, SIGTERM at a time limit or by ``scancel``.  Then nobody was lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "ARMED",
    "BUSY",
    "HEARD",
    "IDLE",
    "LEAVING",
    "RUNNING",
    "STATE",
    "TASK",
    "Case",
    "Page",
    "Rank",
    "Tally",
    "message",
    "verdict",
]

#: Values of `Page.state`: not watched; to be watched; at its regular end, or at an abort of its
#: own, which it has said why.
ABSENT, ARMED, LEAVING = range(3)
IDLE, BUSY = range(2)

_HEAD_NBYTES = 64
_SLOT_NBYTES = 128
_NAME_AT, _NAME_NBYTES = 32, 96
_HEAD_WORDS = _HEAD_NBYTES // 8
_SLOT_WORDS = _SLOT_NBYTES // 8
#: Words of the head: whether the program is at its end; tasks done, failed, neither, started.
_ENDING, _DONE, _FAILED, _UNRUN, _STARTED = range(5)
#: Words of a slot.
STATE, TASK, RUNNING = range(3)

#: Signals that reach all ranks when somebody ends the program.
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: So long a signal that was heard explains the end of a rank.
_MEMORY_S = 10.0
#: A signal for all ranks reaches the ear within this time of the first that dies of it.
_ECHO_S = 0.05
#: Open MPI's launcher gives ranks a quarter of a second when it ends them for one that was lost,
#: and none when it was told to end: so soon after the first death the two can be told apart.
_DOOM_S = 0.1
#: Seconds for the system to say how a process has ended.
_STATUS_S = 0.05
_MOST_NAMED = 8
_END = "MPI does not go on without it: all ranks end now.\n"
_KILL_BIT = 1 << (signal.SIGKILL - 1)
_PF_EXITING = 0x4
#: ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT (Linux 6.15): mask, cgroup, 11 numbers, exit status.
_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("QQ11Ii")


class Tally(NamedTuple):
    """Tasks of the program so far."""

    done: int
    failed: int
    unfinished: int


class Page:
    """What the ranks of a host leave for the witness, in memory that they share.

    Parameters
    ----------
    fd
        The file in memory.
    nranks
        Number of ranks of this host.

    Attributes
    ----------
    words : memoryview
        Head and slots as 64-bit words; a rank writes to its slot alone, and rank 0 to the head.
    """

    def __init__(self, fd: int, nranks: int) -> None:
        self._memory = mmap.mmap(fd, self.nbytes(nranks))
        self.bytes = memoryview(self._memory)
        self.words = self.bytes.cast("Q")

    @staticmethod
    def nbytes(nranks: int) -> int:
        """Return the size of a page."""
        return _HEAD_NBYTES + nranks * _SLOT_NBYTES

    def slot(self, at: int) -> memoryview:
        """Return the words of a slot: `STATE`, `TASK`, `RUNNING`."""
        first = _HEAD_WORDS + at * _SLOT_WORDS
        return self.words[first : first + _SLOT_WORDS]

    def write_name(self, at: int, name: str) -> None:
        """Store the name of the function that a rank runs."""
        data = name.encode(errors="replace")[: _NAME_NBYTES - 1]
        first = _HEAD_NBYTES + at * _SLOT_NBYTES + _NAME_AT
        self.bytes[first : first + len(data) + 1] = data + b"\0"

    def name(self, at: int) -> str:
        """Return what `write_name` has stored last."""
        first = _HEAD_NBYTES + at * _SLOT_NBYTES + _NAME_AT
        return (
            bytes(self.bytes[first : first + _NAME_NBYTES]).split(b"\0")[0].decode(errors="replace")
        )

    @property
    def ending(self) -> bool:
        """Whether the program is at its end: no death says anything any more."""
        return bool(self.words[_ENDING])

    def end(self) -> None:
        """Note that the program is at its end."""
        self.words[_ENDING] = 1

    def count_done(self, count: int) -> None:
        """Count tasks that have a result."""
        self.words[_DONE] += count

    def count_others(self, failed: int, unrun: int) -> None:
        """Count tasks that have failed, and that were skipped or cancelled."""
        self.words[_FAILED] += failed
        self.words[_UNRUN] += unrun

    def count_started(self, count: int) -> None:
        """Count tasks of a new start."""
        self.words[_STARTED] += count

    @property
    def tally(self) -> Tally:
        """What was counted."""
        words = self.words
        done, failed, unrun = words[_DONE], words[_FAILED], words[_UNRUN]
        return Tally(done, failed, max(words[_STARTED] - done - failed - unrun, 0))


class Rank(NamedTuple):
    """A rank of this host, and what it did last."""

    number: int
    pid: int
    #: Uid and name of the task that it ran last; None if it has run none.
    task: tuple[int, str] | None = None
    running: bool = False


class Case(NamedTuple):
    """What is known when the first rank of a host has ended without a word.

    Attributes
    ----------
    status : int or None
        As of `subprocess.Popen.returncode`; None if the system does not say.
    heard : bool
        Whether a signal reached all ranks.
    others, doomed : int
        Number of other ranks of this host, and how many of them have ended or are about to.  Of a
        rank that has a host to itself, its launcher's process there.
    alone : bool
        Whether this is the program's only host.
    prompt : bool
        Whether the launcher ends the others at once, as all but Open MPI's do.
    """

    status: int | None
    heard: bool
    others: int
    doomed: int
    alone: bool
    prompt: bool


def verdict(case: Case) -> bool | None:
    """Tell whether a rank was lost; None if it has to be looked at again, a little later.

    Notes
    -----
    Launchers end ranks by SIGKILL, and so does ``kill -9``; what differs is what becomes of the
    others.  Where nothing can be told, several hosts say nothing rather than all of them: the host
    of the rank that was lost has seen its others alive.
    """
    if case.heard:
        return False
    if case.status is not None and case.status not in (-signal.SIGKILL, -signal.SIGTERM):
        return True
    if case.status == -signal.SIGTERM and case.prompt:
        return None  # the ear may hear of it yet
    if case.prompt:
        return case.alone or case.doomed < case.others
    return None if case.doomed < case.others else False


def message(
    lost: Rank, host: str, status: int | None, tally: Tally | None, others: Sequence[Rank]
) -> str:
    """Return the sentences that a user sees."""
    who = "the main program" if lost.number == 0 else f"process {lost.pid}"
    text = f"alamo_mpi: rank {lost.number} (host {host}, {who}) was lost: {_how(status)}. "
    if lost.number > 0:
        text += "It was idle" if not lost.running else f"It was running task {_task(lost)}"
        if not lost.running and lost.task is not None:
            text += f"; its last task was {_task(lost)}"
        text += ". "
    if tally is not None:
        text += (
            f"By then {tally.done} tasks were done, {tally.failed} had failed and "
            f"{tally.unfinished} were unfinished. "
        )
    running = [rank for rank in others if rank.running]
    named = [f"task {_task(rank)} on rank {rank.number}" for rank in running[:_MOST_NAMED]]
    if len(running) > _MOST_NAMED:
        named.append(f"{len(running) - _MOST_NAMED} more")
    if named:
        text += f"Running elsewhere: {', '.join(named)}. "
    return text + _END


def _task(rank: Rank) -> str:
    assert rank.task is not None
    return f"{rank.task[0]} {rank.task[1]!r}"


def _how(status: int | None) -> str:
    if status is None:
        return "its process is gone"
    if status >= 0:
        return f"its process exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    return f"killed by signal {-status}"


class _Watch:
    """Watches the ranks of one host."""

    def __init__(
        self, page: Page, ranks: Sequence[Rank], pipes: Sequence[int], host: str, ear: int
    ) -> None:
        self._page = page
        self._ranks = ranks
        self._host = host
        self._ear = ear
        self._heard_at = float("-inf")
        #: Keeps the order in which processes have ended.
        self._poll = select.epoll()
        self._poll.register(ear, select.EPOLLIN)
        #: The process that has started the ranks of this host; 0 has none that ends.
        self._launcher = 0
        with contextlib.suppress(OSError):
            self._launcher = int(_stat(ranks[0].pid)[1])
        #: Ranks that have not ended, with their pidfd.
        self._alive: dict[int, int] = {}
        #: Descriptor -> whose end it tells.
        self._whose: dict[int, int] = {}
        for at, (rank, pipe) in enumerate(zip(ranks, pipes, strict=True)):
            with contextlib.suppress(OSError):  # gone already, or of another pid namespace
                self._alive[at] = os.pidfd_open(rank.pid)
                for fd in (self._alive[at], pipe):
                    self._whose[fd] = at
                    self._poll.register(fd, select.EPOLLIN)

    def run(self, *, alone: bool, prompt: bool) -> str | None:
        """Wait for the ranks' ends; return what is to be said of it."""
        while self._alive:
            for fd, _ in self._poll.poll():
                if fd == self._ear:
                    self._listen()
                    continue
                self._poll.unregister(fd)
                at = self._whose[fd]
                # The pipe is closed before the launcher can know of the end, and the pidfd tells
                # it after; but user code may close what it does not know.
                if at not in self._alive or not _doomed(self._ranks[at].pid):
                    continue
                pidfd = self._alive.pop(at)
                if self._page.slot(at)[STATE] == ARMED and not self._page.ending:
                    return self._examine(at, pidfd, alone=alone, prompt=prompt)
        return None

    def _listen(self) -> bool:
        """Take in what the ear says; tell whether it has heard anything lately."""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._ear, 64)
            if not said:
                with contextlib.suppress(OSError):
                    self._poll.unregister(self._ear)
            elif set(said).intersection(HEARD):
                self._heard_at = time.monotonic()
        return time.monotonic() - self._heard_at < _MEMORY_S

    def _examine(self, at: int, fd: int, *, alone: bool, prompt: bool) -> str | None:
        """Look at the first death: return what is to be said, None if nobody was lost."""
        began = time.monotonic()
        status = _status(fd, self._ranks[at].pid)
        # What was heard after a death need not be its reason: Open MPI's launcher ends the others.
        heard = self._listen() if prompt else time.monotonic() - self._heard_at < _MEMORY_S
        while True:
            others = [rank.pid for each, rank in enumerate(self._ranks) if each != at]
            if not others and not prompt:
                others = [self._launcher]
            doomed = sum(map(_doomed, others))
            found = verdict(Case(status, heard, len(others), doomed, alone, prompt))
            if found is not None:
                break
            if time.monotonic() - began > (_ECHO_S if prompt else _DOOM_S):
                found = True
                break
            time.sleep(2e-3)
            heard = heard or (prompt and self._listen())
        if not found or self._page.ending:
            return None
        tally = self._page.tally if self._ranks[0].number == 0 else None
        seen = list(self._seen())
        lost = seen.pop(at)
        return message(lost, self._host, status, tally, seen)

    def _seen(self) -> Iterator[Rank]:
        for at, rank in enumerate(self._ranks):
            slot, name = self._page.slot(at), self._page.name(at)
            task = (slot[TASK], name) if name else None
            yield rank._replace(task=task, running=slot[RUNNING] == BUSY and task is not None)


def _status(fd: int, pid: int) -> int | None:
    """Return how a process has ended, if the system says it."""
    until = time.monotonic() + _STATUS_S
    while True:
        found = _status_of_zombie(pid)
        if found is None:
            with contextlib.suppress(OSError):
                request = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
                fcntl.ioctl(fd, _GET_INFO, request)
                mask, *_, code = _INFO.unpack(request)
                found = code if mask & _INFO_EXIT else None
        if found is not None:
            return os.waitstatus_to_exitcode(found)
        if time.monotonic() > until:
            return None
        time.sleep(1e-3)


def _status_of_zombie(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _stat(pid)
        if fields[0] == "Z":
            return int(fields[49])
    return None


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on."""
    with open(f"/proc/{pid}/stat") as file:
        # The name, in parentheses, may hold anything.
        return file.read().rpartition(")")[2].split()


def _doomed(pid: int) -> bool:
    """Tell whether a process has ended, or is about to."""
    try:
        fields = _stat(pid)
        if fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
            return True
        with open(f"/proc/{pid}/status") as file:
            pending = [line.split()[1] for line in file if line.startswith(("SigPnd", "ShdPnd"))]
        return any(int(each, 16) & _KILL_BIT for each in pending)
    except OSError:
        return True


def _listen_for(watch: int, say: int) -> None:
    """Be the ear: pass on which signals came, until the watch has ended."""
    signal.set_wakeup_fd(say, warn_on_full_buffer=False)
    for signum in (*HEARD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, lambda signum, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # blocked since before the script began
    os.waitpid(watch, 0)


def _speak(text: str) -> None:
    """Write in one piece to where the ranks' stderr goes, and let the launcher read it."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def main(arguments: list[str]) -> None:
    """Be the witness of a host; does not return.

    The arguments: descriptor of the page, host, whether it is the only one, whether the launcher
    ends others at once; of each rank of the host its number, its process and our end of its pipe.
    """
    # The rank waits for this process alone, and only until here.
    if os.fork():
        os._exit(0)
    heard, say = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    watch = os.fork()
    if watch:
        os.close(2)  # the launcher waits for the end of what it reads
        os.close(heard)
        _listen_for(watch, say)
        os._exit(0)
    os.setsid()
    os.close(say)
    fd, host, alone, prompt, *triples = arguments
    numbers = [list(map(int, triple.split(":"))) for triple in triples]
    ranks = [Rank(number, pid) for number, pid, _ in numbers]
    page, pipes = Page(int(fd), len(ranks)), [pipe for *_, pipe in numbers]
    text = _Watch(page, ranks, pipes, host, heard).run(alone=alone == "1", prompt=prompt == "1")
    if text is not None:
        _speak(text)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
