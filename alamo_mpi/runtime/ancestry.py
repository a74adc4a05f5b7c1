"""The launcher's processes above a rank, on its host."""

from __future__ import annotations

import contextlib
import os
import signal

__all__ = ["Launchers"]

#: As the system shortens them.  Slurm's own are not ours to end.
_NAMES = {
    *("mpiexec", "mpiexec.hydra", "mpirun", "hydra_pmi_proxy"),
    *("prterun", "prte", "prted", "orterun", "orted"),
}


class Launchers:
    """Find the launcher's processes among the ancestors of a rank, while it lives.

    Parameters
    ----------
    pid
        The rank's process.
    """

    def __init__(self, pid: int) -> None:
        #: Descriptors of the processes, the nearest to the rank first.
        self._pidfds: list[int] = []
        with contextlib.suppress(OSError):  # of another pid namespace
            # A make-believe host has processes of another one for ancestors: those are not ours.
            host = os.readlink(f"/proc/{pid}/ns/uts")
            while pid > 1 and os.readlink(f"/proc/{pid}/ns/uts") == host:
                with open(f"/proc/{pid}/stat") as file:
                    # The name, in parentheses, may hold anything.
                    name, _, rest = file.read().partition("(")[2].rpartition(")")
                if name in _NAMES:
                    self._pidfds.append(os.pidfd_open(pid))
                pid = int(rest.split()[1])

    @property
    def alive(self) -> bool:
        """Whether any of them is."""
        return any(map(_signalled, self._pidfds, [0] * len(self._pidfds)))

    def kill(self) -> None:
        """End them at once: one that waits for a host that is gone obeys nothing else."""
        for pidfd in self._pidfds:
            _signalled(pidfd, signal.SIGKILL)


def _signalled(pidfd: int, number: int) -> bool:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, number)
        return True
    return False
