"""Random programs on simulated workers, held against what the sequential program would do.

Each seed is one run of a few milliseconds.  ``ALAMO_SOAK=20000`` runs that many seeds of each test
instead of the usual ones (a few minutes); ``ALAMO_SOAK_FROM=5000`` starts at another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from dataclasses import dataclass

import pytest

from alamo_mpi.core.access import CommunicationDomain, CommunicationObject, read, write
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.program import Program
from alamo_mpi.core.retry import Retry
from alamo_mpi.core.states import State
from alamo_mpi.inference import infer
from tests.support import oracle
from tests.support.oracle import Cell, Step
from tests.support.simulation import Job, Key, Manners, World

SOAK = int(os.environ.get("ALAMO_SOAK", "0"))
FIRST = int(os.environ.get("ALAMO_SOAK_FROM", "0"))
#: Each test is cut into so many, that none is long.
NBLOCKS = 20


def seeds(usual: int) -> range:
    return range(FIRST, FIRST + (SOAK or usual))


@dataclass
class Sample:
    """One random program with its sequential meaning."""

    steps: list[Step]
    leaves: list[Cell]
    graph: Graph
    job: Job


def random_steps(rng: random.Random, ntasks: int) -> tuple[list[Step], list[Cell]]:
    """Return tasks that read and write some of a few channels, or the whole object."""
    leaves: list[Cell] = [(name,) for name in "abcdef"[: rng.randint(1, 6)]]
    cells: list[Cell] = [*leaves, ()] if rng.random() < 0.4 else leaves

    def some(most: int) -> tuple[Cell, ...]:
        return tuple(rng.choice(cells) for _ in range(rng.randint(0, most)))

    return [Step(some(2), some(rng.randint(0, 2))) for _ in range(ntasks)], leaves


def random_values(rng: random.Random, ntasks: int) -> list[tuple[int, int]]:
    """Return pairs (producer, consumer) of results that are arguments."""
    if ntasks < 2 or rng.random() < 0.4:
        return []
    pairs = (sorted(rng.sample(range(ntasks), 2)) for _ in range(rng.randint(1, ntasks)))
    return sorted({(first, then) for first, then in pairs}, key=lambda pair: pair[::-1])


def random_seconds(rng: random.Random, ntasks: int, nkinds: int) -> tuple[list[int], list[float]]:
    """Return the function and the duration of each task, of one of several tempers."""
    kinds = [rng.randrange(nkinds) for _ in range(ntasks)]
    means = [10 ** rng.uniform(-6, -2) for _ in range(nkinds)]
    temper = rng.choice(["steady", "exponential", "skewed"])
    if temper == "steady":
        return kinds, [means[kind] for kind in kinds]
    if temper == "exponential":
        return kinds, [rng.expovariate(1 / means[kind]) for kind in kinds]
    return kinds, [min(means[kind] * rng.paretovariate(0.6), 0.1) for kind in kinds]


def random_widths(rng: random.Random, ntasks: int, nworkers: int) -> dict[int, int]:
    """Return the tasks that take several workers, or one as a job, and how many."""
    if rng.random() < 0.5:
        return {}
    share = rng.choice([0.1, 0.5, 1.0])
    return {i: rng.randint(1, nworkers) for i in range(ntasks) if rng.random() < share}


def random_pins(
    rng: random.Random, ntasks: int, nworkers: int, widths: dict[int, int]
) -> dict[int, frozenset[int]]:
    """Return the tasks, no jobs, that only some workers may run, and these."""
    if rng.random() < 0.5:
        return {}
    some = [
        frozenset(rng.sample(range(1, nworkers + 1), rng.randint(1, nworkers))) for _ in range(2)
    ]
    share = rng.choice([0.1, 0.5, 1.0])
    pinned = [i for i in range(ntasks) if i not in widths and rng.random() < share]
    return {i: rng.choice(some) for i in pinned}


def random_retries(rng: random.Random, ntasks: int) -> dict[int, Retry]:
    """Return the tasks that are tried again, and how often."""
    if rng.random() < 0.6:
        return {}
    share, delay_s = rng.choice([0.1, 0.5, 1.0]), rng.choice([0.0, 1e-3, 2e-2])
    terms = [Retry(rng.randint(1, 3), delay_s, frozenset(("E",))) for _ in range(2)]
    return {i: rng.choice(terms) for i in range(ntasks) if rng.random() < share}


def random_sample(
    rng: random.Random, pid: int, earlier: list[Sample], nworkers: int, *, failing: bool
) -> Sample:
    ntasks = rng.choice([0, 1, 2, 3, 5, 8, 13, 21, 34])
    steps, leaves = random_steps(rng, ntasks)
    if rng.random() < 0.2:
        steps = [Step()] * ntasks
    values = random_values(rng, ntasks) if rng.random() < 0.5 else []
    board = CommunicationObject(CommunicationDomain(), f"board {pid}")
    accesses = [
        [
            *(read(board, *cell) for cell in step.reads),
            *(write(board, *cell) for cell in step.writes),
        ]
        for step in steps
    ]
    graph = infer(accesses, values)
    producers = [sample.job.program for sample in earlier if sample.job.program.ntasks]
    externals = []
    if ntasks and producers and rng.random() < 0.6:
        for _ in range(rng.randint(1, 4)):
            producer = rng.choice(producers)
            externals.append((rng.randrange(ntasks), producer, rng.randrange(producer.ntasks)))
    kinds, seconds = random_seconds(rng, ntasks, rng.randint(1, 3))
    alike = len(set(kinds)) == 1 and rng.random() < 0.7
    widths = random_widths(rng, ntasks, nworkers)
    program = Program(
        pid,
        kinds[0] if alike else kinds,
        ntasks,
        graph if graph.nedges or rng.random() < 0.5 else None,
        externals,
        record=rng.random() < 0.3,
        widths=widths,
        pins=random_pins(rng, ntasks, nworkers, widths),
    )
    program.retry = random_retries(rng, ntasks)
    after: list[set[Key]] = [set() for _ in range(ntasks)]
    for before, then in oracle.ordered_pairs(steps, board.domain):
        after[then].add((pid, before))
    for before, then in values:
        after[then].add((pid, before))
    for then, producer, before in externals:
        after[then].add((producer.pid, before))
    raising = frozenset(
        index for index in range(ntasks) if failing and rng.random() < rng.choice([0.05, 0.3])
    )
    falters = {}
    for index, retry in program.retry.items():
        if failing and index not in raising:
            falters[index] = rng.randint(0, retry.retries)
    kept = {index: 1 << rng.randint(1, 20) for index in range(ntasks) if rng.random() < 0.3}
    return Sample(steps, leaves, graph, Job(program, seconds, raising, falters, after, kept))


def random_manners(rng: random.Random) -> Manners:
    return Manners(
        latency_s=rng.choice([0.0, 1e-5, 1e-4, 5e-3]),
        start_s=rng.choice([0.0, 0.0, 1e-4, 1e-2]),
        eager=rng.choice([0.0, 0.1, 0.5, 1.0]),
        interruptible=rng.choice([0.0, 0.5, 1.0]),
        waiting=rng.choice([0.0, 0.0, 0.1, 0.6]),
        wait_s=rng.choice([0.0, 1e-3, 3e-2]),
    )


def expected_states(samples: list[Sample], cancelled: Collection[Key] = ()) -> dict[Key, State]:
    """Return how each task ends, those cancelled aside: by definition, one after the other."""
    states: dict[Key, State] = {}
    for sample in samples:
        program = sample.job.program
        sources: list[set[Key]] = [
            {(program.pid, source) for source in oracle.raw_predecessors(sample.graph, task)}
            for task in range(program.ntasks)
        ]
        for task, producer, source in program.externals:
            sources[task].add((producer.pid, source))
        for task in range(program.ntasks):
            if (program.pid, task) in cancelled:
                state = State.CANCELLED
            elif any(states[source] != State.DONE for source in sources[task]):
                state = State.SKIPPED
            elif task in sample.job.raising:
                state = State.FAILED
            else:
                state = State.DONE
            states[program.pid, task] = state
    return states


def play(
    seed: int,
    *,
    failing: bool,
    ending: bool = False,
    cancelling: bool = False,
    withdrawing: bool = False,
) -> tuple[World, list[Sample]]:
    """Run one random history to its end; the world checks each step of it."""
    rng = random.Random(seed)
    samples: list[Sample] = []
    nworkers = rng.choice([1, 2, 3, 5, 8])
    for pid in range(rng.randint(1, 4)):
        samples.append(random_sample(rng, pid, samples, nworkers, failing=failing))
    world = World(nworkers, rng, random_manners(rng))
    span = sum(sum(sample.job.seconds) for sample in samples)
    when = 0.0
    for sample in samples:
        world.submit(sample.job, when)
        when += rng.choice([0.0, rng.uniform(0, span)])
    if ending:
        world.terminate(rng.uniform(0, 1.2 * span / world.nworkers + 1e-3))
    if cancelling:
        first = rng.randrange(len(samples) + 1)
        world.cancel(first, rng.uniform(0, 1.2 * span / world.nworkers + 1e-3))
    if withdrawing:
        for sample in samples:
            ntasks = sample.job.program.ntasks
            some = frozenset(rng.sample(range(ntasks), rng.randint(0, ntasks)))
            world.withdraw(sample.job.program.pid, some, rng.uniform(0, 1.2 * span))
    ntasks = sum(sample.job.program.ntasks for sample in samples)
    world.run(most_events=100 + 30 * ntasks)
    assert sorted(world.finished) == list(range(len(samples)))
    return world, samples


@pytest.mark.parametrize("block", range(NBLOCKS))
def test_stores_end_as_the_sequential_program_leaves_them(block: int) -> None:
    """Any order that the scheduler and chance make of it, with nothing failing."""
    for seed in seeds(240)[block::NBLOCKS]:
        world, samples = play(seed, failing=False)
        assert set(world.finals.values()) <= {State.DONE}, seed
        for sample in samples:
            pid, ntasks = sample.job.program.pid, sample.job.program.ntasks
            order = [index for owner, index in world.order if owner == pid]
            assert sorted(order) == list(range(ntasks)), seed
            left = oracle.run(sample.steps, order, sample.leaves)
            assert left == oracle.run(sample.steps, range(ntasks), sample.leaves), seed


@pytest.mark.parametrize("block", range(NBLOCKS))
def test_a_failure_stops_exactly_whoever_reads_from_it(block: int) -> None:
    """Skipped is whom a failed task reaches through RAW, at first or any hand, and nobody else."""
    for seed in seeds(240)[block::NBLOCKS]:
        world, samples = play(seed, failing=True)
        assert world.finals == expected_states(samples), seed
        ran = {key for key, state in world.finals.items() if state != State.SKIPPED}
        assert sorted(world.order) == sorted(ran), seed
        for sample in samples:
            check_roots(sample.job.program, world.finals)


def check_roots(program: Program, finals: dict[Key, State]) -> None:
    """Each skipped task names a failed one, of this program or an earlier one."""
    for index in range(program.ntasks):
        if finals[program.pid, index] == State.SKIPPED:
            owner, root = program.doomed[index]
            assert finals[owner.pid, root] == State.FAILED


@pytest.mark.parametrize("block", range(NBLOCKS))
def test_termination_ends_every_task_and_changes_no_end(block: int) -> None:
    """Whatever was over when the end came stays as it was; all else is cancelled."""
    for seed in seeds(240)[block::NBLOCKS]:
        world, samples = play(seed, failing=True, ending=True)
        natural = expected_states(samples)
        assert world.finals.keys() == natural.keys(), seed
        cancelled = {key for key, state in world.finals.items() if state == State.CANCELLED}
        for key, state in world.finals.items():
            if key in cancelled:
                continue
            if state == State.SKIPPED and natural[key] != State.SKIPPED:
                # Behind a task of its chunk that was interrupted.
                owner, root = world.jobs[key[0]].program.doomed[key[1]]
                assert (owner.pid, root) in cancelled, seed
            else:
                assert state == natural[key], seed


@pytest.mark.parametrize("block", range(NBLOCKS))
def test_cancelled_programs_take_no_others_with_them(block: int) -> None:
    """The programs before the first cancelled one end as if there were no others."""
    for seed in seeds(240)[block::NBLOCKS]:
        world, samples = play(seed, failing=True, cancelling=True)
        natural = expected_states(samples)
        first = world.cancelled_from
        assert world.finals.keys() == natural.keys(), seed
        for key, state in world.finals.items():
            if key[0] < first or state not in (State.CANCELLED, State.SKIPPED):
                assert state == natural[key], seed


@pytest.mark.parametrize("block", range(NBLOCKS))
def test_cancelled_tasks_stop_exactly_whoever_reads_from_them(block: int) -> None:
    """As a failure would; and those ordered behind them keep their order, as the world checks."""
    for seed in seeds(240)[block::NBLOCKS]:
        world, samples = play(seed, failing=True, withdrawing=True)
        cancelled = {key for key, state in world.finals.items() if state == State.CANCELLED}
        assert all(key[1] in world.jobs[key[0]].program.withdrawn for key in cancelled), seed
        assert world.finals == expected_states(samples, cancelled), seed


def test_the_histories_have_in_them_what_they_are_for() -> None:
    """The seeds reach recalls, waits, interruptions, joins, externals, jobs, pins, and so on."""
    seen = set()
    for seed in range(240):
        world, samples = play(seed, failing=True, ending=seed % 2 == 0, cancelling=seed % 4 == 1)
        seen |= world.met
        seen |= {state.name for state in world.finals.values()}
        seen |= {"join" for sample in samples if sample.graph.nnodes > sample.graph.ntasks}
        seen |= {"external" for sample in samples if sample.job.program.externals}
    states = {"DONE", "FAILED", "SKIPPED", "CANCELLED"}
    assert seen == states | {
        *("join", "external", "tail", "whole chunk", "no tail", "interrupted"),
        *("suspended", "suspended with a tail", "resumed inside a chunk"),
        "interrupted while it waits",
        *("job", "waiting job", "pinned", "waiting for others"),
        *("held", "tried again at once"),
    }
