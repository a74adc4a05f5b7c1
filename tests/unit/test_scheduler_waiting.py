"""Tasks that wait: their chunk is put aside, their worker gets others, deeper programs go first."""

from __future__ import annotations

import pytest

from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.events import (
    Cancelled,
    Command,
    Event,
    Interrupted,
    Progressed,
    RecallTail,
    Resumed,
    SendChunk,
    Submitted,
    Suspended,
    TailReturned,
)
from alamo_mpi.core.program import Program
from alamo_mpi.core.scheduler import Scheduler
from alamo_mpi.core.states import State
from alamo_mpi.errors import InternalError

QUICK, OTHER = 1, 2


class Talk:
    """A scheduler with known durations; invariants are held after each event."""

    def __init__(self, nworkers: int) -> None:
        self.durations = Durations()
        for kind in (QUICK, OTHER):
            self.durations.observe(kind, 1, 1e-4)
        self.scheduler = Scheduler(range(1, nworkers + 1), self.durations)

    def __call__(self, event: Event, now: float = 0.0) -> list[Command]:
        commands = self.scheduler.handle(event, now)
        self.scheduler.check()
        return commands

    def sent(self, event: Event, now: float = 0.0) -> list[tuple[int, int, int, int]]:
        """Return (chunk, rank, first program, tasks) of each chunk that goes out."""
        return [
            (c.chunk.number, c.chunk.rank, c.chunk.parts[0][0].pid, c.chunk.size)
            for c in self(event, now)
            if isinstance(c, SendChunk)
        ]


def ended(chunk: int, count: int = 1) -> Progressed:
    return Progressed(chunk, count, {}, {}, {})


def test_a_worker_whose_task_waits_gets_other_tasks() -> None:
    talk = Talk(1)
    first, second = Program(0, QUICK, 1), Program(1, OTHER, 1)
    assert talk.sent(Submitted(first)) == [(0, 1, 0, 1)]
    talk(Suspended(0, 0))
    assert talk.sent(Submitted(second)) == [(1, 1, 1, 1)]
    assert talk.scheduler.running == 2
    talk(ended(1))
    talk(Resumed(0))
    talk(ended(0))
    assert (talk.scheduler.running, talk.scheduler.unfinished) == (0, 0)


def test_what_was_behind_it_goes_out_again_and_its_like_alone() -> None:
    talk = Talk(1)
    assert talk.sent(Submitted(Program(0, QUICK, 5))) == [(0, 1, 0, 5)]
    assert talk.sent(Suspended(0, 4)) == [(1, 1, 0, 1)]
    assert talk.sent(Suspended(1, 0)) == [(2, 1, 0, 1)]


def test_a_worker_with_a_resumed_task_gets_nothing_and_gives_all_back() -> None:
    talk = Talk(2)
    assert talk.sent(Submitted(Program(0, QUICK, 1))) == [(0, 1, 0, 1)]
    talk(Suspended(0, 0))
    talk.durations.observe(OTHER, 1, 1.0)
    talk.durations.observe(OTHER, 1, 1.0)
    sent = talk.sent(Submitted(Program(1, OTHER, 2)))
    assert {rank for _, rank, _, _ in sent} == {1, 2}
    ours, others = sorted(sent, key=lambda chunk: chunk[1])
    talk(Resumed(0))
    # The other worker is idle again, and this one has not begun its chunk.
    commands = talk(ended(others[0]), now=1.0)
    assert RecallTail(1) in commands
    assert talk.sent(TailReturned(1, {ours[0]: 1}), now=1.0) == [(3, 2, 1, 1)]
    # Idle but for the resumed task, it gets nothing.
    assert talk.sent(Submitted(Program(2, QUICK, 1)), now=1.0) == []
    assert talk.sent(ended(0), now=1.0) == [(4, 1, 2, 1)]


def test_deeper_programs_come_first() -> None:
    talk = Talk(1)
    talk.durations.observe(QUICK, 1, 1.0)
    talk(Submitted(Program(0, QUICK, 1)))
    talk(Submitted(Program(1, QUICK, 1)))
    talk(Submitted(Program(2, QUICK, 1, depth=1)))
    talk(Submitted(Program(3, QUICK, 1, depth=3)))
    talk(Submitted(Program(4, QUICK, 1, depth=3)))
    order = []
    chunk = 0
    while sent := talk.sent(ended(chunk)):
        chunk, _, pid, _ = sent[0]
        order.append(pid)
    assert order == [3, 4, 2, 1]


def test_cancelling_one_program_of_a_chunk() -> None:
    """Its tasks are named by position; what comes back of the other goes out again."""
    talk = Talk(1)
    talk(Submitted(Program(9, OTHER, 1)))
    talk(Suspended(0, 0))
    blocker = Program(0, QUICK, 1)
    talk(Submitted(blocker))
    keep, drop = Program(1, QUICK, 2), Program(2, QUICK, 2)
    talk(Submitted(keep))
    talk(Submitted(drop))
    commands = talk(Cancelled([drop]))
    positions = [c.chunks for c in commands if isinstance(c, Interrupted)]
    for chunks in positions:
        assert None not in chunks.values()
    states = {State(state) for state in drop.states}
    assert states <= {State.CANCELLED, State.RUNNING}
    assert State.CANCELLED not in {State(state) for state in keep.states}


@pytest.mark.parametrize("event", [Suspended(7, 0), Resumed(7), Suspended(0, 3), Resumed(0)])
def test_what_does_not_fit_is_refused(event: Event) -> None:
    talk = Talk(1)
    talk(Submitted(Program(0, QUICK, 2)))
    with pytest.raises(InternalError):
        talk(event)
