"""A rank that has ended: whether it was lost, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Case", "Grant", "Rank", "Tally", "buried", "message", "verdict"]

#: Signals by which launchers end ranks; their numbers are POSIX's.
_KILL, _TERM = 9, 15
_MOST_NAMED = 8
_END = "MPI does not go on without it: all ranks end now.\n"
_GOES_ON = "The others go on without it.\n"


class Tally(NamedTuple):
    """Tasks of the program so far."""

    done: int
    failed: int
    unfinished: int


class Rank(NamedTuple):
    """A rank of this host, and what it did last."""

    number: int
    pid: int
    #: Uid and name of the task that it ran last; None if it has run none.
    task: tuple[int, str] | None = None
    running: bool = False


class Grant(NamedTuple):
    """What the host that speaks is told of the others."""

    tally: Tally | None
    others: list[Rank]


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
    prompt : bool
        Whether the launcher ends the others at once, as all but Open MPI's do.
    """

    status: int | None
    heard: bool
    others: int
    doomed: int
    prompt: bool

    @property
    def own(self) -> bool:
        """Whether it has ended in a way in which no launcher ends ranks."""
        return self.status is not None and self.status not in (-_KILL, -_TERM)

    @property
    def sure(self) -> bool:
        """Whether no other host can be the reason."""
        return self.own or self.doomed < self.others


def verdict(case: Case) -> bool | None:
    """Tell whether a rank was lost; None if it has to be looked at again, a little later.

    Notes
    -----
    Launchers end ranks by SIGKILL, and so does ``kill -9``; what differs is what becomes of the
    others.
    """
    if case.heard:
        return False
    if case.own:
        return True
    if case.prompt:
        # Of SIGTERM the ear may hear yet.
        return None if case.status == -_TERM else True
    return None if case.doomed < case.others else False


def message(
    lost: Rank,
    host: str,
    how: str,
    tally: Tally | None,
    others: Sequence[Rank],
    *,
    goes_on: bool = False,
) -> str:
    """Return the sentences that a user sees.

    `goes_on` says that the program does, unless it was rank 0.
    """
    goes_on = goes_on and lost.number > 0
    who = "the main program" if lost.number == 0 else f"process {lost.pid}"
    text = f"alamo_mpi: rank {lost.number} (host {host}, {who}) was lost: {how}. "
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
    return text + (_GOES_ON if goes_on else _END)


def buried(host: str, ranks: Sequence[int], *, goes_on: bool) -> str:
    """Return the sentence for a host that was lost with all its ranks."""
    named = f"{'ranks' if len(ranks) > 1 else 'rank'} {', '.join(map(str, ranks))}"
    return (
        f"alamo_mpi: host {host} was lost: nothing is heard of it any more, nor of {named} there. "
        + (_GOES_ON if goes_on else _END)
    )


def _task(rank: Rank) -> str:
    assert rank.task is not None
    return f"{rank.task[0]} {rank.task[1]!r}"
