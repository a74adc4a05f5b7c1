"""What travels between ranks: one named tuple per message; the tag is the kind.

A message is pickled as the plain tuple of its fields; `KINDS` rebuilds it from the tag, so no
class name travels.  Every send has its receive named here:

======================  ==========  ==========  ====================================================
message                 from        to          received by
======================  ==========  ==========  ====================================================
`Run`                   manager     worker      ``runtime.worker.Worker.dispatch`` (queued for main)
`Recall`                manager     worker      ``Worker.dispatch`` (answered at once by `Returned`)
`Interrupt`             manager     worker      ``Worker.dispatch`` (signals the main thread)
`Configure`, `Forget`   manager     worker      ``Worker.dispatch``
`Stop`                  manager     worker      ``Worker.dispatch`` (answered by `Stopped`)
`Fetch`                 any         worker      ``Worker.dispatch`` (answered at once by `Value`)
`Value`                 worker      any         ``Worker.dispatch``, ``Manager.dispatch``
`Progress`, `Returned`  worker      manager     ``runtime.manager.Manager.dispatch``
`Suspend`, `Resume`     worker      manager     ``Manager.dispatch``
`Stopped`               worker      manager     ``Manager.dispatch``
`Enlist`, `Dismiss`     worker      worker      ``runtime.jobsite.JobSite.dispatch``;
                                                defined in `core.jobmessages`
`Join`, `Part`          worker      worker      the same
`SpawnTurn`             any         any         the same; ``runtime.spawnturns`` on rank 0
`Dump`                  manager     worker      ``Worker.dispatch`` (answered by `StackText`)
`StackText`, `Armed`    worker      manager     ``runtime.stall.Watchdog.take``
`Wake`                  any         any         both; to have received it is all there is to it
`Ask`, `Register`,      client      manager     ``runtime.desk.Desk.dispatch``
`Leave`, `Submit`,
`Drop`, `Cancel`, `Gone`
`Waits`
`Answer`, `Ended`,      manager     client      ``runtime.remote.RemoteService.dispatch``, by way of
`Over`                                          the ``Worker.dispatch`` of the address's rank
======================  ==========  ==========  ====================================================

*Addresses.*  A client that is not on rank 0 is known by its process, (rank, connection), where
connection 0 is the rank itself, and by a key that its process counts.

*Payloads.*  What a user passes or returns travels in one of three shapes, told apart by type:
an *atom* (``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``; a tuple of atoms for an
argument list) as it is; ``bytes``, a pickle; a ``list``, a pickle followed by its out-of-band
buffers, each either a buffer or the ``int`` name of a blob that the worker already has.
"""

# Annotations are objects here, not text: NamedTuple would compile each one, on every rank.

from typing import Any, NamedTuple

from alamo_mpi.core.jobmessages import Dismiss, Enlist, Join, Part, SpawnTurn

__all__ = [
    "INTERRUPTED",
    "KINDS",
    "OWN",
    "Address",
    "Answer",
    "Armed",
    "Ask",
    "Cancel",
    "Configure",
    "Drop",
    "Dump",
    "Ended",
    "Failure",
    "Fetch",
    "Forget",
    "Gone",
    "Interrupt",
    "Key",
    "Leave",
    "Over",
    "Progress",
    "Recall",
    "Register",
    "Resume",
    "Returned",
    "Run",
    "StackText",
    "Stop",
    "Stopped",
    "Submit",
    "Suspend",
    "Value",
    "Waits",
    "Wake",
    "tag_of",
]

Payload = Any
#: Where a client is: its rank, and which of that rank's connections; 0 is the rank itself.
Address = tuple[int, int]
#: Names a kept value; see `Fetch`.
Key = tuple[int, str] | tuple[int, str, int]

#: `Failure.root` of a task that failed itself, and of one that was interrupted from outside.
OWN = -1
INTERRUPTED = -2


class Failure(NamedTuple):
    """Why one task of a chunk has no result; travels inside `Progress`."""

    #: Qualified name of the exception's class, or "" for a task that was skipped.
    type_name: str
    #: ``str(exception)``.
    message: str
    #: The formatted traceback on the worker.
    traceback: str
    #: The pickled exception, or None if it cannot be pickled.
    pickled: bytes | None
    #: `OWN`, `INTERRUPTED`, or for a skipped task the position in its chunk of the one at the root.
    root: int
    #: What the exception is, see `core.retry.kinds_of`.
    kinds: tuple[str, ...] = ()


class Run(NamedTuple):
    """A chunk: run these tasks in this order."""

    chunk: int
    #: Function of each task: one id for all, or a list.
    functions: int | list[int]
    #: Argument list of each task, as payloads.
    arguments: list[Payload]
    #: position -> positions in this chunk whose failure makes it skipped (RAW).
    needs: dict[int, tuple[int, ...]]
    #: position -> [(argument index, uid of the task whose result goes there)].
    inputs: dict[int, list[tuple[int, int]]]
    #: uid -> where a result that an argument needs is: a payload in a 1-tuple, or the rank.
    sources: dict[int, tuple[Payload] | int]
    #: position -> uid, for tasks whose result another task takes as an argument.
    keeps: dict[int, int]
    #: Definitions the worker does not have yet: id -> pickled function.
    definitions: dict[int, bytes]
    #: Large shared arguments the worker does not have yet: id -> buffer.
    blobs: dict[int, Any]
    #: uid of the first task and, where they are not consecutive, of each.
    uids: int | list[int]
    #: Whether to record when each task started and ended.
    record: bool
    #: How deep its tasks are nested: 0 for what the main program has started.
    depth: int
    #: position -> seconds that it may run, for tasks that have a limit.
    limits: dict[int, float]
    #: Of a job, which is alone in its chunk, the workers that it has taken, this one first.
    gang: tuple[int, ...] = ()
    #: Positions that run in a process of their own.
    isolated: frozenset[int] = frozenset()


class Recall(NamedTuple):
    """Give back every task that was not started yet."""


class Interrupt(NamedTuple):
    """Give up tasks of these chunks, and give back all that were not started.

    chunk -> positions to be given up, None for all.  From the leader of a job without processes:
    its job, for your rank of it.
    """

    chunks: dict[int, list[int] | None]


class Configure(NamedTuple):
    """Set what tasks and loggers see: module search path, level of one batch's logger."""

    search_path: list[str] | None
    logger: str | None
    level: int


class Forget(NamedTuple):
    """Free these blobs and kept values."""

    blobs: list[int]
    #: (uid, "result", "stdout" or "stderr").
    values: list[tuple[int, str]]


class Fetch(NamedTuple):
    """Send a kept value."""

    #: (uid, "result"), or (uid, "stdout" or "stderr", number of the first byte that is wanted).
    key: Key


class Value(NamedTuple):
    """The answer to `Fetch`; ``payload`` is a 1-tuple, or None if the value is not there.

    Of an output it is a piece, as long as the worker likes to send at once.
    """

    key: Key
    payload: tuple[Payload] | None


class Stop(NamedTuple):
    """End the service loop."""

    #: Whether an error ends the program.
    failed: bool


class Stopped(NamedTuple):
    """The last message of a worker."""

    busy_seconds: float


class Wake(NamedTuple):
    """Look often for a while: operations on this rank's memory are coming from another node."""


class Progress(NamedTuple):
    """The next ``ended`` tasks of a chunk have ended, in the chunk's order."""

    chunk: int
    ended: int
    #: Payload of each result; None if every result is None.  Of a failed task: None.
    results: list[Payload] | None
    #: offset from the first task of this message -> why it has no result.
    failures: dict[int, Failure]
    #: offset -> bytes kept on the worker in place of a result that is too big to ride along.
    kept: dict[int, int]
    #: offset -> (stdout, stderr) for tasks that wrote something: bytes, or the number of bytes
    #: kept on the worker when there are too many.
    streams: dict[int, tuple[bytes | int, bytes | int]]
    #: function id -> (tasks run, seconds).
    seconds: dict[int, tuple[int, float]]
    #: (started, ended) of each task by the wall clock, when the chunk asked to record.
    spans: list[tuple[float, float]] | None


class Returned(NamedTuple):
    """The answer to `Recall`: chunk id -> number of tasks at its end that will not be run."""

    tails: dict[int, int]


class Suspend(NamedTuple):
    """The running task of a chunk waits; the ``tail`` tasks behind it will not be run."""

    chunk: int
    tail: int


class Resume(NamedTuple):
    """The task of a suspended chunk runs again."""

    chunk: int


class Ask(NamedTuple):
    """Ask the manager for something that has an answer."""

    address: Address
    #: Counted by the asking process.
    number: int
    #: "open", "join", "terminate", "records"; "means": what its workers have, as rank -> fields of
    #: a `core.gpus.Means`; or "held": by which tasks those of the client are.
    what: str
    #: Number of the batch; for "open", 0.
    batch: int
    details: tuple[Any, ...]


class Answer(NamedTuple):
    """The answer to `Ask`."""

    address: Address
    number: int
    #: Name and text of the exception to be raised, None if all is well.
    error: tuple[str, str] | None
    value: Any


class Register(NamedTuple):
    """A copy of a batch has come into being."""

    address: Address
    batch: int
    key: int


class Leave(NamedTuple):
    """A client submits nothing more."""

    address: Address
    batch: int
    key: int
    #: Nobody holds it any more though it was never closed: what it left unfinished is cancelled.
    dropped: bool
    #: Whether it was pickled, so that others may come to the batch yet.
    shared: bool


class Submit(NamedTuple):
    """A client starts tasks."""

    address: Address
    batch: int
    key: int
    #: Number of the start in the client's process.
    number: int
    depth: int
    #: Function of each task by the client's numbers: one for all, or a list.
    kinds: int | list[int]
    uids: int | list[int]
    names: str | list[str]
    #: Argument list of each task, as payloads; blobs by the client's numbers.
    arguments: list[Payload]
    #: Functions that this client's process has not sent before: number -> pickle.
    definitions: dict[int, bytes]
    #: Blobs among the arguments: number -> buffer.
    blobs: dict[int, Any]
    #: Task -> blobs that it needs.
    uses: dict[int, list[int]]
    #: Task -> [(argument index, number of the start, -1 for this one, task there)].
    inputs: dict[int, list[tuple[int, int, int]]]
    #: ntasks, indegree, succ_start, succ and hazard of the graph as bytes; None without edges.
    graph: tuple[int, bytes, bytes, bytes, bytes] | None
    #: Task -> number of workers that it takes at once, for those that are jobs.
    widths: dict[int, int]
    #: Task -> the workers that may run it, for those that not all may.
    pins: dict[int, frozenset[int]]
    #: Task -> the hosts over which it is to be spread, each as workers there, for such jobs.
    spreads: dict[int, tuple[frozenset[int], ...]]
    #: Task -> seconds that it may run, for those that have a limit.
    limits: dict[int, float]
    #: Task -> on what terms it is tried again, as fields of a `core.retry.Retry`.
    retry: dict[int, tuple[Any, ...]]
    #: Tasks that run in a process of their own.
    isolated: frozenset[int] = frozenset()


class Cancel(NamedTuple):
    """A client gives up tasks that it has started, or all of a batch."""

    address: Address
    batch: int
    #: Number of the start in the client's process; None for all tasks of the batch.
    number: int | None
    #: Which tasks of it; None for all.
    tasks: list[int] | None


class Waits(NamedTuple):
    """A task waits, or waits no more; answered, by `Answer`, only if that would have no end."""

    address: Address
    #: Of the answer, counted as for `Ask`.
    number: int
    #: The task that waits.
    uid: int
    #: ("batch", its number, -1) for the end of that, or ("start", its number, task or -1 for all);
    #: None: the wait is over.
    what: tuple[Any, ...] | None


class Drop(NamedTuple):
    """Nobody holds these starts of the client's process any more."""

    address: Address
    numbers: list[int]


class Gone(NamedTuple):
    """The process of this address has ended, or its connection has; the last that comes from it."""

    address: Address


class Ended(NamedTuple):
    """Tasks of one start are final, or attempts at some have ended."""

    address: Address
    number: int
    #: Which tasks, with the state of each.
    tasks: list[int]
    states: bytes
    #: Payload of each result; None if every result is None.
    results: list[Payload] | None
    #: Task -> (why it has no result, rank).
    failures: dict[int, tuple[Failure, int]]
    #: Task -> (rank, bytes), (rank, stdout, stderr), (start, task there), as in a `Submission`.
    kept: dict[int, tuple[int, int]]
    streams: dict[int, tuple[int, bytes | int, bytes | int]]
    roots: dict[int, tuple[int, int]]
    #: Whether these were the last.
    finished: bool
    #: Task -> all its attempts so far, as in a `Submission`, of those of which there is news.
    attempts: dict[int, list[tuple[Any, ...]]]


class Dump(NamedTuple):
    """Say what all threads of the rank do, as nothing has moved for long."""


class StackText(NamedTuple):
    """The answer to `Dump`: the Python stacks."""

    text: str


class Armed(NamedTuple):
    """Where a worker writes its stacks while it cannot answer: ``/proc/<pid>/fd/<fd>``."""

    pid: int
    fd: int


class Over(NamedTuple):
    """A batch takes no more tasks of clients in this process."""

    address: Address
    #: 0 where the program ends, and all of its batches.
    batch: int


#: Message class by tag, and back.  Only append: the order is the wire format.
KINDS: tuple[type[Any], ...] = (
    Run,
    Recall,
    Interrupt,
    Configure,
    Forget,
    Fetch,
    Value,
    Stop,
    Stopped,
    Progress,
    Returned,
    Wake,
    Suspend,
    Resume,
    Ask,
    Answer,
    Register,
    Leave,
    Submit,
    Drop,
    Ended,
    Over,
    Enlist,
    Dismiss,
    Join,
    Part,
    SpawnTurn,
    Cancel,
    Dump,
    StackText,
    Armed,
    Waits,
    Gone,
)

_TAGS = {kind: tag for tag, kind in enumerate(KINDS)}


def tag_of(message: object) -> int:
    """Return the tag that a message travels under."""
    return _TAGS[type(message)]
