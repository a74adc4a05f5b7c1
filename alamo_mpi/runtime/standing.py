"""Where the tasks of a program stand, and who waits for what, as text for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from alamo_mpi.core.messages import Address
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import FIRST_FINAL, State
from alamo_mpi.runtime.roster import LiveBatch
from alamo_mpi.runtime.submission import Submission

__all__ = ["held_up", "standing"]

#: Of each start, so many tasks are listed.
_MOST_TASKS = 200


def standing(batches: Iterable[LiveBatch], hosts: tuple[str, ...]) -> str:
    """Describe the unfinished tasks of these batches; under the manager's lock."""
    lines = []
    for live in batches:
        places = _places(live, hosts)
        for each in (live, *live.children):
            lines.append(f"{each}: {each.unfinished} unfinished tasks\n")
            for submission in each.submissions.values():
                lines += _of_submission(submission, places, live.scheduler.held)
    return "".join(lines)


def held_up(live: LiveBatch, address: Address, hosts: tuple[str, ...]) -> str | None:
    """Say which tasks keep those of a client's process from beginning; None if one has begun."""
    holders = []
    for chunk in live.root.scheduler.dispatch.begun:
        program, indices, _ = next(iter(chunk.span(chunk.done, chunk.done + 1)))
        owner = program.owner() if program.owner is not None else None
        if not isinstance(owner, Submission):
            continue
        if owner.origin is not None and owner.origin[0] == address:
            return None
        name = owner.names[indices[0]]
        holders.append(f"{name!r} on rank {chunk.rank} (host {hosts[chunk.rank]})")
    return ", ".join(holders)


def _places(live: LiveBatch, hosts: tuple[str, ...]) -> dict[tuple[int, int], str]:
    """Say of each task on a worker where it is."""
    places = {}
    for chunk in live.scheduler.dispatch.chunks.values():
        where = f"rank {chunk.rank} (host {hosts[chunk.rank]})"
        how = "is the next to end on"
        for program, indices, _ in chunk.span(chunk.done, chunk.size):
            for index in indices:
                places[program.pid, index] = f"{how} {where}"
                how = "stands behind that on"
    return places


def _of_submission(
    submission: Submission,
    places: dict[tuple[int, int], str],
    held: dict[tuple[int, int], float],
) -> Iterator[str]:
    program = submission.program
    before = _predecessors(submission)
    left = _MOST_TASKS
    for index in range(program.ntasks):
        if program.states[index] >= FIRST_FINAL:
            continue
        if not left:
            yield f"    and others: {program.remaining} of this start in all\n"
            return
        left -= 1
        name = f"    task {submission.uids[index]} {submission.names[index]!r}"
        if program.states[index] == State.READY:
            yield f"{name} is ready, and no worker is free for it\n"
        elif (program.pid, index) in places:
            yield f"{name} {places[program.pid, index]}\n"
        elif (program.pid, index) in held:
            which = len(program.tried[index]) + 1
            left_s = max(held[program.pid, index] - time.perf_counter(), 0.0)
            yield f"{name} has failed, and attempt {which} begins in {left_s:.1f} s\n"
        else:
            waits_for = ", ".join(before.get(index, ["nothing that is known"])[:8])
            yield f"{name} waits for {waits_for}\n"


def _predecessors(submission: Submission) -> dict[int, list[str]]:
    """Name the unfinished predecessors of each task."""
    program = submission.program
    found: dict[int, list[str]] = {}
    if program.graph is not None:
        graph = program.graph
        for source in range(graph.nnodes):
            if program.states[source] >= FIRST_FINAL:
                continue
            name = _name(submission, program, source)
            for edge in range(graph.succ_start[source], graph.succ_start[source + 1]):
                found.setdefault(graph.succ[edge], []).append(name)
    for index, producer, source in program.externals:
        owner = producer.owner() if producer.owner is not None else None
        if producer.states[source] < FIRST_FINAL and isinstance(owner, Submission):
            found.setdefault(index, []).append(_name(owner, producer, source))
    return found


def _name(submission: Submission, program: Program, index: int) -> str:
    if index >= program.ntasks:
        return "several tasks together"
    return f"task {submission.uids[index]} {submission.names[index]!r}"
