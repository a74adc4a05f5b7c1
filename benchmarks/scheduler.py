"""Measure the scheduler by itself: microseconds a task, without MPI, on ideal workers.

Run as ``python benchmarks/scheduler.py [--profile CASE]``.  The workers take no time: each chunk
that is sent is reported whole, in the order of sending, with the time that its tasks would have
taken.  The cost of making the programs, graphs included, is given apart.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import cProfile
import pstats
import random
import time
from array import array
from collections import deque
from collections.abc import Callable

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.events import Finished, Progressed, SendChunk, Submitted
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import AccessList, infer_edges
from alamo_mpi.core.program import Program
from alamo_mpi.core.scheduler import Scheduler

WORKERS = 64
#: The functions.
KINDS = (0, 1)
#: Seconds that a task is said to take.
TASK_S = 1e-5


def independent(ntasks: int, pid: int = 0) -> list[Program]:
    """Tasks of one function."""
    return [Program(pid, 0, ntasks)]


def of_two_functions(ntasks: int) -> list[Program]:
    """Independent, but of functions that alternate."""
    return [Program(0, [index % 2 for index in range(ntasks)], ntasks)]


def one_by_one(ntasks: int) -> list[Program]:
    """Each task started by itself."""
    return [program for pid in range(ntasks) for program in independent(1, pid)]


def chain(ntasks: int) -> list[Program]:
    """Each task updates the same resource."""
    edges = AccessList()
    for index in range(ntasks):
        edges.reads.append(0)
        edges.writes.append(0)
        edges.read_stop.append(index + 1)
        edges.write_stop.append(index + 1)
    edges.nresources = 1
    return [Program(0, 0, ntasks, Graph.from_predecessors(ntasks, *infer_edges(edges)))]


def dag(ntasks: int) -> list[Program]:
    """Each task reads and writes one of N/10 resources, drawn at random."""
    draw, nresources = random.Random(1).randrange, ntasks // 10
    accesses = AccessList(
        array("i", [draw(nresources) for _ in range(ntasks)]),
        array("i", range(1, ntasks + 1)),
        array("i", [draw(nresources) for _ in range(ntasks)]),
        array("i", range(1, ntasks + 1)),
        nresources,
    )
    return [Program(0, 0, ntasks, Graph.from_predecessors(ntasks, *infer_edges(accesses)))]


def layers(ntasks: int) -> list[Program]:
    """Layers of 1,000 tasks; each reads two of the layer before."""
    draw, width = random.Random(1).randrange, 1000
    indegree, pred = array("i"), array("i")
    for index in range(ntasks):
        first = index - index % width - width
        found = {first + draw(width), first + draw(width)} if first >= 0 else set()
        indegree.append(len(found))
        pred.extend(found)
    graph = Graph.from_predecessors(ntasks, indegree, pred, bytearray([1]) * len(pred))
    return [Program(0, 0, ntasks, graph)]


CASES: dict[str, tuple[Callable[[int], list[Program]], int]] = {
    "independent": (independent, 100_000),
    "two functions": (of_two_functions, 100_000),
    "one by one": (one_by_one, 10_000),
    "chain": (chain, 10_000),
    "random DAG": (dag, 100_000),
    "layers": (layers, 100_000),
}


def schedule(programs: list[Program]) -> tuple[int, int]:
    """Run the programs through a scheduler; return the numbers of events and of chunks."""
    scheduler = Scheduler(range(1, WORKERS + 1))
    running: deque[Chunk] = deque()
    nevents = nchunks = nfinished = 0

    def hear(event: Submitted | Progressed) -> None:
        nonlocal nevents, nchunks, nfinished
        nevents += 1
        for command in scheduler.handle(event, nevents * 1e-6):
            if type(command) is SendChunk:
                running.append(command.chunk)
                nchunks += 1
            elif type(command) is Finished:
                nfinished += 1

    for program in programs:
        hear(Submitted(program))
    while running:
        chunk = running.popleft()
        size = chunk.size
        hear(Progressed(chunk.number, size, {}, {}, dict.fromkeys(KINDS, (size, size * TASK_S))))
    if nfinished != len(programs) or scheduler.unfinished:
        raise SystemExit("the scheduler left tasks unfinished")
    return nevents, nchunks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=CASES, help="show where one case spends its time")
    chosen = parser.parse_args().profile
    print(f"{'case':<15}{'tasks':>9}{'chunks':>9}{'make us/task':>14}{'schedule us/task':>18}")
    for name, (make, ntasks) in CASES.items():
        if chosen not in (None, name):
            continue
        started = time.process_time()
        programs = make(ntasks)
        made = time.process_time()
        if chosen:
            profile = cProfile.Profile()
            profile.runcall(schedule, programs)
            pstats.Stats(profile).sort_stats("tottime").print_stats(15)
            return
        _, nchunks = schedule(programs)
        spent = time.process_time() - made
        making = (made - started) / ntasks * 1e6
        print(f"{name:<15}{ntasks:>9}{nchunks:>9}{making:>14.2f}{spent / ntasks * 1e6:>18.2f}")


if __name__ == "__main__":
    main()
