"""Tasks run where their data is: bytes that crossed the hosts' network, with and without a choice.

Prints a line for values that were there before the tasks were started, and one for values that
tasks of the same list write.
"""

import platform
from pathlib import Path

import numpy as np

from alamo_mpi import Batch, DDict

NBYTES = 2 << 20
COUNT = 24


def received() -> int:
    """Return the bytes that this host's network interface has received."""
    return int(Path("/sys/class/net/eth0/statistics/rx_bytes").read_text())


def write(d: DDict, name: str, i: int) -> None:
    """Store a value in this rank's memory."""
    d[name, i] = np.full(NBYTES, i, "u1")


def read(d: DDict, name: str, i: int) -> tuple[str, int]:
    """Read a value; return this host and the bytes that it has received meanwhile."""
    before = received()
    value = d[name, i]
    assert (value == i).all()
    return platform.node(), received() - before


def report(name: str, d: DDict, readers: list) -> None:
    """Print how many readers ran on the host of their data, and how much crossed."""
    results = [task.result.get() for task in readers]
    near = sum(host == d.owner((name, i)).host for i, (host, _) in enumerate(results))
    crossed = sum(nbytes for _, nbytes in results) / (NBYTES * COUNT)
    print(f"{name}: {near} of {COUNT} near, {crossed:.2f} crossed")


with Batch() as batch:
    d: DDict = DDict()
    writers = [batch.function(write, d, "before", i) for i in range(COUNT)]
    batch.compile(writers).run()
    readers = [
        batch.function(read, d, "before", i, reads=batch.read(d, ("before", i)))
        for i in reversed(range(COUNT))
    ]
    batch.compile(readers).run()
    report("before", d, readers[::-1])

    chain = []
    for i in range(COUNT):
        chain.append(batch.function(write, d, "chain", i, writes=batch.write(d, ("chain", i))))
    readers = [
        batch.function(read, d, "chain", i, reads=batch.read(d, ("chain", i))) for i in range(COUNT)
    ]
    batch.compile([*chain, *readers]).run()
    report("chain", d, readers)
