"""Random programs leave files, objects and results as running them one by one does.

Every task reads some channels, mixes what it has read with its own number, and writes the mix to
others: a single read or write out of order changes everything after it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from alamo_mpi import (
    Batch,
    CommunicationDomain,
    CommunicationObject,
    DataAccess,
    DependencyError,
    Task,
)

_MASK = (1 << 62) - 1


class Failure(Exception):  # noqa: N818 - tells a task's planned failure from any other
    pass


@dataclass(frozen=True)
class Step:
    """One call of the sequential program."""

    number: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    #: Whether it names the whole object in place of the channels.
    reads_all: bool
    writes_all: bool
    fails: bool
    nap_s: float


def program(seed: int, nsteps: int, nchannels: int, failing: float = 0.0) -> list[Step]:
    rng = random.Random(seed)

    def channels(most: int) -> tuple[int, ...]:
        return tuple(rng.sample(range(nchannels), rng.randint(0, min(most, nchannels))))

    steps = []
    for number in range(nsteps):
        reads_all, writes_all = rng.random() < 0.01, rng.random() < 0.005
        steps.append(
            Step(
                number,
                tuple(range(nchannels)) if reads_all else channels(3),
                tuple(range(nchannels)) if writes_all else channels(2),
                reads_all,
                writes_all,
                rng.random() < failing,
                # Now and then one that upsets all estimates.
                rng.random() * 5e-3 if rng.random() < 0.01 else 0.0,
            )
        )
    return steps


def mix(number: int, values: Sequence[int], fails: bool, nap_s: float) -> int:
    if nap_s:
        time.sleep(nap_s)
    if fails:
        raise Failure(number)
    mixed = number + 1
    for value in values:
        mixed = (mixed * 6364136223846793005 + value) & _MASK
    return mixed


def through_file(path: Path, step: Step) -> int:
    """Run a step on channels that are slots of one file."""
    fd = os.open(path, os.O_RDWR)
    try:
        values = [int.from_bytes(os.pread(fd, 8, 8 * c), "little") for c in step.reads]
        mixed = mix(step.number, values, step.fails, step.nap_s)
        for channel in step.writes:
            os.pwrite(fd, mixed.to_bytes(8, "little"), 8 * channel)
    finally:
        os.close(fd)
    return mixed


def through_files(folder: Path, step: Step) -> int:
    """Run a step on channels that are files; whoever writes one replaces it in two steps."""
    values = [int((folder / str(c)).read_bytes() or b"-1") for c in step.reads]
    mixed = mix(step.number, values, step.fails, step.nap_s)
    for channel in step.writes:
        path = folder / str(channel)
        path.write_bytes(b"")
        path.write_bytes(str(mixed).encode())
    return mixed


def one_by_one(steps: Sequence[Step], nchannels: int) -> tuple[list[int], list[int | str]]:
    """Return the channels' last values, and each step's result or why it has none."""
    store = [0] * nchannels
    # The whole object may have more channels than any step names: one stands for all of these.
    broken = [False] * (nchannels + 1)
    results: list[int | str] = []
    for step in steps:
        if any(broken[c] for c in step.reads) or (step.reads_all and broken[-1]):
            results.append("not run")
        elif step.fails:
            results.append("failed")
        else:
            mixed = mix(step.number, [store[c] for c in step.reads], False, 0)
            results.append(mixed)
            for channel in step.writes:
                store[channel] = mixed
        for channel in step.writes:
            broken[channel] = type(results[-1]) is str
        if step.writes_all:
            broken[-1] = type(results[-1]) is str
    return store, results


def outcome(task: Task) -> int | str:
    try:
        value: int = task.result.get()
    except DependencyError as error:
        return "not run" if isinstance(error.__cause__, Failure) else repr(error.__cause__)
    except Failure:
        return "failed"
    return value


def accesses(
    batch: Batch, target: CommunicationObject | Path, step: Step
) -> tuple[list[DataAccess], list[DataAccess]]:
    def names(channels: tuple[int, ...]) -> list[str]:
        return [str(c) for c in channels]

    reads, writes = [], []
    if step.reads:
        reads.append(batch.read(target, *([] if step.reads_all else names(step.reads))))
    if step.writes:
        writes.append(batch.write(target, *([] if step.writes_all else names(step.writes))))
    return reads, writes


#: From one long chain to almost independent tasks.
WIDTHS = [1, 3, 20, 300]


@pytest.mark.parametrize("failing", [0.0, 0.02])
@pytest.mark.parametrize("nchannels", WIDTHS)
def test_through_an_object(batch: Batch, tmp_path: Path, nchannels: int, failing: float) -> None:
    steps = program(nchannels, 1500, nchannels, failing)
    store = tmp_path / "store"
    store.write_bytes(bytes(8 * nchannels))
    board = CommunicationObject(CommunicationDomain(), "board")
    tasks: list[Task] = []
    for step in steps:
        reads, writes = accesses(batch, board, step)
        tasks.append(batch.function(through_file, store, step, reads=reads, writes=writes))
    compiled = batch.compile(tasks)
    compiled.start()
    compiled.wait()
    expected_store, expected = one_by_one(steps, nchannels)
    assert [outcome(task) for task in tasks] == expected
    data = store.read_bytes()
    found = [int.from_bytes(data[8 * c : 8 * c + 8], "little") for c in range(nchannels)]
    assert found == expected_store


@pytest.mark.parametrize("nchannels", WIDTHS)
def test_through_files(batch: Batch, tmp_path: Path, nchannels: int) -> None:
    steps = program(100 + nchannels, 800, nchannels)
    for channel in range(nchannels):
        (tmp_path / str(channel)).write_text("0")
    tasks: list[Task] = []
    for step in steps:
        reads, writes = accesses(batch, tmp_path, step)
        tasks.append(batch.function(through_files, tmp_path, step, *reads, *writes))
    batch.compile(tasks).run()
    store, expected = one_by_one(steps, nchannels)
    assert [task.result.get() for task in tasks] == expected
    assert [int((tmp_path / str(c)).read_text()) for c in range(nchannels)] == store


@pytest.mark.parametrize("seed", range(4))
def test_through_results(batch: Batch, seed: int) -> None:
    rng = random.Random(seed)
    tasks: list[Task] = []
    expected: list[int] = []
    for number in range(1500):
        recent = range(max(0, number - rng.choice([1, 10, 1000])), number)
        sources = rng.sample(recent, min(len(recent), rng.randint(0, 3)))
        naps = rng.random() * 5e-3 if rng.random() < 0.01 else 0.0
        tasks.append(batch.function(mix_results, number, naps, *[tasks[s] for s in sources]))
        expected.append(mix(number, [expected[s] for s in sources], False, 0.0))
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == expected


def mix_results(number: int, nap_s: float, *values: int) -> int:
    return mix(number, values, False, nap_s)


def test_through_results_of_separate_starts(batch: Batch) -> None:
    rng = random.Random(5)
    tasks: list[Task] = []
    expected: list[int] = []
    for number in range(1500):
        recent = range(max(0, number - 50), number)
        sources = rng.sample(recent, min(len(recent), rng.randint(0, 3)))
        tasks.append(batch.function(mix_results, number, 0.0, *[tasks[s] for s in sources]))
        tasks[-1].start()
        expected.append(mix(number, [expected[s] for s in sources], False, 0.0))
    assert [task.result.get() for task in tasks] == expected


def test_many_programs_at_once(batch: Batch, tmp_path: Path) -> None:
    programs = [program(1000 + p, 120, 4, 0.01) for p in range(12)]
    started: list[tuple[Path, list[Task]]] = []
    for number, steps in enumerate(programs):
        store = tmp_path / f"store-{number}"
        store.write_bytes(bytes(32))
        board = CommunicationObject(CommunicationDomain(), number)
        tasks: list[Task] = []
        for step in steps:
            reads, writes = accesses(batch, board, step)
            tasks.append(batch.function(through_file, store, step, reads=reads, writes=writes))
        batch.compile(tasks).start()
        started.append((store, tasks))
    for (store, tasks), steps in zip(started, programs, strict=True):
        expected_store, expected = one_by_one(steps, 4)
        assert [outcome(task) for task in tasks] == expected
        data = store.read_bytes()
        assert [
            int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8)
        ] == expected_store
