"""PMI-1, the server's half: how the processes of one MPICH-family job find each other.

PMI-1 is a protocol of lines ``cmd=... key=value ...``.  A process says ``init``, asks for sizes and
names, puts its address into a key-value space, meets the others in a barrier, gets their
addresses, and says ``finalize`` at the end.  Nothing of it needs an MPI on this side, so a job
that crashes, aborts or never calls MPI cannot harm whoever serves it.

A line goes in through `Server.handle`, and lines to processes come out; sockets are the caller's.

References
----------
P. Balaji et al., "PMI: A Scalable Parallel Process-Management Interface for Extreme-Scale
Systems", EuroMPI 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

__all__ = ["Server", "process_mapping", "shared_memory"]

_KEYLEN, _VALLEN, _NAMELEN = 64, 1024, 256


def process_mapping(hosts: Sequence[str]) -> str:
    """Return who shares a host, in MPICH's notation.

    Parameters
    ----------
    hosts
        Host name by rank.

    Returns
    -------
    str
        ``(vector,(first node, nodes, ranks on each),...)``; empty if it is too long for a value of
        the key-value space: MPICH then finds out by itself.
    """
    numbers: dict[str, int] = {}
    runs = []
    for host, ranks in groupby(hosts):
        runs.append((numbers.setdefault(host, len(numbers)), len(list(ranks))))
    blocks: list[list[int]] = []
    for node, count in runs:
        if blocks and blocks[-1][2] == count and node == blocks[-1][0] + blocks[-1][1]:
            blocks[-1][1] += 1
        else:
            blocks.append([node, 1, count])
    text = f"(vector,{','.join('({},{},{})'.format(*block) for block in blocks)})"
    return text if len(text) < _VALLEN else ""


def shared_memory(space: str) -> tuple[str, ...]:
    """Return how the names begin that MPICH gives the shared memory of a job in ``/dev/shm``.

    Parameters
    ----------
    space
        Name of the job's key-value space.

    Notes
    -----
    MPICH 4.3 and 5 remove it in MPI_Finalize alone, so that a job that crashed or was killed
    leaves megabytes behind.  The names hold the FNV-1a hash of the key-value space's name.
    """
    world = 2166136261
    for byte in space.encode():
        world = (world ^ byte) * 16777619 & 0xFFFFFFFF
    return f"mpich_shm_{world:x}_", f"mpich_vci_{world:x}_"


class Server:
    """Serve the processes of one job.

    Parameters
    ----------
    hosts
        Host name by rank.
    name
        Of the key-value space; no other job may have it, as MPICH names shared memory after it.

    Attributes
    ----------
    initialized, finalized : set of int
        Ranks that have called MPI_Init, and MPI_Finalize.
    aborted : tuple of int, or None
        Rank and status of the first that called MPI_Abort.
    """

    def __init__(self, hosts: Sequence[str], name: str) -> None:
        self._name = name
        self._size = len(hosts)
        mapping = process_mapping(hosts)
        self._values = {"PMI_process_mapping": mapping} if mapping else {}
        self._barrier: set[int] = set()
        #: Ranks inside a command of several lines, none of which is served.
        self._inside: set[int] = set()
        self.initialized: set[int] = set()
        self.finalized: set[int] = set()
        self.aborted: tuple[int, int] | None = None

    def handle(self, rank: int, line: str) -> list[tuple[int, str]]:
        """Take in one line of a process, without its newline; return (rank, line) to be sent."""
        if rank in self._inside:
            if line != "endcmd":
                return []
            self._inside.discard(rank)
            return [(rank, "cmd=spawn_result rc=-1 status=not_supported")]
        fields = dict(each.split("=", 1) for each in line.split(" ") if "=" in each)
        if "mcmd" in fields:
            self._inside.add(rank)
            return []
        command = fields.get("cmd", "")
        if command == "barrier_in":
            return self._enter(rank)
        if command == "abort":
            status = fields.get("exitcode", "")
            number = int(status) if status.removeprefix("-").isdigit() else 1
            self.aborted = self.aborted or (rank, number)
            return []
        return [(rank, self._answer(rank, command, fields, line))]

    def _enter(self, rank: int) -> list[tuple[int, str]]:
        self._barrier.add(rank)
        if len(self._barrier) < self._size:
            return []
        out = [(each, "cmd=barrier_out rc=0") for each in sorted(self._barrier)]
        self._barrier.clear()
        return out

    def _answer(self, rank: int, command: str, fields: dict[str, str], line: str) -> str:
        if command == "init":
            self.initialized.add(rank)
            return "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0"
        if command == "finalize":
            self.finalized.add(rank)
            return "cmd=finalize_ack rc=0"
        if command == "put":
            # The value is the rest of the line, blanks and all.
            self._values[fields.get("key", "")] = line.partition(" value=")[2]
            return "cmd=put_result rc=0 msg=success"
        if command == "get":
            value = self._values.get(fields.get("key", ""))
            if value is None:
                return "cmd=get_result rc=-1 msg=key_not_found value=unknown"
            return f"cmd=get_result rc=0 msg=success value={value}"
        return self._constant(command)

    def _constant(self, command: str) -> str:
        if command == "get_maxes":
            return (
                f"cmd=maxes rc=0 kvsname_max={_NAMELEN} keylen_max={_KEYLEN} vallen_max={_VALLEN}"
            )
        if command == "get_appnum":
            return "cmd=appnum rc=0 appnum=0"
        if command == "get_my_kvsname":
            return f"cmd=my_kvsname rc=0 kvsname={self._name}"
        if command == "get_universe_size":
            return f"cmd=universe_size rc=0 size={self._size}"
        return f"cmd={command}_result rc=-1 msg=not_supported"
