"""What must be true of a scheduler between two events; `Scheduler.check` asserts it in tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import FIRST_FINAL, State
from alamo_mpi.errors import InternalError

__all__ = ["check_programs", "expect"]


def check_programs(
    programs: Mapping[int, Program],
    chunks: Mapping[int, Chunk],
    nready: int,
    apart: Mapping[int, int],
    held: Collection[tuple[int, int]] = (),
) -> None:
    """Hold states, ready sets, counters and chunks against each other; O(tasks).

    Parameters
    ----------
    programs
        The unfinished programs by number.
    chunks
        The chunks on workers by number.
    nready
        How many tasks are thought to be ready, in the ready sets.
    apart
        Number of ready tasks of each program that wait elsewhere: jobs, and what not all may run.
    held
        Program number and task, of those between two attempts.

    Raises
    ------
    InternalError
        Naming the first contradiction.
    """
    on_workers = [
        (program.pid, index)
        for chunk in chunks.values()
        for program, indices, _ in chunk.span(chunk.done, chunk.size)
        for index in indices
    ]
    sent = set(on_workers)
    expect(len(sent) == len(on_workers), "no task is on two workers")
    for program in programs.values():
        mine = {index for pid, index in sent if pid == program.pid}
        resting = {index for pid, index in held if pid == program.pid}
        _check_program(program, mine, apart.get(program.pid, 0), resting)
    gone = {pid for pid, _ in held} - programs.keys()
    expect(not gone, f"programs with held tasks are there, not {gone}")
    ready = sum(program.ready.count for program in programs.values())
    expect(nready == ready, f"{nready} tasks are ready, not {ready}")


def _check_program(program: Program, sent: set[int], napart: int, held: set[int]) -> None:
    states = program.states[: program.ntasks]
    nready = states.count(State.READY) - napart
    expect(program.ready.count == nready, "the ready set holds the ready tasks", program)
    expect(not nready or program.queued, "a program with ready tasks is queued", program)
    final = sum(state >= FIRST_FINAL for state in states)
    expect(program.remaining == program.ntasks - final, "remaining tasks are counted", program)
    expect(program.remaining > 0, "a finished program is dropped", program)
    for index, state in enumerate(states):
        running = state == State.RUNNING
        expect((index in sent) == running, f"task {index} runs as it is sent", program)
        expected = bool(program.waiting) and program.waiting[index] > 0
        waiting = state != State.WAITING or (index in held) != expected
        expect(waiting, f"task {index} waits, for somebody or for its next attempt", program)
        expect(index not in held or state == State.WAITING, f"task {index} is held", program)


def expect(truth: bool, what: str, program: Program | None = None) -> None:
    """Raise InternalError unless what was expected is true."""
    if not truth:
        where = "" if program is None else f" in program {program.pid}: {bytes(program.states)!r}"
        raise InternalError(f"The scheduler expected that {what}{where}.")
