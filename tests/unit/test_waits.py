"""Circles of waits: which are found, and that nothing else is called one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State
from alamo_mpi.core.waits import Waits, Want

RAW, WAR = Hazard.RAW, Hazard.WAR


def program(
    pid: int,
    ntasks: int = 1,
    edges: Iterable[tuple[int, int]] = (),
    externals: Iterable[tuple[int, Program, int]] = (),
) -> Program:
    graph = Graph.from_edges(ntasks, [(before, then, RAW) for before, then in edges])
    return Program(pid, 0, ntasks, graph, list(externals))


def want(*programs: Program, index: int | None = None) -> Want:
    return Want(lambda: programs, index, "")


class Talk:
    """Waits in which a task's id is ten times its program's number and its index."""

    def __init__(self) -> None:
        self.waits = Waits()

    def begin(self, waiter: Program, index: int, wanted: Want) -> list[int]:
        """Return the ids of the circle, if there is one."""
        return [
            uid for uid, _ in self.waits.begin(10 * waiter.pid + index, (waiter, index), wanted)
        ]


def test_a_tree_of_calls_is_no_circle() -> None:
    talk, programs = Talk(), [program(pid) for pid in range(6)]
    for above, below in itertools.pairwise(programs):
        assert talk.begin(above, 0, want(below)) == []
    assert len(talk.waits) == 5


def test_a_task_that_waits_for_itself() -> None:
    talk, one = Talk(), program(1, 2)
    assert talk.begin(one, 0, want(one, index=0)) == [10]
    assert talk.begin(one, 0, want(one)) == [10]
    assert len(talk.waits) == 0


def test_a_task_that_waits_for_one_behind_it() -> None:
    """Over any number of tasks in between, and not for one beside it."""
    talk, one = Talk(), program(1, 4, [(0, 1), (1, 2)])
    assert talk.begin(one, 0, want(one, index=3)) == []
    talk.waits.end(10)
    assert talk.begin(one, 0, want(one, index=2)) == [10]
    assert talk.begin(one, 1, want(one, index=0)) == []


def test_a_task_that_takes_the_result_of_the_one_that_waits() -> None:
    talk, one = Talk(), program(1)
    two = program(2, 2, externals=[(1, one, 0)])
    assert talk.begin(one, 0, want(two, index=0)) == []
    assert talk.begin(one, 0, want(two, index=1)) == [10]
    assert talk.begin(one, 0, want(two)) == [10]


def test_two_tasks_that_wait_for_each_other() -> None:
    talk, one, two = Talk(), program(1), program(2)
    assert talk.begin(one, 0, want(two)) == []
    assert talk.begin(two, 0, want(one)) == [20, 10]
    # The wait that would have closed it is not noted.
    assert talk.begin(one, 0, want(two)) == []


def test_the_way_that_is_told_is_a_way() -> None:
    """20 waits for 30 to 60, of which 40 waits for nobody that counts and 50 for the first."""
    talk, programs = Talk(), {pid: program(pid) for pid in range(1, 8)}
    assert talk.begin(programs[4], 0, want(programs[7])) == []
    assert talk.begin(programs[5], 0, want(programs[1])) == []
    assert talk.begin(programs[2], 0, want(*(programs[pid] for pid in (3, 4, 5, 6)))) == []
    assert talk.begin(programs[1], 0, want(programs[2])) == [10, 20, 50]


def test_the_end_of_batches() -> None:
    """Both tasks wait for the end of the other's batch, to which tasks come meanwhile."""
    talk, one, two = Talk(), program(1), program(2)
    first, second = [one], [program(3)]
    assert talk.begin(one, 0, Want(lambda: second, None, "")) == []
    second.append(two)
    assert talk.begin(two, 0, Want(lambda: first, None, "")) == [20, 10]


def test_what_has_ended_keeps_nobody() -> None:
    talk, one, two = Talk(), program(1), program(2, 2, [(0, 1)])
    assert talk.begin(one, 0, want(two)) == []
    two.states[0] = State.DONE
    two.remaining -= 1
    assert talk.begin(two, 0, want(one)) == []  # it is over: nobody waits for it any more
    talk.waits.end(20)
    two.states[1] = State.FAILED
    two.remaining -= 1
    assert talk.begin(one, 0, want(two)) == []
    one.states[0] = State.DONE
    one.remaining -= 1
    assert talk.begin(program(3), 0, want(one)) == []
    assert len(talk.waits) == 1


def test_a_task_that_was_given_up_waits_no_longer() -> None:
    talk, one, two = Talk(), program(1), program(2)
    assert talk.begin(one, 0, want(two)) == []
    one.withdrawn = frozenset({0})
    assert talk.begin(two, 0, want(one)) == []


def test_a_wait_that_is_over_is_none() -> None:
    talk, one, two = Talk(), program(1), program(2)
    assert talk.begin(one, 0, want(two)) == []
    talk.waits.end(10)
    assert talk.begin(two, 0, want(one)) == []
    talk.waits.end(99)


@pytest.mark.parametrize("block", range(10))
def test_random_waits_against_the_definition(block: int) -> None:
    """One edge for "ends only after": a circle is found if and only if there is one."""
    found = 0
    for seed in range(block, 400, 10):
        rng = random.Random(seed)
        programs: list[Program] = []
        after: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for pid in range(rng.randint(1, 5)):
            ntasks = rng.randint(1, 4)
            edges = [
                (before, then)
                for then in range(ntasks)
                for before in range(then)
                if rng.random() < 0.3
            ]
            externals = [
                (rng.randrange(ntasks), producer, rng.randrange(producer.ntasks))
                for producer in programs
                if rng.random() < 0.3
            ]
            for index in range(ntasks):
                after[pid, index] = {(pid, before) for before, then in edges if then == index}
                after[pid, index] |= {(p.pid, i) for reader, p, i in externals if reader == index}
            programs.append(program(pid, ntasks, edges, externals))
        talk = Talk()
        waiting: set[tuple[int, int]] = set()
        for _ in range(8):
            waiter = rng.choice(programs)
            index = rng.randrange(waiter.ntasks)
            if (waiter.pid, index) in waiting:
                continue
            wanted = rng.choice(programs)
            task = rng.choice([None, rng.randrange(wanted.ntasks)])
            more = {(wanted.pid, i) for i in range(wanted.ntasks) if task in (None, i)}
            closes = (waiter.pid, index) in reached(after, more)
            assert bool(talk.begin(waiter, index, want(wanted, index=task))) == closes, seed
            found += closes
            if not closes:
                waiting.add((waiter.pid, index))
                after[waiter.pid, index] |= more
    assert found


def reached(
    after: dict[tuple[int, int], set[tuple[int, int]]], start: set[tuple[int, int]]
) -> set[tuple[int, int]]:
    seen, todo = set(start), list(start)
    while todo:
        for each in after[todo.pop()] - seen:
            seen.add(each)
            todo.append(each)
    return seen


# ---- jobs that keep their workers ---------------------------------------------------------------


def job(number: int, pid: int, *gang: int) -> Chunk:
    """Return the chunk of a job that runs on these workers."""
    return Chunk.of_job(number, gang, Program(pid, 0, 1, widths={0: len(gang)}), 0)


def starved(talk: Talk, chunk: Chunk, wanted: Want, *others: Chunk) -> list[int]:
    """Return the ids of those that are stuck once this job of four workers' batch waits."""
    program, index = chunk.at(0)
    assert talk.begin(program, index, wanted) == []
    uid = 10 * program.pid + index
    all_workers = frozenset((1, 2, 3, 4))
    return [
        each for each, _ in talk.waits.starved(uid, [chunk, *others], lambda program: all_workers)
    ]


def test_a_job_that_keeps_all_workers_waits_for_a_task_that_has_none() -> None:
    assert starved(Talk(), job(0, 1, 1, 2, 3, 4), want(program(2))) == [10]


def test_one_worker_that_is_left_will_do() -> None:
    """Not for a task that only others may run, nor for a job of two."""
    assert starved(Talk(), job(0, 1, 1, 2, 3), want(program(2))) == []
    pinned = Program(2, 0, 1, pins={0: frozenset((1, 3))})
    assert starved(Talk(), job(0, 1, 1, 2, 3), want(pinned)) == [10]
    pair = Program(2, 0, 1, widths={0: 2})
    assert starved(Talk(), job(0, 1, 1, 2, 3), want(pair)) == [10]
    assert starved(Talk(), job(0, 1, 1, 2), want(pair)) == []


def test_what_has_ended_or_runs_elsewhere_needs_no_worker() -> None:
    done, running = program(2), program(3)
    done.states[0], done.remaining = State.DONE, 0
    assert starved(Talk(), job(0, 1, 1, 2, 3, 4), want(done)) == []
    elsewhere = Chunk.alone(1, 9, running, 0)
    assert starved(Talk(), job(0, 1, 1, 2, 3, 4), want(running), elsewhere) == []


def test_a_task_that_waits_on_a_worker_of_the_job() -> None:
    """Its own wait may be over: it goes on only when the job has ended."""
    suspended = program(2)
    here = Chunk.alone(1, 3, suspended, 0)
    assert starved(Talk(), job(0, 1, 1, 2, 3), want(suspended), here) == [10]
    assert starved(Talk(), job(0, 1, 1, 2), want(suspended), here) == []


def test_two_jobs_that_keep_what_the_other_needs() -> None:
    """Neither alone: as long as the second does not wait, its workers will be free again."""
    talk, first, second = Talk(), job(0, 1, 1, 2), job(1, 2, 3, 4)
    assert starved(talk, first, want(program(3)), second) == []
    assert starved(talk, second, want(program(4)), first) == [10, 20]


def test_a_job_whose_wait_will_end_frees_the_others() -> None:
    talk, first, second = Talk(), job(0, 1, 1, 2), job(1, 2, 3, 4)
    running = program(3)
    elsewhere = Chunk.alone(2, 9, running, 0)
    assert starved(talk, first, want(running), second, elsewhere) == []
    assert starved(talk, second, want(program(4)), first, elsewhere) == []
