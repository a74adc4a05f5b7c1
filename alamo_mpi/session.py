"""One program's use of the ranks: how it starts and who serves.

`init` takes the whole job (``COMM_WORLD``): rank 0 returns, the other ranks serve and leave the
process by ``SystemExit(0)``.  `serve` borrows the ranks of a host program's communicator for the
length of a ``with`` block.  Either way there is one current `Session` in a process, and rank 0
alone decides about its end (`alamo_mpi.ending`).

MPI is imported, and so started, by the first call and not by importing this module.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from alamo_mpi.core.grace import SETTING, grace_s
from alamo_mpi.core.silence import SETTING as HOST_TIMEOUT
from alamo_mpi.core.silence import silence_s
from alamo_mpi.ending import Guest, ProgramEnd, Session, interactive
from alamo_mpi.errors import RemoteError, TaskStateError
from alamo_mpi.skipbody import BodySkipped, SkipBody, check_caller
from alamo_mpi.stopsignals import leave_to_rank_0

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import Communicator, World
    from alamo_mpi.runtime.service import BatchService

__all__ = ["Session", "current", "init", "serve", "service"]

logger = logging.getLogger(__name__)


class _Process:
    """What this process is at the moment; one instance a process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: On rank 0: the session that is open.
        self.session: Session | None = None
        #: On a rank that serves, from the start to the end of serving.
        self.serving: World | None = None
        #: This rank has served a whole program and is on its way out.
        self.leaving = False
        #: The log says what the start has found; for blocks of `serve`, which may be many, once.
        self.told = False


_process = _Process()


def current() -> Session | None:
    """Return the open session of this process, or None; local, starts nothing."""
    return _process.session


def service() -> BatchService:
    """Return what batches of this process talk to; starts the runtime where it is not."""
    from alamo_mpi.runtime import service as services

    offered = services.current()
    if offered is not None:
        return offered
    service: BatchService = init().manager
    return service


def init() -> Session | Guest:
    """Start the runtime on all ranks of the job; collective over ``COMM_WORLD``, once.

    Returns
    -------
    Session
        On rank 0.  Later calls return the same one, as do calls inside the body of `serve`.
    Guest
        Inside a task on another rank, where all is up already.

    Raises
    ------
    SystemExit
        With status 0, on every other rank, when rank 0 is done: these ranks serve inside this
        call and never return from it.  With status 1, on every other rank, where the first one
        raises the `LaunchError` of them all.
    LaunchError
        When the launcher started N programs of one rank instead of one program of N ranks, MPI
        does not support threads, or the memory pool cannot be had.
    TaskStateError
        After the program's end has begun.

    Notes
    -----
    Constructing a service does this by itself.  Errors that nobody handles end the whole job from
    here on, see ``docs/launching.md``.
    """
    with _process.lock:
        if _process.leaving:
            raise SystemExit(0)
        if _process.serving is not None:
            return Guest(_process.serving)
        if _process.session is None:
            _check_no_descent()
            _process.session = _start_program()
        elif _process.session.ended:
            raise TaskStateError(
                "The program is ending, and its workers have been released: start services "
                "before that, not in an atexit callback."
            )
        return _process.session


def _check_no_descent() -> None:
    """Refuse to start MPI where it would crash or hang: in a program that a task has started."""
    from alamo_mpi.runtime import home
    from alamo_mpi.runtime.gateway.address import descent

    rank = descent()
    if home.exists():
        raise TaskStateError(
            f"This process is attached to rank {home.current().rank} of a program: it can use that "
            "program's services and make some, but not start a program of its own."
        )
    if rank is not None and rank.mark.variables:
        raise TaskStateError(
            "This process was started by a rank of a program, and its launcher knows nothing of "
            "it, so it cannot start MPI: call alamo_mpi.attach() to use that program's services, "
            "or start it as a program of its own with mpiexec."
        )


def _start_program() -> Session:
    from alamo_mpi.mpi.announced import cover, speaks_for_all, survives
    from alamo_mpi.mpi.fit import check_fit
    from alamo_mpi.mpi.lastwords import told_once

    with told_once(first=speaks_for_all()):
        check_fit()
    from alamo_mpi.mpi.world import World, unlink_shared_memory
    from alamo_mpi.runtime.device import inventory
    from alamo_mpi.runtime.gateway.listener import open_gateway
    from alamo_mpi.runtime.pool import open_pool
    from alamo_mpi.runtime.witnessed import attend, attended

    world = World(about=inventory())
    if world.rank > 0:
        # Before the pool, which is collective: from its end on rank 0 runs the program, and a
        # Ctrl-C then is its alone, also while this rank still imports what it serves with.
        _ignore_interrupts()
        leave_to_rank_0()
    # The job is ours: whatever kills it, MPI's shared memory must not outlive it.
    unlink_shared_memory()
    # N programs of one rank each have a rank 0; which is the first, the launcher has said.
    with told_once(first=world.rank == 0 if world.size > 1 else speaks_for_all()):
        if world.size == 1:
            from alamo_mpi.mpi.launcher import check_singleton

            check_singleton(world.size)
        elif survives():
            from alamo_mpi.mpi.survival import check_survivable

            check_survivable(world.one_node)
        # A wrong setting is told before anything runs.
        grace_s(os.environ.get(SETTING, ""))
        silence_s(os.environ.get(HOST_TIMEOUT, ""))
        if os.environ.get("ALAMO_LOG"):
            from alamo_mpi.startlog import listen

            listen(world.rank)
        pool = open_pool(world)
    unlink_shared_memory()  # the pool's
    open_gateway(world, pool)
    with told_once(first=world.rank == 0):
        attend(world)
    cover()  # the last collective is over
    if world.rank > 0:
        _serve_program(world)
    if world.size == 1:
        logger.info(
            "One rank, so tasks run inside this process, one at a time. For more: "
            "python -m alamo_mpi -n N app.py"
        )
    from alamo_mpi.startlog import log_start  # what only rank 0 does, only rank 0 loads

    log_start(world, pool)
    session = _open(world)
    attended()
    ProgramEnd(session).install()
    return session


def _open(world: World) -> Session:
    """Make the session of rank 0; the other ranks serve already, so failing here ends the job."""
    try:
        return Session(world)
    except BaseException as error:
        if world.size > 1:
            world.fail(error)
        raise


def _serve_program(world: World) -> None:
    """Serve until rank 0 says stop, then leave the process; does not return."""
    try:
        _serve(world)
    except BaseException as error:
        # Nobody above could do better: the program's main is rank 0's.
        world.fail(error)
    _process.leaving = True
    if world.ends_apart:
        world.leave(0)
    world.free()
    if interactive():
        # ``python -i`` would give this rank a prompt, which is rank 0's to have.
        world.finalize()
        world.leave(0)
    raise SystemExit(0)


def _serve(world: World) -> None:
    """Run this rank as a worker until rank 0 says stop."""
    previous = _ignore_interrupts()  # before the imports, which take a while
    from alamo_mpi.runtime import device, serving
    from alamo_mpi.runtime.witnessed import attended

    attended()
    _process.serving = world
    try:
        with device.visible(device.shared(world.hosts, world.told)[world.rank]):
            serving.serve(world)
    finally:
        _process.serving = None
        if previous is not None:
            signal.signal(signal.SIGINT, previous[0])


def _ignore_interrupts() -> tuple[signal._HANDLER] | None:
    """Leave Ctrl-C to rank 0; return the previous handler, None where it cannot be changed.

    The handler is a Python function and not ``SIG_IGN``, which programs that a task starts would
    inherit.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    previous = signal.getsignal(signal.SIGINT)
    if previous is None:  # installed by C code: it could not be put back
        return None
    signal.signal(signal.SIGINT, _no_interrupt)
    return (previous,)


def _no_interrupt(signum: int, frame: FrameType | None) -> None:
    """Do nothing: rank 0 gets the same signal and ends the program."""


class serve:  # noqa: N801 - a context manager, used like a function
    """Lend the ranks of a communicator to `alamo_mpi` for a ``with`` block; collective over it.

    Rank 0 of `comm` runs the body; there, services such as ``Batch`` use the ranks of `comm`.  The
    other ranks work until the body ends.  Then every rank continues behind the block.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        ``MPI.COMM_WORLD`` by default.  It is duplicated, and stays untouched.

    Raises
    ------
    RuntimeError
        Before anything happens, when it is not a ``with`` statement of Python code that enters.
    TaskStateError
        When this process is in another block, or `init` has taken the whole job.
    RemoteError
        On the ranks that served, when the body ended with an error; rank 0 raises the error
        itself.  After ``sys.exit`` in the body every rank raises the same ``SystemExit``.

    Notes
    -----
    May be entered again later.  On the ranks that served nothing of the body runs, not even the
    binding of the ``as`` target.  Inside the block a worker rank answers no messages of the
    host's; other communicators are free to use.  When a task still runs seconds after
    the body failed, the whole job is aborted, rank 0's traceback first.

    Examples
    --------
    >>> with alamo_mpi.serve(comm) as alamo:  # doctest: +SKIP
    ...     with Batch() as batch:
    ...         task = batch.function(pow, 2, 10)
    ...         task.run()
    """

    def __init__(self, comm: Communicator | None = None) -> None:
        self._comm = comm
        self._session: Session | None = None
        self._skip: SkipBody | None = None

    def __enter__(self) -> Session:
        frame = check_caller(sys._getframe(1))
        from alamo_mpi.mpi.world import World
        from alamo_mpi.runtime.device import inventory
        from alamo_mpi.runtime.gateway.listener import open_gateway
        from alamo_mpi.runtime.pool import open_pool

        with _process.lock:
            self._check_free()
            world = World(self._comm, inventory())
            pool = open_pool(world)
            open_gateway(world, pool)
            if world.rank == 0:
                if not _process.told:
                    from alamo_mpi.startlog import log_start

                    _process.told = True
                    log_start(world, pool)
                self._session = _process.session = _open(world)
                return self._session
        self._work(world)
        self._skip = SkipBody(frame)
        return None  # type: ignore[return-value]  # never bound: the body is skipped

    @staticmethod
    def _check_free() -> None:
        if _process.session is not None or _process.serving is not None or _process.leaving:
            raise TaskStateError(
                "alamo_mpi.serve was entered while the ranks were in use already: by another "
                "serve block, or because the whole job was taken by `python -m alamo_mpi`, "
                "alamo_mpi.init() or a service made outside of a serve block."
            )

    @staticmethod
    def _work(world: World) -> None:
        """Serve, then learn from rank 0 how the body ended."""
        try:
            _serve(world)
        except BaseException as error:
            # Rank 0 waits for this rank, and the host program knows nothing of it.
            world.fail(error)
        outcome = world.comm.bcast(None)
        world.free()
        if isinstance(outcome, SystemExit):
            raise outcome
        if outcome is not None:
            raise outcome

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._skip is not None:
            self._skip.restore()
            self._skip = None
            return kind is BodySkipped
        assert self._session is not None
        self._close(self._session, error)
        return False

    def _close(self, session: Session, error: BaseException | None) -> None:
        try:
            session.end(error)
            session.world.comm.bcast(_outcome(session.world, error))
            session.world.free()
        finally:
            self._session = _process.session = None


def _outcome(world: World, error: BaseException | None) -> BaseException | None:
    """Return what the other ranks raise after the body ended with `error` on rank 0."""
    if error is None:
        return None
    if isinstance(error, SystemExit):
        code = error.code
        return SystemExit(code if code is None or isinstance(code, int) else 1)
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    return RemoteError(
        f"The body of alamo_mpi.serve failed on rank 0 of {world.size} ({world.host}): {text}. "
        "Its traceback is there.",
        type_name=type(error).__qualname__,
        rank=0,
        host=world.host,
    )
