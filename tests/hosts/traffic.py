"""Move large data between two workers, as results and through a DDict; count rank 0's traffic."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from alamo_mpi import Batch, DDict

NBYTES = 32 << 20
COUNTERS = Path("/sys/class/net/eth0/statistics")


def traffic() -> int:
    """Return the bytes that this host's interface has sent and received."""
    return sum(int((COUNTERS / f"{way}_bytes").read_text()) for way in ("rx", "tx"))


def make(letter: bytes) -> tuple[str, bytes]:
    """Return host and data; long enough for another worker to make the other one."""
    time.sleep(0.5)
    return socket.gethostname(), letter * NBYTES


def meet(one: tuple[str, bytes], other: tuple[str, bytes]) -> tuple[set[str], int]:
    """Return where both were made, and their size."""
    return {one[0], other[0]}, len(one[1]) + len(other[1])


def put(d: DDict[str, bytes], key: str) -> str:
    """Put data into the dictionary."""
    time.sleep(0.5)
    d[key] = key.encode() * NBYTES
    return socket.gethostname()


def take(d: DDict[str, bytes]) -> int:
    """Read both."""
    return len(d["a"]) + len(d["b"])


def main() -> None:
    """Print where data was made and what rank 0's host saw of it."""
    with Batch() as batch:
        before = traffic()
        parts = [batch.function(make, letter) for letter in (b"a", b"b")]
        both = batch.function(meet, *parts)
        batch.compile([*parts, both]).run()
        hosts, nbytes = both.result.get()
        print("results:", nbytes, "made on", *sorted(hosts), "rank 0 saw", traffic() - before)

        d: DDict[str, bytes] = DDict()
        before = traffic()
        puts = [batch.function(put, d, key, writes=batch.write(d, key)) for key in "ab"]
        taken = batch.function(take, d, reads=batch.read(d, "a", "b"))
        batch.compile([*puts, taken]).run()
        hosts = {task.result.get() for task in puts}
        nbytes = taken.result.get()
        print("dictionary:", nbytes, "made on", *sorted(hosts), "rank 0 saw", traffic() - before)


main()
