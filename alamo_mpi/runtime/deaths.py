"""How a process that is not a child of this one has ended, and whether it is about to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import time

__all__ = ["doomed", "how", "parent_of", "status_of"]

#: Seconds for the system to say how a process has ended.
_STATUS_S = 0.05
_KILL_BIT = 1 << (signal.SIGKILL - 1)
_PF_EXITING = 0x4
#: With this Open MPI ends a rank at which a connection was closed (MPI_ERR_UNKNOWN): where a host
#: goes down, other ranks may be seen to end before it.
_CUT_OFF = 14
#: ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT (Linux 6.15): mask, cgroup, 11 numbers, exit status.
_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("QQ11Ii")


def how(status: int | None) -> str:
    """Say how a process has ended."""
    if status is None:
        return "its process is gone"
    if status == _CUT_OFF:
        return "its process exited with status 14, with Open MPI for a lost connection to another"
    if status >= 0:
        return f"its process exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    return f"killed by signal {-status}"


def status_of(fd: int, pid: int) -> int | None:
    """Return how a process has ended, if the system says it."""
    until = time.monotonic() + _STATUS_S
    while True:
        found = _of_zombie(pid)
        if found is None:
            with contextlib.suppress(OSError):
                request = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
                fcntl.ioctl(fd, _GET_INFO, request)
                mask, *_, code = _INFO.unpack(request)
                found = code if mask & _INFO_EXIT else None
        if found is not None:
            return os.waitstatus_to_exitcode(found)
        if time.monotonic() > until:
            return None
        time.sleep(1e-3)


def _of_zombie(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _stat(pid)
        if fields[0] == "Z":
            return int(fields[49])
    return None


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on."""
    with open(f"/proc/{pid}/stat") as file:
        # The name, in parentheses, may hold anything.
        return file.read().rpartition(")")[2].split()


def doomed(pid: int) -> bool:
    """Tell whether a process has ended, or is about to."""
    try:
        fields = _stat(pid)
        if fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
            return True
        with open(f"/proc/{pid}/status") as file:
            pending = [line.split()[1] for line in file if line.startswith(("SigPnd", "ShdPnd"))]
        return any(int(each, 16) & _KILL_BIT for each in pending)
    except OSError:
        return True


def parent_of(pid: int) -> int:
    """Return a process's parent.

    Raises
    ------
    OSError
        There is no such process here.
    """
    return int(_stat(pid)[1])
