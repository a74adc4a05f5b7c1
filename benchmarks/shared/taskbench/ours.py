"""What a batch does with the benchmark's tasks.  Every result is checked, off the clock."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import alamo_mpi
from alamo_mpi import Batch
from taskbench import work

__all__ = [
    "Compiled",
    "after_a_pause",
    "chain",
    "compiled",
    "idle",
    "one_by_one",
    "shared_array",
    "sleepers",
]


@dataclass(frozen=True)
class Compiled:
    """Seconds of the parts of one run of a compiled task."""

    make_s: float
    compile_s: float
    run_s: float
    get_s: float


def compiled(batch: Batch, ntasks: int) -> Compiled:
    """Run independent no-op tasks as one compiled task."""
    begin = time.perf_counter()
    tasks = [batch.function(work.nothing, number) for number in range(ntasks)]
    made = time.perf_counter()
    program = batch.compile(tasks)
    ready = time.perf_counter()
    program.start()
    program.wait()
    done = time.perf_counter()
    results = [task.result.get() for task in tasks]
    end = time.perf_counter()
    if results != list(range(ntasks)):
        raise RuntimeError("A compiled task's result is missing or wrong.")
    return Compiled(made - begin, ready - made, done - ready, end - done)


def one_by_one(batch: Batch, ntasks: int) -> float:
    """Start tasks singly, then take every result; return the seconds.

    The tasks are made on the clock, as an executor's ``submit`` makes its futures.
    """
    begin = time.perf_counter()
    tasks = []
    for number in range(ntasks):
        task = batch.function(work.nothing, number)
        task.start()
        tasks.append(task)
    results = [task.result.get() for task in tasks]
    seconds = time.perf_counter() - begin
    if results != list(range(ntasks)):
        raise RuntimeError("A single task's result is missing or wrong.")
    return seconds


def chain(batch: Batch, length: int, directory: Path) -> float:
    """Run a compiled chain, each task after the one before; return the seconds from ``start()``."""
    tasks = [
        batch.function(
            work.successor,
            number,
            reads=batch.read(directory, Path(f"link_{number}")),
            writes=batch.write(directory, Path(f"link_{number + 1}")),
        )
        for number in range(length)
    ]
    program = batch.compile(tasks)
    begin = time.perf_counter()
    program.start()
    program.wait()
    seconds = time.perf_counter() - begin
    if [task.result.get() for task in tasks] != list(range(1, length + 1)):
        raise RuntimeError("The chain's result is missing or wrong.")
    return seconds


def sleepers(batch: Batch, ntasks: int, length_s: float) -> float:
    """Run tasks that sleep, compiled; return the seconds from ``start()``."""
    tasks = [batch.function(work.nap, length_s) for _ in range(ntasks)]
    program = batch.compile(tasks)
    begin = time.perf_counter()
    program.start()
    program.wait()
    seconds = time.perf_counter() - begin
    if [task.result.get() for task in tasks] != [length_s] * ntasks:
        raise RuntimeError("A sleeper's result is missing or wrong.")
    return seconds


def shared_array(batch: Batch, ntasks: int, nbytes: int) -> tuple[float, list[int]]:
    """Run compiled tasks that all take one array.

    Returns
    -------
    tuple of float and list of int
        The seconds from ``start()``, and the bytes that rank 0 sent meanwhile to each worker.
    """
    session = alamo_mpi.init()
    ranks = range(1, session.world.size)
    array = np.ones(nbytes // 8)
    tasks = [batch.function(work.first_element, array, number) for number in range(ntasks)]
    program = batch.compile(tasks)
    before = [session.manager.nbytes_sent(rank) for rank in ranks]
    begin = time.perf_counter()
    program.start()
    program.wait()
    seconds = time.perf_counter() - begin
    sent = [session.manager.nbytes_sent(rank) for rank in ranks]
    if [task.result.get() for task in tasks] != [1.0 + number for number in range(ntasks)]:
        raise RuntimeError("A result from the shared array is missing or wrong.")
    return seconds, [after - earlier for after, earlier in zip(sent, before, strict=True)]


def after_a_pause(batch: Batch, repeats: int, pause_s: float) -> list[float]:
    """Run one task after nothing was to do for a while, several times; return the seconds."""
    found = []
    for number in range(repeats):
        time.sleep(pause_s)
        begin = time.perf_counter()
        result = batch.function(work.nothing, number).run()
        found.append(time.perf_counter() - begin)
        if result != number:
            raise RuntimeError("The result after a pause is wrong.")
    return found


def processor_seconds(process_id: int) -> float:
    """Return the user and system time that a process has used so far."""
    # The command's name, in parentheses, may hold spaces: fields count from behind it.
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(batch: Batch, nworkers: int, length_s: float) -> list[float]:
    """Leave the batch open with nothing to do; return each rank's share of a core, rank 0 first."""
    workers: set[int] = set()
    while len(workers) < nworkers:
        tasks = [batch.function(work.who, 0.05) for _ in range(nworkers)]
        batch.compile(tasks).run()
        workers |= {task.result.get()[1] for task in tasks}
    ranks = [os.getpid(), *sorted(workers)]
    time.sleep(1.0)  # past the short time for which a rank that was just busy waits eagerly
    before = [processor_seconds(rank) for rank in ranks]
    begin = time.perf_counter()
    time.sleep(length_s)
    seconds = time.perf_counter() - begin
    return [
        (processor_seconds(rank) - used) / seconds for rank, used in zip(ranks, before, strict=True)
    ]
