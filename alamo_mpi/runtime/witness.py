"""The process that says which rank was lost; it outlives them, since the launcher ends all of them.

A program of its own, started by `runtime.witnessed`; one for each host.  It watches the ranks of
its host by descriptors of their processes and by a pipe from each, and reads what they last did
from a page of memory that they share (`Page`), so that it costs them nothing while all is well,
and needs none of them afterwards.  ``ARCHITECTURE-loss.md`` has the protocol.

Two processes, and no child of a rank, so that user code that waits for its own children never
meets them:

- the *watch*, in a session of its own, so that a launcher which ends the ranks' process groups does
  not reach it before it has spoken;
- the *ear*, in the process group of the rank that has started it, so that it hears what reaches all
  ranks: Ctrl-C, SIGTERM at a time limit or by ``scancel``.  Then nobody was lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from alamo_mpi.core.loss import Case, Grant, Rank, buried, message, verdict
from alamo_mpi.mpi.announced import survives
from alamo_mpi.runtime.ancestry import Launchers
from alamo_mpi.runtime.court import ANSWER_S, Court, Plea
from alamo_mpi.runtime.deaths import doomed, how, parent_of, status_of
from alamo_mpi.runtime.lines import is_silence
from alamo_mpi.runtime.tidings import Hub, Spoke
from alamo_mpi.runtime.witnesspage import (
    ARMED,
    AWAY,
    BUSY,
    HEARD,
    RUNNING,
    STATE,
    TASK,
    TOKEN,
    Page,
)

__all__ = ["main"]

#: So long a signal that was heard explains the end of a rank.
_MEMORY_S = 10.0
#: A signal for all ranks reaches the ear within this time of the first that dies of it.
_ECHO_S = 0.05
#: Open MPI's launcher gives ranks a quarter of a second when it ends them for one that was lost,
#: and none when it was told to end: so soon after the first death the two can be told apart.
_DOOM_S = 0.1
#: A rank that MPI lets wait for a lost one so long after is lost with it: for a host that cannot be
#: reached any more it would wait for a quarter of an hour.
_AWAY_S = 1.0
#: Seconds for a launcher to read what was said, and to end by itself when all ranks have.
_READ_S = 0.3
_LEAVE_S = 2.0
#: As of `socket`, which is loaded where there are several hosts.
_SOL_SOCKET, _SO_ERROR = 1, 4
#: In place of the pidfd of a process that had ended before it could be opened.
_GONE = -1


class _Watch:
    """Watches the ranks of one host."""

    def __init__(
        self, page: Page, ranks: Sequence[Rank], pipes: Sequence[int], host: str, ear: int
    ) -> None:
        self._page = page
        self._ranks = ranks
        self._host = host
        #: Set before `run`.
        self.bench: Court | Plea | Hub | Spoke = Court(self.seen, self.cut_off)
        self._ear = ear
        self._heard_at = float("-inf")
        self._survives = False
        #: Keeps the order in which processes have ended.
        self._poll = select.epoll()
        self._poll.register(ear, select.EPOLLIN)
        self._launchers = Launchers(ranks[0].pid)
        #: Whether a host that nothing is heard of any more was given up, for which launchers wait.
        self._gave_up = False
        #: The process that has started the ranks of this host; 0 has none that ends.
        self._parent = 0
        with contextlib.suppress(OSError):
            self._parent = parent_of(ranks[0].pid)
        #: Ranks that have not ended, with their pidfd.
        self._alive: dict[int, int] = {}
        #: Descriptor -> whose end it tells.
        self._whose: dict[int, int] = {}
        for at, (rank, pipe) in enumerate(zip(ranks, pipes, strict=True)):
            told = [pipe]
            self._alive[at] = _GONE
            with contextlib.suppress(OSError):  # gone already, or of another pid namespace
                self._alive[at] = os.pidfd_open(rank.pid)
                told.append(self._alive[at])
            for fd in told:
                self._whose[fd] = at
                self._poll.register(fd, select.EPOLLIN)

    def run(self, *, prompt: bool, survives: bool = False) -> Iterator[str]:
        """Wait for the ranks' ends; yield what is to be said of them."""
        self._survives = survives
        line = self.bench.connection if isinstance(self.bench, Plea) else None
        if line is not None:
            self._poll.register(line, 0)  # errors alone
        while self._alive:
            for fd, _ in self._poll.poll():
                if fd == self._ear:
                    self._listen()
                    continue
                if line is not None and fd == line.fileno():
                    self._poll.unregister(line)
                    if is_silence(line.getsockopt(_SOL_SOCKET, _SO_ERROR)):
                        self.end_all()
                    continue
                self._poll.unregister(fd)
                at = self._whose[fd]
                # The pipe is closed before the launcher can know of the end, and the pidfd tells
                # it after; but user code may close what it does not know.
                if at not in self._alive or not doomed(self._ranks[at].pid):
                    continue
                pidfd = self._alive.pop(at)
                if self._page.ending:
                    self.bench.quiet()
                elif self._page.slot(at)[STATE] == ARMED:
                    if isinstance(self.bench, Hub | Spoke):
                        # MPI may not say it: Open MPI overlooks a rank that exits by itself.
                        self.bench.lose(self._ranks[at].number, self._last(at))
                    text = self._examine(at, pidfd, prompt=prompt)
                    if text is not None:
                        yield text
                    if not survives or self._ranks[at].number == 0:
                        return

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

    def _examine(self, at: int, fd: int, *, prompt: bool) -> str | None:
        """Look at the first death: return what is to be said, None if nobody was lost."""
        began = time.monotonic()
        status = status_of(fd, self._ranks[at].pid)
        # What was heard after a death need not be its reason: Open MPI's launcher ends the others.
        heard = self._listen() if prompt else time.monotonic() - self._heard_at < _MEMORY_S
        others = [rank.pid for each, rank in enumerate(self._ranks) if each != at]
        if not others and not prompt:
            others = [self._parent]
        grant: Grant | None = None
        while True:
            ending = sum(map(doomed, others))
            case = Case(status, heard, len(others), ending, prompt)
            found = verdict(case)
            if found is False:
                self.bench.quiet()
                return None
            if grant is None:  # at once: who comes first is right
                grant = self.bench.ask(case.sure, prompt)
                if grant is None:
                    return None
            if found is not None or self._survives:  # the launcher ends nobody for it
                break
            if time.monotonic() - began > (_ECHO_S if prompt else _DOOM_S):
                break
            time.sleep(2e-3)
            heard = heard or (prompt and self._listen())
        number = self._ranks[at].number
        lost, *mine = sorted(self._states(number), key=lambda rank: rank.number != number)
        numbers = {rank.number for rank in self._ranks}
        mine += [rank for rank in grant.others if rank.number not in numbers]
        told = how(status)
        return message(lost, self._host, told, grant.tally, mine, goes_on=self._survives)

    def end_all(self) -> None:
        """End the ranks of this host, if they are not at their end already, and their launcher."""
        armed = [at for at in list(self._alive) if self._page.slot(at)[STATE] == ARMED]
        for at in armed:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._alive[at], signal.SIGKILL)
        if armed:
            self._launchers.kill()

    def cut_off(self, host: str, ranks: Sequence[int]) -> None:
        """End a program that does not go on without a host that cannot be reached any more.

        MPI would wait for it for ever, and so does the launcher.
        """
        if not self._page.ending:
            _speak(buried(host, ranks, goes_on=False))
            time.sleep(_READ_S)
            self.end_all()

    def note(self, rank: int, last: int | None) -> bool:
        """Note that a rank was lost; see to those who wait for it in MPI, where nobody else can.

        Returns
        -------
        bool
            Whether that was news.
        """
        news = self._page.lose(rank, last)
        if news:
            threading.Timer(_AWAY_S, self._free, [rank]).start()
        return news

    def _free(self, rank: int) -> None:
        for at, pidfd in list(self._alive.items()):
            if self._page.slot(at)[AWAY] == rank + 1:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def give_up(self, host: str, ranks: Sequence[int], silent: bool) -> None:
        """Go on without a host."""
        # MPICH's launcher falls over when its own process there has ended.
        _speak(buried(host, ranks, goes_on=silent or not self._launchers.alive))
        self._gave_up = self._gave_up or silent

    def leave(self) -> None:
        """End a launcher that would wait for a host that was given up, once all else has ended."""
        if self._gave_up:
            until = time.monotonic() + _LEAVE_S
            while self._launchers.alive and time.monotonic() < until:
                time.sleep(0.05)
            if self._launchers.alive:
                _speak(
                    "alamo_mpi: the program has ended; its launcher, which waits for the host that "
                    "was lost, is killed.\n"
                )
                time.sleep(_READ_S)
                self._launchers.kill()

    def _last(self, at: int) -> int | None:
        """Return the uid of the task that a rank has begun last."""
        return self._page.slot(at)[TASK] if self._page.name(at) else None

    def seen(self) -> Grant:
        """Return what this host knows, of rank 0's."""
        return Grant(self._page.tally, list(self._states()))

    def _states(self, dying: int | None = None) -> Iterator[Rank]:
        lost = self._page.lost() - {dying}
        for at, rank in enumerate(self._ranks):
            slot, name = self._page.slot(at), self._page.name(at)
            task = (slot[TASK], name) if name else None
            running = slot[RUNNING] == BUSY and task is not None
            # A rank that ended in its task has not said that it is over.
            yield rank._replace(task=task, running=running and rank.number not in lost)


def _listen_for(watch: int, say: int) -> bool:
    """Be the ear: pass on which signals came, until the watch has ended; tell whether by itself."""
    signal.set_wakeup_fd(say, warn_on_full_buffer=False)
    for signum in (*HEARD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, lambda signum, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # blocked since before the script began
    return os.WIFEXITED(os.waitpid(watch, 0)[1])


def _speak(text: str) -> None:
    """Write in one piece to where the ranks' stderr goes, and let the launcher read it."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def main(arguments: list[str]) -> None:
    """Be the witness of a host; does not return.

    The arguments: descriptor of the page; host; number of all ranks; whether the launcher ends
    others at once; where there are several hosts, on the first a listening socket, and on the
    others where that is; of each rank of the host its number, its process and our end of its pipe.
    """
    fd, host, nworld, prompt, place, *triples = arguments
    numbers = [list(map(int, triple.split(":"))) for triple in triples]
    heard, say = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(2)  # the launcher waits for the end of what it reads
        os.close(heard)
        if not _listen_for(child, say) and survives():
            # Nobody would hear of their ends, and the others take them for lost with their host.
            for _, pid, _ in numbers:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        os._exit(0)
    os.setsid()
    os.close(say)
    ranks = [Rank(number, pid) for number, pid, _ in numbers]
    page, pipes = Page(int(fd), len(ranks), int(nworld)), [pipe for *_, pipe in numbers]
    watch = _Watch(page, ranks, pipes, host, heard)
    watch.bench = _bench(watch, page, host, [rank.number for rank in ranks], place)
    page.watch()
    said = False
    for text in watch.run(prompt=prompt == "1", survives=survives()):
        _speak(text)
        said = True
    if not said and place.isdigit():
        time.sleep(ANSWER_S)  # somebody else may be about to speak, and needs an answer
    watch.leave()
    os._exit(0)


def _bench(
    watch: _Watch, page: Page, host: str, ranks: Sequence[int], place: str
) -> Court | Plea | Hub | Spoke:
    """Return what a witness has to do with those of other hosts."""
    token = os.environ.get(TOKEN, "")
    there, _, port = place.rpartition(":")
    bench: Court | Hub
    if survives():
        if there:
            spoke = Spoke(watch.note, watch.end_all)
            spoke.join((there, int(port)), token, host, ranks)
            return spoke
        # At the end of the program ranks, and so spokes, go without being lost.
        bench = Hub(
            lambda *loss: not page.ending and watch.note(*loss),
            watch.seen,
            watch.give_up,
        )
    elif there:
        return Plea((there, int(port)), token, host, ranks)
    else:
        bench = Court(watch.seen, watch.cut_off)
    if place:
        import socket

        bench.serve(socket.socket(fileno=int(place)), token)
    return bench
