"""The program of a cell: the process in which a worker runs its isolated tasks.

Run as a file by the warden (`runtime.cells` asks for it), with the connection to the worker as its
stdin.  It sees to its own end, learns where to find this package, and goes on in `cellloop`.
``ARCHITECTURE-isolation.md`` has the protocol.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import pickle
import signal
import socket
import sys

__all__: list[str] = []

#: Where the package is.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SET_PDEATHSIG = 1
_PATH_NBYTES = 1 << 20
_LOWEST_PRIVATE_FD = 10


def _prepare() -> socket.socket:
    """See to it that this process ends in time, and says where; return its connection."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    faulthandler.enable(2)
    private = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _LOWEST_PRIVATE_FD)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return socket.socket(fileno=private)


def _main() -> None:
    connection = _prepare()
    told = connection.recv(_PATH_NBYTES)
    if not told:
        return
    # The worker's own package, which may be another than the one that would be found.
    sys.path.insert(0, _ROOT)
    import alamo_mpi.errors  # noqa: F401

    sys.path[:] = pickle.loads(told)
    from alamo_mpi.runtime.cellloop import serve

    serve(connection)


if __name__ == "__main__":
    _main()
