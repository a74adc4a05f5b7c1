"""How a program that uses the ranks ends: the session's end, and the hooks that bring it about.

Rank 0 alone decides:

    Manager.shutdown(grace_s)   normal: close what is open, stop the workers, wait for goodbyes
    Manager.kill()              after an error: forget all work and stop the workers; the shutdown
                                that follows only collects the goodbyes
    World.abort(status)         a worker did not answer in time: MPI ends every process

Invariant: rank 0 takes part in no collective (``Comm.Free``, ``MPI_Finalize``) before ``shutdown``
has returned true, because a worker that runs a task takes part in none.  ``ARCHITECTURE.md``,
"Start and end", lists each ending with its status.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from alamo_mpi.core.grace import SETTING, grace_s
from alamo_mpi.stopsignals import StopSignals

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World
    from alamo_mpi.runtime.service import BatchService

__all__ = ["Guest", "ProgramEnd", "Session", "interactive", "status_of"]

logger = logging.getLogger(__name__)

#: Seconds that the workers have to say goodbye at a normal end, and after an error.
END_GRACE_S = 5.0
FAIL_GRACE_S = 1.0
#: Seconds from an unhandled error until the job is aborted, whatever rank 0 still does.
FAIL_LIMIT_S = 5.0

STATUS_INTERRUPTED = 130


class Session:
    """What rank 0 holds while its program uses the ranks; made by `init` and `serve`.

    Attributes
    ----------
    world : alamo_mpi.mpi.world.World
        The ranks.
    manager : alamo_mpi.runtime.manager.Manager
        The one that gives them work.
    status : int or None
        What the program has said that it ends with, where it has.
    ended : bool
        The workers have been released; nothing can be started any more.
    """

    def __init__(self, world: World) -> None:
        from alamo_mpi.runtime.manager import Manager
        from alamo_mpi.runtime.witnessed import mark

        self.world = world
        self.manager = Manager(world)
        self._mark = mark()
        self.status: int | None = None
        self.ended = False
        #: What the program ends with, as far as it has ended.
        self.outcome = 0
        #: The error whose traceback the user has seen.
        self.shown: BaseException | None = None
        self._pid = os.getpid()

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child, which must leave the parent's ranks alone."""
        return os.getpid() != self._pid

    def end(self, error: BaseException | None = None, *, grace_s: float = END_GRACE_S) -> None:
        """Release the workers, or abort the job if they do not answer; waits some seconds at most.

        Parameters
        ----------
        error : BaseException, optional
            What ended the program: then work in flight is forgotten.  Its traceback is shown here
            only where the job is aborted before somebody else can.
        grace_s : float
            How long the workers may take to say goodbye.
        """
        if self.ended or self.foreign:
            return
        self.ended = True
        self.outcome = (self.status or 0) if error is None else status_of(error)
        self._mark.end()
        status = (self.status if error is None else status_of(error)) or 1
        watchdog = self.abort_later(grace_s + FAIL_LIMIT_S, status)
        try:
            if error is not None:
                self.manager.kill()
            answered = self.manager.shutdown(grace_s)
        except BaseException as failure:
            # Also a second Ctrl-C: the user is in a hurry, and the ranks must not be left behind.
            sys.excepthook(type(failure), failure, failure.__traceback__)
            answered = False
        finally:
            watchdog.cancel()
            if watchdog.is_alive():  # a host program finds its threads as they were
                watchdog.join(1.0)
        shown, self.shown = self.shown, None  # it holds the program's frames, and so its files
        if not answered:
            if error is not None and error is not shown:
                traceback.print_exception(type(error), error, error.__traceback__)
            logger.error(
                "A task still ran %g s after the program's end on rank 0, on %s: the job is "
                "aborted. Wait for tasks, or terminate the batch, before the end.",
                grace_s,
                ", ".join(self.manager.silent_ranks) or "no rank that is known",
            )
            self.world.abort(status)

    def abort_later(self, limit_s: float, status: int) -> threading.Timer:
        """Abort the job in `limit_s` seconds, unless the timer is cancelled or all has ended."""
        timer = threading.Timer(limit_s, self.world.abort, args=(status,))
        timer.daemon = True
        timer.name = "alamo_mpi-exit-watchdog"
        if self.world.size > 1:
            timer.start()
        return timer


class Guest:
    """What `init` returns inside a task: the program is rank 0's, its services are here too.

    Attributes
    ----------
    world : alamo_mpi.mpi.world.World
        The ranks.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def manager(self) -> BatchService:
        """What batches of this process talk to."""
        from alamo_mpi.runtime import service

        offered = service.current()
        assert offered is not None
        return offered


class ProgramEnd:
    """The end of a program whose job `init` has taken: excepthook, atexit, MPI_Finalize.

    Parameters
    ----------
    session : Session
        On rank 0.

    Notes
    -----
    Hooks, because there are three ways to come to an end without passing through our code:
    an unhandled error (``sys.excepthook``, chained), the interpreter's exit (``atexit``), and the
    program's own ``MPI.Finalize()`` (an attribute of ``MPI_COMM_SELF``, which the standard says is
    deleted first).  Whichever is first does the work.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._previous_hook: Callable[..., object] = sys.excepthook
        # An excepthook installed later need not call ours; what it was given shows here.
        self._last_error: object = getattr(sys, "last_value", None)
        self._forget_finalize: Callable[[], None] | None = None
        self._signals = StopSignals(session, grace_s(os.environ.get(SETTING, "")))

    def install(self) -> None:
        """Set the hooks; local."""
        if not interactive():  # a prompt goes on after SystemExit
            self._signals.install()
        sys.excepthook = self._on_error
        sys.exit = self._noting_status(sys.exit)
        atexit.register(self._at_exit)
        self._forget_finalize = self._session.world.on_finalize(self._at_finalize)

    def _noting_status(self, leave: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        """Wrap ``sys.exit``: no hook of the interpreter's exit is told the status.

        It is needed only to abort with the status that the program asked for.
        """

        @functools.wraps(leave)
        def exit_noting_status(status: object = None, /) -> NoReturn:
            self._session.status = status_of(SystemExit(status))
            leave(status)

        return exit_noting_status

    def _on_error(
        self,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        """Show the traceback as the program would, then end the job."""
        self._previous_hook(kind, error, trace)
        session = self._session
        if session.foreign:
            session.status = status_of(error)
        if session.ended or session.foreign or interactive():
            return
        session.shown = error
        # Until the interpreter has ended: a thread of the program may never end.
        session.abort_later(FAIL_LIMIT_S, status_of(error))
        session.end(error, grace_s=FAIL_GRACE_S)

    def _at_exit(self) -> None:
        session = self._session
        if session.foreign:
            # A fork has no MPI, but mpi4py would finalize it there, and hang.
            session.world.leave(session.status or 0)
        error = getattr(sys, "last_value", None)
        if self._signals.error is not None:
            self._signals.end()
        elif session.ended or error is self._last_error or interactive():
            session.end()
        else:
            session.shown = error
            session.end(error, grace_s=FAIL_GRACE_S)
        if self._forget_finalize is not None:
            self._forget_finalize()
        self._part()

    def _at_finalize(self) -> None:
        self._session.end()
        # The workers free window and communicators when they leave, and that is collective.
        self._part()

    def _part(self) -> None:
        """Leave the other ranks: together, or where some may be lost, without MPI_Finalize."""
        session = self._session
        if session.world.ends_apart:
            session.world.leave(session.outcome)
        session.world.free()


def status_of(error: BaseException) -> int:
    """Return the exit status that Python gives a program which `error` ends."""
    if isinstance(error, KeyboardInterrupt):
        return STATUS_INTERRUPTED
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        return error.code & 0xFF if isinstance(error.code, int) else 1
    return 1


def interactive() -> bool:
    """Whether a person goes on after an error: a prompt, or ``python -i``."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive or sys.flags.inspect)
