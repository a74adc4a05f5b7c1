"""Run the tasks of a chunk, one after the other, and report each end.

This is the inner loop of a worker.  Whatever a task does, be it to raise, exit, print a hundred
megabytes or return what cannot be pickled, ends as an entry in the report; nothing leaves `run`.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from alamo_mpi.core.messages import INTERRUPTED, Failure, Run
from alamo_mpi.errors import SerializationError, TaskTimeoutError
from alamo_mpi.runtime import spool
from alamo_mpi.runtime.cow import SharedBuffers
from alamo_mpi.runtime.elsewhere import FailedElsewhere, GivenUp, Packed
from alamo_mpi.runtime.failures import describe
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK
from alamo_mpi.runtime.packing import ATOMS, dumps, loads, nbytes_of, pack, private, unpack
from alamo_mpi.runtime.report import Pause, Report
from alamo_mpi.runtime.runners import Guard, Interruption
from alamo_mpi.runtime.turn import Turn
from alamo_mpi.runtime.witnessed import BUSY, IDLE, RUNNING, TASK, mark

if TYPE_CHECKING:
    from alamo_mpi.runtime.cells import Order
    from alamo_mpi.runtime.isolated import Isolation

__all__ = ["Executor", "Kept", "Work", "uid_of"]

#: A result or output up to this many bytes travels with the report; a larger one stays here.
RIDES_NBYTES = 1 << 16
#: Of an output that stayed here, a client gets this much at a time.
_PIECE_NBYTES = 4 << 20

_NOTHING = (b"", b"")
#: What a task wrote to stdout and stderr.
Streams = tuple[spool.Output, spool.Output]


class Output(Protocol):
    """What `Executor` needs of a capture."""

    def begin(self) -> None: ...

    def take(self) -> Streams: ...

    def end(self) -> None: ...


class Work:
    """A chunk on its worker: the message, and the positions that are not started yet.

    The main thread takes positions from the left, a recall from the right; each operation of a
    `deque` is atomic, so every position is taken exactly once.
    """

    __slots__ = (
        "at_end",
        "at_loss",
        "given_up",
        "guard",
        "in_task",
        "overdue",
        "pause",
        "position",
        "printed",
        "raised",
        "remote",
        "run",
        "thread",
        "todo",
    )

    def __init__(self, run: Run, remote: Sequence[int] = ()) -> None:
        self.run = run
        #: Tasks whose results come from other workers.
        self.remote = remote
        #: Positions to be interrupted.  Set before the interrupting signal is sent, looked at
        #: after ``in_task`` is set: a task that is just about to start gets either the one or the
        #: other.
        self.given_up: frozenset[int] = frozenset()
        #: Of those, the limits of the ones that have run longer than they may.
        self.overdue: dict[int, float] = {}
        #: The position that an interruption was last raised in.
        self.raised = -1
        self.todo = deque(range(len(run.arguments)))
        #: What is to be called after the running task.
        self.at_end: list[Callable[[], None]] = []
        #: What is to be called if it is given up while it waits.
        self.at_loss: list[Callable[[], None]] = []
        #: The task that runs, or waits.
        self.position = -1
        #: Whether user code runs: only then an interruption may be raised.
        self.in_task = False
        #: What the running task wrote before it waited.
        self.printed: Streams | None = None
        #: What the report knew of the running task when it began to wait.
        self.pause: Pause | None = None
        #: The thread that runs it, and what aims interruptions at it, on a runner.
        self.thread = 0
        self.guard: Guard | None = None

    @property
    def on_runner(self) -> bool:
        """Whether a runner runs it."""
        return self.guard is not None and self.guard.on_runner

    def give_back(self) -> int:
        """Take away every position not started; return their number."""
        count = 0
        while True:
            try:
                self.todo.pop()
            except IndexError:
                return count
            count += 1


class Kept:
    """Outputs that stay on the worker: too big to ride along, or an argument of another task.

    Keys are (uid, "result" | "stdout" | "stderr"); what a task wrote is bytes, or a file if it is
    much, and is asked for in pieces.
    """

    def __init__(self) -> None:
        self._payloads: dict[tuple[int, str], Any] = {}

    def put(self, uid: int, what: str, payload: Any) -> None:
        """Keep a payload."""
        self._payloads[uid, what] = payload

    def find(self, key: tuple[int, str] | tuple[int, str, int]) -> tuple[Any] | None:
        """Return the payload in a 1-tuple, None if it is not here; of an output a piece."""
        try:
            payload = self._payloads[key[:2]]
        except KeyError:
            return None
        if len(key) == 3:
            payload = pickle.PickleBuffer(payload[key[2] : key[2] + _PIECE_NBYTES])
        return (payload,)

    def forget(self, keys: list[tuple[int, str]]) -> None:
        """Free these values; unknown ones are ignored."""
        for key in keys:
            self._payloads.pop(key, None)

    def clear(self) -> None:
        """Free all."""
        self._payloads.clear()


#: What runs is called this when its function was never unpickled in this process.
_ISOLATED = SimpleNamespace(__name__="an isolated task")


class Executor:
    """Runs chunks, on whichever thread has the turn.

    Parameters
    ----------
    turn
        Whose turn it is to run user code.
    report
        Where ends of tasks go.
    output
        Captures what tasks write.
    fetch
        Gets the payload of another task's result: called with its uid and `Run.sources`.
    watch
        Told of each task that has a limit when it starts, with the limit.

    Attributes
    ----------
    kept : Kept
        Outputs that stay here.
    buffers : SharedBuffers
        Shared arguments that were sent here.
    """

    def __init__(
        self,
        turn: Turn,
        report: Report,
        output: Output,
        fetch: Callable[[int, dict[int, tuple[Any] | int]], Any],
        watch: Callable[[Work, float], None],
    ) -> None:
        self._turn = turn
        self._report = report
        self._output = output
        self._fetch = fetch
        self._watch = watch
        self._isolation: Isolation | None = None
        self._functions: dict[int, Callable[..., Any]] = {}
        self._definitions: dict[int, bytes] = {}
        self.kept = Kept()
        self.buffers = SharedBuffers()
        #: Seconds spent in chunks, waits aside.
        self.busy_s = 0.0
        self._busy_since = 0.0
        #: Says what runs here when this rank is lost.
        self._mark = mark()
        self._watched = False

    def define(self, definitions: dict[int, bytes]) -> None:
        """Take in functions; they are unpickled when the first task needs them."""
        self._definitions.update(definitions)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture what tasks write; once for as many chunks as follow each other."""
        self._begin_output()
        try:
            yield
        finally:
            self._end_output()

    def _begin_output(self) -> None:
        if not self._watched:
            self._mark.wait_until_watched()
            self._watched = True
        self._busy_since = time.perf_counter()
        self._mark.slot[RUNNING] = BUSY
        self._output.begin()

    def _end_output(self) -> None:
        self._output.end()
        self._mark.slot[RUNNING] = IDLE
        self.busy_s += time.perf_counter() - self._busy_since

    def run(self, work: Work) -> None:
        """Run what is left to do of a chunk, inside `capturing`; returns when nothing is."""
        run, next_position, report = work.run, work.todo.popleft, self._report
        take, needs, special = self._output.take, run.needs, bool(run.inputs or run.keeps)
        turn, guard, limits, isolated = self._turn, work.guard, run.limits, run.isolated
        report.begin(run.chunk, run.record)
        kinds, arguments = run.functions, run.arguments
        failed: dict[int, int] = {}
        kind, function = -1, None
        call: Callable[..., Any] | None
        values: Any
        named: object
        slot, uids, fresh = self._mark.slot, run.uids, False
        while True:
            while work.at_end:
                work.at_end.pop()()
            work.at_loss.clear()
            if turn.returning:
                self._pass_on(work, kind)
            try:
                position = work.position = next_position()
            except IndexError:
                return
            if needs and position in needs:
                roots = [failed[p] for p in needs[position] if p in failed]
                if roots:
                    failed[position] = roots[0]
                    report.add_more(None, Failure("", "", "", None, roots[0]), 0, None)
                    continue
            following = kinds if isinstance(kinds, int) else kinds[position]
            if following != kind:
                kind, function, fresh = following, self._functions.get(following), True
                report.turn_to(kind)
            try:
                payload = arguments[position]
                slot[TASK] = uids + position if isinstance(uids, int) else uids[position]
                if isolated and position in isolated:
                    call, values = self._isolate(), (self._order(work, position, kind, payload),)
                    named = function or _ISOLATED
                else:
                    if function is None and kind != TRAVELS_WITH_TASK:
                        function = self._load(kind)
                    atoms = type(payload) is tuple
                    values = payload if atoms else unpack(payload, self.buffers.find)
                    if special and position in run.inputs:
                        values = self._fill_in(values, run, position)
                    call = function
                    if call is None:
                        call, *values = values
                    named = call
                if fresh or function is None:
                    fresh = False
                    self._mark.name(named)
                if position in limits and position not in isolated:
                    self._watch(work, limits[position])
                work.in_task = True
                if position in work.given_up:
                    raise Interruption
                result = call(*values) if guard is None else guard.call(call, values, work)
                work.in_task = False
            except BaseException as error:
                work.in_task = False
                failed[position] = position
                self._failed(error, work, position)
                continue
            finally:
                payload = values = call = named = None
            output = take()
            if work.printed is not None:
                output = _joined(work, output)
            if type(result) in ATOMS and output == _NOTHING and not special:
                report.add(result)
            else:
                if not self._done(result, output, run, position):
                    failed[position] = position
                result = None

    def _pass_on(self, work: Work, kind: int) -> None:
        """Let tasks go on that have waited, between two tasks of a chunk."""
        self._end_output()
        try:
            self._turn.pass_on()
        finally:
            self._begin_output()
            self._report.begin(work.run.chunk, work.run.record)
            self._report.turn_to(kind)

    def part(self, work: Work, say: Callable[[], None]) -> None:
        """Take the running task off its turn, as it waits.

        Parameters
        ----------
        say
            Called once all that has ended before is reported.
        """
        if work.guard is not None:
            work.guard.leave()
        work.in_task = False
        output = self._output.take()
        if output != _NOTHING or work.printed is not None:
            work.printed = _joined(work, output)
        work.pause = self._report.pause()
        say()
        self._end_output()
        self._turn.give()

    def regain(self, work: Work, say: Callable[[], None]) -> None:
        """Let the task go on after its wait: with the turn, output and report as they were.

        Parameters
        ----------
        say
            Called once it has the turn.

        Raises
        ------
        Interruption
            If the task was given up meanwhile.
        """
        try:
            self._turn.take_again()
        finally:
            self._begin_output()
            assert work.pause is not None
            self._report.resume(work.run.chunk, work.run.record, work.pause)
            say()
            work.in_task = True
            if work.guard is not None:
                work.guard.enter()
        if work.position in work.given_up:
            raise Interruption

    def _load(self, kind: int) -> Callable[..., Any]:
        function: Callable[..., Any] = loads(self._definitions[kind])
        self._functions[kind] = function
        del self._definitions[kind]
        return function

    def _isolate(self) -> Callable[[Order], Any]:
        """Return what runs a task in a process of its own; made at the first use."""
        if self._isolation is None:
            from alamo_mpi.runtime.isolated import Isolation  # most workers never need it

            self._isolation = Isolation()
        return self._isolation.call

    def _order(self, work: Work, position: int, kind: int, payload: Any) -> Order:
        """Return a task as its own process gets it: packed as it came."""
        from alamo_mpi.runtime.cells import Order

        run = work.run
        begin = None
        if position in run.limits:
            # Its time begins when the process is there, which may have to be started.
            begin = functools.partial(self._watch, work, run.limits[position])

        def definition() -> bytes:
            pickled = self._definitions.get(kind)
            return dumps(self._functions[kind]) if pickled is None else pickled

        inputs = [(at, self._fetch(uid, run.sources)) for at, uid in run.inputs.get(position, ())]
        uid, depth = uid_of(run, position), run.depth + 1
        return Order(kind, definition, payload, inputs, uid, depth, self.buffers.file_of, begin)

    def _fill_in(self, values: Any, run: Run, position: int) -> list[Any]:
        """Put results of other tasks in their places among the arguments."""
        filled = list(values)
        for at, uid in run.inputs[position]:
            # The task may change it, and others may still read it.
            payload = private(self._fetch(uid, run.sources))
            filled[at] = unpack(payload, self.buffers.find)
        return filled

    def _done(self, result: Any, output: Streams, run: Run, position: int) -> bool:
        """Report a result that needs care; return whether it could be packed."""
        uid = uid_of(run, position)
        try:
            if type(result) is Packed:
                payload = result.payload
            else:
                payload = pack(result, _sole_owner(result, sys.getrefcount(result)))
        except SerializationError as error:
            problem = SerializationError(f"The result of the task was lost: {error}")
            problem.__cause__ = error.__cause__
            streams = self._streams(output, uid)
            self._report.add_more(None, describe(problem, 0), 0, streams)
            return False
        nbytes = nbytes_of(payload)
        wanted = position in run.keeps
        if wanted or nbytes > RIDES_NBYTES:
            self.kept.put(uid, "result", payload)
        kept = nbytes if nbytes > RIDES_NBYTES else 0
        self._report.add_more(None if kept else payload, None, kept, self._streams(output, uid))
        return True

    def _failed(self, error: BaseException, work: Work, position: int) -> None:
        limit_s = work.overdue.get(position)
        text = error.text if isinstance(error, GivenUp) else None
        if isinstance(error, Interruption) and limit_s is not None:
            # With the traceback of where it was.
            error = TaskTimeoutError(limit_s=limit_s).with_traceback(error.__traceback__)
        if isinstance(error, FailedElsewhere):
            failure = error.failure
        else:
            failure = describe(error, 1 if work.guard is None else 2)
        if text is not None:
            failure = failure._replace(traceback=text)
        if isinstance(error, Interruption):
            failure = failure._replace(pickled=None, root=INTERRUPTED)
        output = self._output.take()
        if work.printed is not None:
            output = _joined(work, output)
        streams = self._streams(output, uid_of(work.run, position))
        self._report.add_more(None, failure, 0, streams)

    def _streams(self, output: Streams, uid: int) -> tuple[bytes | int, bytes | int] | None:
        out, err = output
        if not out and not err:
            return None
        return self._stream(uid, "stdout", out), self._stream(uid, "stderr", err)

    def _stream(self, uid: int, what: str, data: spool.Output) -> bytes | int:
        if isinstance(data, bytes) and len(data) <= RIDES_NBYTES:
            return data
        self.kept.put(uid, what, data)
        return len(data)


def _joined(work: Work, output: Streams) -> Streams:
    """Return what a task wrote before and after it waited."""
    before, work.printed = work.printed or _NOTHING, None
    return spool.joined(before[0], output[0]), spool.joined(before[1], output[1])


def uid_of(run: Run, position: int) -> int:
    """Return the id of a task of a chunk."""
    return run.uids + position if isinstance(run.uids, int) else run.uids[position]


def _sole_owner(result: Any, references: int) -> Callable[[memoryview], pickle.PickleBuffer]:
    """Return how to place the buffers of a result: as they are, if nobody else can change them.

    An array that owns its data and that only we refer to (the caller's variable and the argument
    of `sys.getrefcount`) needs no copy; anything else the task may have kept and change later.
    """
    if references <= 3 and type(result).__module__ == "numpy" and result.base is None:
        return pickle.PickleBuffer
    return lambda raw: pickle.PickleBuffer(bytearray(raw))
