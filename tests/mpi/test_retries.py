"""Tasks that are tried again: on what, when, where, and what is seen of it."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import (
    Batch,
    CancelledError,
    CommunicationDomain,
    CommunicationObject,
    DependencyError,
    TaskTimeoutError,
    WorkerDiedError,
)
from tests.mpi.gates import LIMIT_S
from tests.mpi.tries import LONG_S, OwnError, attempts, driven, falters, held, nth

#: A time-out of a task that would run on.
SOON_S = 0.02
BOARD = CommunicationObject(CommunicationDomain(), "board")


def loops_at_first(folder: Path) -> int:
    number = nth(folder)
    until = time.monotonic() + LONG_S
    while number == 1 and time.monotonic() < until:
        sum(range(100))
    return number


# ---- on what ------------------------------------------------------------------------------------


def test_it_succeeds_in_the_end(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(falters, tmp_path, 2, retries=3, retry_on=OwnError)
    assert task.run(LIMIT_S) == 3
    assert task.stdout.get() == "attempt 3\n"
    found = attempts(task)
    assert [each.number for each in found] == [1, 2, 3]
    assert [repr(each.error) for each in found] == [
        "OwnError('attempt 1')",
        "OwnError('attempt 2')",
        "None",
    ]
    assert all(each.host for each in found)
    assert all(each.started <= each.ended for each in found)
    assert [each.ended for each in found] == sorted(each.ended for each in found)
    assert f"rank {found[0].rank} " in str(found[0].error.__cause__)  # type: ignore[union-attr]


def test_the_last_attempt_fails(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(falters, tmp_path, 9, retries=2, retry_on=OwnError)
    task.start()
    task.wait(LIMIT_S)
    with pytest.raises(OwnError, match="attempt 3") as caught:
        task.result.get()
    assert [str(each.error) for each in attempts(task)] == [f"attempt {n}" for n in (1, 2, 3)]
    assert attempts(task)[-1].error is caught.value


def test_another_worker_is_preferred(batch: Batch, tmp_path: Path, nworkers: int) -> None:
    task = batch.function(falters, tmp_path, 3, retries=3, retry_on=OwnError)
    task.run(LIMIT_S)
    ranks = [each.rank for each in attempts(task)]
    assert len(set(ranks)) == min(nworkers, 4), ranks
    assert nworkers == 1 or all(here != there for here, there in itertools.pairwise(ranks))


@pytest.mark.parametrize("retry_on", [None, TaskTimeoutError, (KeyError, ValueError)])
def test_what_the_task_raises_itself_is_final_unless_named(
    batch: Batch, tmp_path: Path, retry_on: Any
) -> None:
    task = batch.function(falters, tmp_path, 1, retries=3, retry_on=retry_on)
    with pytest.raises(OwnError, match="attempt 1"):
        task.run(LIMIT_S)
    assert len(attempts(task)) == 1


@pytest.mark.parametrize("retry_on", [LookupError, (KeyError, LookupError), Exception])
def test_classes_that_it_derives_from(batch: Batch, tmp_path: Path, retry_on: Any) -> None:
    assert batch.function(falters, tmp_path, 1, retries=1, retry_on=retry_on).run(LIMIT_S) == 2


def test_a_class_of_the_main_program(batch: Batch, tmp_path: Path) -> None:
    class LocalError(Exception):
        pass

    task = batch.function(falters, tmp_path, 1, LocalError, retries=1, retry_on=LocalError)
    assert task.run(LIMIT_S) == 2


def test_an_exception_that_cannot_travel(batch: Batch, tmp_path: Path) -> None:
    """It is known by its class on the worker, whatever becomes of it on its way."""

    class StuckError(OwnError):
        def __reduce__(self) -> Any:
            raise TypeError("stuck")

    task = batch.function(falters, tmp_path, 1, StuckError, retries=1, retry_on=OwnError)
    assert task.run(LIMIT_S) == 2
    assert type(attempts(task)[0].error).__name__ == "RemoteError"


def test_lost_workers_by_default(batch: Batch, tmp_path: Path) -> None:
    assert batch.function(falters, tmp_path, 2, WorkerDiedError, retries=2).run(LIMIT_S) == 3


def test_time_outs_by_default(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(loops_at_first, tmp_path, timeout=SOON_S, retries=1)
    assert task.run(LIMIT_S) == 2
    assert isinstance(attempts(task)[0].error, TaskTimeoutError)


def test_without_retries_nothing_is_noted(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(falters, tmp_path, 0, retry_on=OwnError)
    assert attempts(task) == []
    task.run(LIMIT_S)
    assert attempts(task) == []


def test_many(batch: Batch, tmp_path: Path) -> None:
    """Each second of many short tasks fails at first, and what comes after it waits for it."""
    folders = [tmp_path / str(index) for index in range(100)]
    for folder in folders:
        folder.mkdir()
    tasks = [
        batch.function(falters, folder, index % 2, retries=1, retry_on=OwnError)
        for index, folder in enumerate(folders)
    ]
    compiled = batch.compile(tasks)
    compiled.run(LIMIT_S)
    assert [task.result.get() for task in tasks] == [1 + index % 2 for index in range(100)]
    found = compiled.attempts
    assert isinstance(found, dict)
    assert [len(found[task.uid]) for task in tasks] == [1 + index % 2 for index in range(100)]
    assert [len(attempts(task)) for task in tasks] == [1 + index % 2 for index in range(100)]


def test_a_result_as_an_argument(batch: Batch, tmp_path: Path) -> None:
    """What it took from another task is there for each attempt."""

    def takes(data: list[int], folder: Path) -> int:
        data.append(falters(folder, 2))
        return len(data)

    big = batch.function(lambda: list(range(100_000)))
    task = batch.function(takes, big, tmp_path, retries=2, retry_on=OwnError)
    batch.compile([big, task]).run(LIMIT_S)
    assert task.result.get() == 100_001


# ---- back-off -----------------------------------------------------------------------------------


def test_the_delay(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(falters, tmp_path, 2, retries=2, retry_delay=0.1, retry_on=OwnError)
    task.run(LIMIT_S)
    found = attempts(task)
    between = [later.started - sooner.ended for sooner, later in itertools.pairwise(found)]
    # Clocks of ranks on one host are one; the delay counts from when the manager hears.
    assert between[0] >= 0.1
    assert between[1] >= 0.2


def test_it_holds_no_worker_meanwhile(batch: Batch, tmp_path: Path) -> None:
    task = held(batch, tmp_path)
    others = [batch.function(pow, 2, each) for each in range(4 * batch.num_workers)]
    batch.compile(others).run(LIMIT_S)
    # Answers to recalls may be under way.
    driven(batch, lambda: not batch._live.running)  # type: ignore[attr-defined]
    assert "waiting" in repr(task)
    with pytest.raises(TimeoutError):
        task.wait(0.01)
    task.cancel()


@pytest.mark.parametrize("how", ["cancel", "cancel_all", "terminate"])
def test_given_up_meanwhile(tmp_path: Path, how: str) -> None:
    batch = Batch()
    task = held(batch, tmp_path)
    begun = time.monotonic()
    if how == "cancel":
        task.cancel()
    else:
        getattr(batch, how)()
    task.wait(LIMIT_S)
    assert time.monotonic() - begun < LIMIT_S / 2
    with pytest.raises(CancelledError):
        task.result.get()
    assert [str(each.error) for each in attempts(task)] == ["attempt 1"]
    batch.close()
    batch.join(LIMIT_S)


def test_nobody_spins_meanwhile(batch: Batch, tmp_path: Path) -> None:
    """Rank 0 uses a small part of a core while it waits for a task in its back-off."""
    task = held(batch, tmp_path)
    before, begun = time.process_time(), time.monotonic()
    with pytest.raises(TimeoutError):
        task.wait(1.0)
    assert time.process_time() - before < 0.5 * (time.monotonic() - begun)
    task.cancel()


def test_the_standing_names_it(batch: Batch, tmp_path: Path) -> None:
    from alamo_mpi.runtime.standing import standing

    task = held(batch, tmp_path)
    manager: Any = batch._manager
    with manager.lock:
        text = standing(manager.roster.batches, manager.hosts)
    told = rf"task {task.uid} 'falters' has failed, and attempt 2 begins in 2[34]\d\.\d s"
    assert re.search(told, text), text
    task.cancel()


# ---- successors, accesses -----------------------------------------------------------------------


def test_successors_wait_for_the_last_attempt(batch: Batch, tmp_path: Path) -> None:
    """Those by WAR and WAW too: they run behind the attempt that succeeds."""
    tries, log = tmp_path / "tries", tmp_path / "log"
    tries.mkdir()

    def writes(kind: str) -> None:
        number = falters(tries, 2) if kind == "first" else 0
        with log.open("a") as file:
            file.write(f"{kind}{number} ")

    first = batch.function(
        writes, "first", reads=batch.read(BOARD, "in"), writes=batch.write(BOARD, "out"),
        retries=2, retry_on=OwnError,
    )  # fmt: skip
    raw = batch.function(writes, "raw", reads=batch.read(BOARD, "out"))
    war = batch.function(writes, "war", writes=batch.write(BOARD, "in"))
    batch.compile([first, raw, war]).run(LIMIT_S)
    assert log.read_text().split()[0] == "first3"
    assert sorted(log.read_text().split()) == ["first3", "raw0", "war0"]


def test_successors_fail_after_the_last_attempt(batch: Batch, tmp_path: Path) -> None:
    first = batch.function(falters, tmp_path, 9, retries=2, retry_on=OwnError)
    then = batch.function(abs, first)
    batch.compile([first, then]).start()
    with pytest.raises(DependencyError, match=r"falters.* failed") as caught:
        then.result.get(timeout=LIMIT_S)
    assert str(caught.value.__cause__) == "attempt 3"


def test_a_declared_file_is_written_again(batch: Batch, tmp_path: Path) -> None:
    tries, file = tmp_path / "tries", tmp_path / "file"
    tries.mkdir()

    def writes() -> None:
        with file.open("w") as out:
            out.write("half ")
            out.flush()
            falters(tries, 1)
            out.write("whole")

    first = batch.function(writes, writes=batch.write(file), retries=1, retry_on=OwnError)
    then = batch.function(file.read_text, reads=batch.read(file))
    batch.compile([first, then]).run(LIMIT_S)
    assert then.result.get() == "half whole"


@pytest.mark.parametrize(
    ("reads", "writes"),
    [
        ((BOARD, "a"), (BOARD, "a")),
        ((BOARD,), (BOARD, "a")),
        ((BOARD, "a", "b"), (BOARD,)),
        ((Path("/d/f"),), (Path("/d"), "f")),
        ((Path("/d"),), (Path("/d/e/f"),)),
        ((Path("/d/./f"),), (Path("/d/e/../f"),)),
    ],
)
def test_reading_what_it_writes_is_refused(
    batch: Batch, reads: tuple[Any, ...], writes: tuple[Any, ...]
) -> None:
    accesses: dict[str, Any] = {"reads": batch.read(*reads), "writes": batch.write(*writes)}
    with pytest.raises(ValueError, match=r"reads and writes .* so that retries= is not safe"):
        batch.function(abs, 1, **accesses, retries=1)
    with pytest.raises(ValueError, match="idempotent=True"):
        batch.process(["true"], **accesses, retries=1)
    with pytest.raises(ValueError, match="idempotent=True"):
        batch.job("true", **accesses, retries=1)
    task = batch.function(abs, 1, writes=batch.write(*writes), retries=1)
    with pytest.raises(ValueError, match="idempotent=True"):
        task.read(*reads)
    assert batch.function(abs, 1, **accesses, retries=1, idempotent=True).run(LIMIT_S) == 1
    assert task.run(LIMIT_S) == 1


def test_reading_something_else_is_fine(batch: Batch) -> None:
    pairs = [((BOARD, "a"), (BOARD, "b")), ((Path("/d"), "a"), (Path("/d"), "ab"))]
    for reads, writes in pairs:
        task = batch.function(
            abs, -1, reads=batch.read(*reads), writes=batch.write(*writes), retries=1
        )
        assert task.run(LIMIT_S) == 1


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"retries": -1}, ValueError, "0 or more"),
        ({"retries": 1.5}, TypeError, "float"),
        ({"retries": 1, "retry_delay": -1}, ValueError, "retry_delay"),
        ({"retries": 1, "retry_delay": float("inf")}, ValueError, "retry_delay"),
        ({"retries": 1, "retry_on": "ValueError"}, TypeError, "exception class"),
        ({"retries": 1, "retry_on": (ValueError, 3)}, TypeError, "exception class"),
        ({"retries": 1, "retry_on": ()}, ValueError, "empty"),
    ],
)
def test_wrong_arguments(
    batch: Batch, wrong: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        batch.function(abs, 1, **wrong)
    with pytest.raises(error, match=text):
        batch.process(["true"], **wrong)
    with pytest.raises(error, match=text):
        batch.job("true", **wrong)
