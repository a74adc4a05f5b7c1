"""The examination: stage after stage, each with a limit that a watchdog holds it to.

Every rank calls `examine`.  Rank 0 gathers, judges and tells; the others answer, and work for it
while the one-sided memory is measured.  What may hang or crash by nature (``Comm.Spawn``, the
launcher itself) is tried in a program of its own.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from alamo_mpi import session
from alamo_mpi.doctor.children import try_launcher, try_spawn
from alamo_mpi.doctor.facts import RankFacts
from alamo_mpi.doctor.judge import judge_launcher, judge_ranks, judge_rma, judge_spawn
from alamo_mpi.doctor.local import host_facts
from alamo_mpi.doctor.report import BROKEN, Finding
from alamo_mpi.doctor.watchdog import Watchdog
from alamo_mpi.errors import AlamoError, LaunchError
from alamo_mpi.mpi.announced import ranks_of_launcher, speaks_for_all
from alamo_mpi.mpi.probe import library_facts

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World

__all__ = ["examine"]

#: Seconds for each stage; generous, as a slow file system is not what they are for.
START_S, GATHER_S, RMA_S, CHILD_S = 60.0, 30.0, 60.0, 30.0
_CLOCK_ROUNDS = 20


def examine(tell: Callable[[list[Finding]], None]) -> list[Finding]:
    """Look at everything; collective over the ranks that a launcher has started.

    Parameters
    ----------
    tell : callable
        Given the findings when a stage hangs; then the job is ended.

    Returns
    -------
    list of Finding
        On the first rank; empty on the others.
    """
    findings: list[Finding] = []
    first = speaks_for_all()
    with Watchdog(findings, tell if first else None) as watchdog:
        watchdog.stage("start of MPI", START_S)
        try:
            from alamo_mpi.mpi.fit import check_fit

            check_fit()
            from alamo_mpi.mpi.world import World, unlink_shared_memory

            world = World()
            unlink_shared_memory()  # the watchdog may end the job at any time
        except LaunchError as error:
            return [Finding("start of MPI", BROKEN, str(error))] if first else []
        watchdog.world = world
        watchdog.stage("messages between the ranks", GATHER_S)
        ranks = _gather(world)
        if world.rank > 0:
            _measure_rma(world, findings)
            return []
        if not first:
            return []  # one of N programs of one rank: the first of them speaks
        findings += [_launcher(world), *judge_ranks(ranks)]
        watchdog.stage("one-sided memory (RMA)", RMA_S)
        _measure_rma(world, findings)
        _try_children(world, watchdog, findings)
    return findings


def _gather(world: World) -> list[RankFacts]:
    """Return the facts of all ranks; collective."""
    mine = (library_facts(), host_facts(world.host))
    everyone = world.comm.allgather(mine)
    offsets = [0.0] + [_clock_offset(world, rank) for rank in range(1, world.size)]
    return [
        RankFacts(library, host, offset)
        for (library, host), offset in zip(everyone, offsets, strict=True)
    ]


def _clock_offset(world: World, rank: int) -> float:
    """Return how far the clock of `rank` is ahead of rank 0's: the shortest round trip knows best.

    Between rank 0 and `rank`; of no effect on others.
    """
    if world.rank == rank:
        for _ in range(_CLOCK_ROUNDS):
            world.comm.recv(source=0)
            world.comm.send(time.time(), dest=0)
    if world.rank > 0:
        return 0.0
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        began = time.time()
        world.comm.send(None, dest=rank)
        theirs = world.comm.recv(source=rank)
        ended = time.time()
        rounds.append((ended - began, theirs - (began + ended) / 2))
    return float(min(rounds)[1])


def _launcher(world: World) -> Finding:
    from alamo_mpi.mpi.launcher import launch_command

    try:
        command = shlex.join(launch_command(max(2, world.size), ["python", "-m", "alamo_mpi"]))
    except LaunchError as error:
        command = str(error)
    return judge_launcher(ranks_of_launcher(os.environ), world.size, command)


def _measure_rma(world: World, findings: list[Finding]) -> None:
    """Measure one-sided memory, and judge it on rank 0; collective."""
    from alamo_mpi.doctor.rma import measure_idle_and_computing

    if world.size == 1:
        return
    try:
        with session.serve(world.comm):
            findings += [judge_rma(times) for times in measure_idle_and_computing()]
    except AlamoError as error:
        findings.append(Finding("one-sided memory (RMA)", BROKEN, str(error)))


def _try_children(world: World, watchdog: Watchdog, findings: list[Finding]) -> None:
    """Try what may hang or crash in programs of its own."""
    if world.size == 1:
        watchdog.stage("launcher, tried", CHILD_S + 10)
        findings.append(try_launcher(CHILD_S))
    watchdog.stage("spawn", CHILD_S + 10)
    findings.append(judge_spawn(try_spawn(CHILD_S)))
