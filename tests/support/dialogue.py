"""A talk with a scheduler in words: one event in, the commands out as sentences.

Programs are named by letters, their tasks ``A0``, ``A1``, ...; chunks ``c0``, ``c1``, ... in the
order in which they were cut.  The invariants are asserted after each event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from alamo_mpi.core.estimate import Durations
from alamo_mpi.core.events import (
    Command,
    Event,
    Failed,
    Finished,
    Interrupted,
    Progressed,
    RecallTail,
    Retried,
    SendChunk,
    Settled,
    Submitted,
    TailReturned,
    Terminated,
    Ticked,
    Unrun,
)
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.program import Program
from alamo_mpi.core.scheduler import Scheduler
from alamo_mpi.core.states import State

#: Of functions that were measured before a test begins: their number is their milliseconds.
MEASURED_MS = (1, 2, 5, 10)
#: A function that was never measured.
UNKNOWN = 0

RAISED = Failed(State.FAILED)


def skipped(root: int) -> Failed:
    """Return what a worker says of a task behind the failed one at position `root`."""
    return Failed(State.SKIPPED, root)


def task(program: Program, index: int) -> str:
    return f"{chr(ord('A') + program.pid)}{index}"


class Dialogue:
    """A scheduler with these workers, on a clock that the test sets.

    Functions are numbered by their milliseconds, see `MEASURED_MS`.
    """

    def __init__(self, *ranks: int) -> None:
        durations = Durations()
        for kind in MEASURED_MS:
            durations.observe(kind, 1, kind * 1e-3)
        self.scheduler = Scheduler(ranks, durations)
        self.now = 0.0
        #: What each chunk that was sent held then.
        self.needs: dict[int, dict[int, tuple[int, ...]]] = {}
        self._programs = 0

    def program(
        self,
        kinds: int | Sequence[int],
        ntasks: int,
        graph: Graph | None = None,
        externals: Sequence[tuple[int, Program, int]] = (),
        widths: Mapping[int, int] | None = None,
        pins: Mapping[int, Iterable[int]] | None = None,
        spreads: Mapping[int, tuple[frozenset[int], ...]] | None = None,
    ) -> Program:
        """Return the next program, not yet submitted."""
        self._programs += 1
        places = {index: frozenset(ranks) for index, ranks in (pins or {}).items()}
        number = self._programs - 1
        places_of = {"widths": widths, "pins": places, "spreads": spreads}
        return Program(number, kinds, ntasks, graph, externals, **places_of)  # type: ignore[arg-type]

    def handle(self, event: Event) -> list[str]:
        commands = self.scheduler.handle(event, self.now)
        self.scheduler.check()
        return [self._say(command) for command in commands]

    def submit(self, program: Program) -> list[str]:
        return self.handle(Submitted(program))

    def ended(
        self,
        chunk: int,
        count: int,
        failures: Mapping[int, Failed] | None = None,
        kept: Mapping[int, int] | None = None,
        seconds: Mapping[int, tuple[int, float]] | None = None,
    ) -> list[str]:
        return self.handle(Progressed(chunk, count, failures or {}, kept or {}, seconds or {}))

    def returned(self, rank: int, tails: Mapping[int, int]) -> list[str]:
        return self.handle(TailReturned(rank, tails))

    def tick(self, now: float) -> list[str]:
        """Let time pass until `now`, in seconds."""
        self.now = now
        return self.handle(Ticked())

    def terminate(self) -> list[str]:
        return self.handle(Terminated())

    def _say(self, command: Command) -> str:
        if isinstance(command, SendChunk):
            chunk = command.chunk
            self.needs[chunk.number] = dict(chunk.needs)
            tasks = [
                task(program, index)
                for program, indices, _ in chunk.span(0, chunk.size)
                for index in indices
            ]
            ranks = "+".join(map(str, chunk.gang or [chunk.rank]))
            return f"send c{chunk.number} to {ranks}: {' '.join(tasks)}"
        if isinstance(command, RecallTail):
            return f"recall from {command.rank}"
        if isinstance(command, Interrupted):
            return f"interrupt {command.rank}: {' '.join(f'c{n}' for n in command.chunks)}"
        if isinstance(command, Settled):
            states = [State(command.program.states[index]).name for index in command.indices]
            names = [task(command.program, index) for index in command.indices]
            ends = [f"{name} {state.lower()}" for name, state in zip(names, states, strict=True)]
            return f"from {command.rank}, {command.offset}: {', '.join(ends)}"
        if isinstance(command, Retried):
            return f"from {command.rank}, {command.offset}: {task(*command[:2])} tried again"
        if isinstance(command, Unrun):
            program, index, state, root = command
            why = f" for {task(*root)}" if root is not None else ""
            return f"{task(program, index)} {state.name.lower()}{why}"
        assert isinstance(command, Finished)
        return f"finished {chr(ord('A') + command.program.pid)}"
