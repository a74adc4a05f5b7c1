"""Processes that are no ranks: `attach` connects one to the rank that it descends from.

Each rank has a gateway and names it in its environment, so that every program that a task starts
inherits the name.  Here a process finds out where it is: on a rank, attached to one, or neither.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from alamo_mpi import session
from alamo_mpi.errors import GatewayError
from alamo_mpi.runtime import home as homes
from alamo_mpi.runtime import service as services
from alamo_mpi.runtime.gateway.address import VARIABLE, descent, parse
from alamo_mpi.runtime.home import Home
from alamo_mpi.runtime.service import BatchService

__all__ = ["Attachment", "attach", "home", "home_or_start", "service", "service_or_start"]

_lock = threading.RLock()
_attachments: set[Attachment] = set()


class Attachment:
    """That this process may use the services of a program; made by `attach`.

    Attributes
    ----------
    rank : int
        The rank that does what this process asks for.
    size : int
        Number of ranks of the program.
    host : str
        The name of this host.

    Notes
    -----
    Ends with `detach`, with its ``with`` block, or with the process.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self.rank = home.rank
        self.size = home.size
        self.host = home.hosts[home.rank]

    def detach(self) -> None:
        """Give the attachment up; may be called again.

        When it was the last of the process, its services cannot be used any more: they raise
        `GatewayError`.  On a rank, and in a forked child, nothing happens.
        """
        from alamo_mpi.runtime.gateway.remote import RemoteHome

        home = self._home
        with _lock:
            _attachments.discard(self)
            if not isinstance(home, RemoteHome) or home.inherited:
                return
            if not any(other._home is home for other in _attachments):
                homes.leave(home)
                services.offer(None)
                home.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"<Attachment to rank {self.rank} of {self.size} on {self.host}>"


def attach() -> Attachment:
    """Attach this process to the program whose task has started it; local to the host.

    Returns
    -------
    Attachment
        Also a context manager that detaches at the end of its block.  Not needed for anything
        else: a process that never detaches stays attached until it ends.

    Raises
    ------
    GatewayError
        No task has started this process, or its program has ended; or it runs as another user, in
        another network namespace, or with another version of this package.

    Notes
    -----
    For a program that a task starts, for example by `subprocess`, directly or through any number
    of others: it finds the rank by the environment variable ``ALAMO_GATEWAY``.  From here on
    services are made and unpickled in it as on a rank.  Making or unpickling a service attaches by
    itself, but for one case: a rank of another MPI program, started by a task, makes services in
    its own program until it calls `attach`.

    May be called again, and in any thread; the connection lasts until each attachment is given
    up.  On a rank it changes nothing, so that one function can be used on either side.

    Needs no MPI, and starts none.

    Examples
    --------
    ::

        with alamo_mpi.attach():
            results = pickle.load(sys.stdin.buffer)  # a DDict, say
            results["from", os.getpid()] = 42
    """
    with _lock:
        attachment = Attachment(_attached_home())
        _attachments.add(attachment)
        return attachment


def _attached_home() -> Home:
    if homes.exists():
        return homes.current()
    text = os.environ.get(VARIABLE)
    if not text:
        raise GatewayError(
            f"There is no program to attach to: {VARIABLE} is not set. Ranks set it for the "
            "programs that their tasks start; pass their environment on."
        )
    from alamo_mpi.runtime.gateway.remote import RemoteHome

    home = RemoteHome(parse(text))
    homes.enter(home)
    services.offer(home.service)
    return home


def home() -> Home:
    """Return the home of this process, for a service that was unpickled; attaches if need be.

    Raises
    ------
    DDictError
        This process is no rank, and no descendant of one.
    GatewayError
        It cannot be attached.
    """
    if homes.exists() or VARIABLE not in os.environ:
        return homes.current()
    return attach()._home


def home_or_start() -> Home:
    """Return the home of this process, for a service to be made.

    A program that a task has started is attached: it could not start MPI, for it looks like the
    rank to the rank's launcher, which does not know it.  Any other starts the runtime, and does not
    return from that on a rank above 0.
    """
    if not homes.exists():
        if descent() is None:
            session.init()
        else:
            return home()
    return homes.current()


def service() -> BatchService:
    """Return what batches of this process talk to, for one that was unpickled.

    Attaches if need be, and starts the runtime where there is nothing to attach to.

    Raises
    ------
    GatewayError
        It cannot be attached.
    """
    if services.current() is None and not homes.exists() and VARIABLE in os.environ:
        attach()
    return session.service()


def service_or_start() -> BatchService:
    """Return what batches of this process talk to, for one to be made; as `home_or_start`."""
    if not homes.exists() and descent() is not None:
        attach()
    return session.service()
