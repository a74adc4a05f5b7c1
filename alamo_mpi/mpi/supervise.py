"""Run a launcher that kills its ranks at SIGTERM so that they hear of it in time.

Open MPI's takes SIGTERM and SIGINT for itself and kills all ranks 0.45 s later, but passes SIGUSR1
on (ARCHITECTURE-signals.md).  So a process stays in front of it: the first SIGTERM becomes the
signal that is passed on, and on rank 0 SIGTERM again; a second one, or the end of the grace, goes
to the launcher as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from alamo_mpi.core.grace import SETTING, grace_s
from alamo_mpi.mpi.announced import RELAYED

__all__ = ["kills_at_once", "supervise"]

#: Stands for SIGTERM.
_RELAY = signal.SIGUSR1
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
#: One so soon after the first is the same: `timeout` sends it to the process and to its group.
_SAME_S = 1.0
#: Past the grace, rank 0 aborts by itself.
_MARGIN_S = 5.0
_SET_PDEATHSIG = 1


def kills_at_once(family: str, launcher: str) -> bool:
    """Tell whether a launcher of an MPI of that family needs this.

    At a terminal it does without: there the launcher reads what is typed, and so has to be in the
    foreground, where Ctrl-C reaches it.
    """
    name = os.path.basename(launcher)
    return family == "Open MPI" and name in ("mpiexec", "mpirun", "prterun") and not _terminal()


def _terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:  # closed
        return False


def supervise(argv: Sequence[str]) -> NoReturn:
    """Run a launcher to its end, and leave with its status; does not return.

    Raises
    ------
    OSError
        If it cannot be started.
    SystemExit
        Always, else.
    """
    limit_s = grace_s(os.environ.get(SETTING, "")) + _MARGIN_S
    heard = {*_ENDING, *_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        os.setpgid(0, 0)  # a signal for our process group is for us
        libc.prctl(_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    environment = {**os.environ, RELAYED: str(int(_RELAY))}
    try:
        launcher = subprocess.Popen(argv, env=environment, preexec_fn=prepare)
    except BaseException:
        # Who goes on would pass them on blocked, to all that it starts.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    first, since, killed = 0, 0.0, False
    while (status := launcher.poll()) is None:
        rest_s = max(since + limit_s - time.monotonic(), 0.0) if first else 3600.0
        what = signal.sigtimedwait(heard, rest_s)
        number = what.si_signo if what is not None else 0
        if number in _PASSED_ON:
            launcher.send_signal(number)
        elif number in _ENDING and not first:
            first, since = number, time.monotonic()
            launcher.send_signal(_RELAY)
        elif killed and not number:
            launcher.kill()
        elif killed or not first or number == signal.SIGCHLD:
            continue
        elif time.monotonic() > since + _SAME_S:
            # Once: at another one it would leave its files behind.
            launcher.send_signal(signal.SIGTERM)
            killed, since, limit_s = True, time.monotonic(), _MARGIN_S
    status = 128 - status if status < 0 else status
    if killed or (first and status in (128 + _RELAY, 128 + signal.SIGTERM)):
        status = 128 + first
    sys.exit(status)
