"""Whatever a task does, its get() says what and where, and the workers go on."""

from __future__ import annotations

import builtins
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import (
    Batch,
    CommunicationDomain,
    CommunicationObject,
    DependencyError,
    RemoteError,
    RemoteTraceback,
    Task,
)
from tests.mpi.gates import on_each_worker


class PlainError(Exception):
    pass


class RichError(Exception):
    """An exception that keeps more than its arguments, and rebuilds well."""

    def __init__(self, code: int, message: str = "none") -> None:
        super().__init__(code, message)
        self.code = code
        self.detail = {"rank": None}


class WrongError(Exception):
    """The usual mistake: `__init__` takes what it does not pass on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")


class KeywordError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class LockedError(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this error stays here")


class ChangelingError(Exception):
    """Rebuilds as something that is no exception."""

    def __reduce__(self) -> Any:
        return str, ("not an exception",)


class MuteError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def throw(kind: type[BaseException], *args: Any, **kwargs: Any) -> None:
    raise kind(*args, **kwargs)


def inner(x: int) -> float:
    return 1 / x


def outer(x: int) -> float:
    return inner(x)


def square(x: int) -> int:
    return x * x


def failed(batch: Batch, *call: Any) -> tuple[Task, BaseException]:
    task = batch.function(*call)
    task.start()
    task.wait()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        task.result.get()
    assert batch.function(square, 3).run() == 9  # the service goes on
    return task, caught.value


def test_the_exception_with_where_it_came_from(batch: Batch) -> None:
    task, error = failed(batch, outer, 0)
    assert type(error) is ZeroDivisionError
    assert error.args == ("division by zero",)
    cause = error.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert f"Task {task.uid} 'outer' failed on rank " in str(cause)
    hosts = batch._manager.hosts
    assert any(f"on rank {r} (host {hosts[r]}" in cause.text for r in batch._live.ranks)
    assert "in outer\n" in cause.text
    assert "in inner\n" in cause.text
    assert "execute.py" not in cause.text  # none of our frames
    shown = "".join(traceback.format_exception(error))
    assert "The above exception was the direct cause" in shown
    assert "return 1 / x" in shown


def test_each_get_raises_the_same_object(batch: Batch) -> None:
    task, error = failed(batch, outer, 0)
    depths = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as again:
            task.result.get()
        assert again.value is error
        depths.append(len(traceback.extract_tb(again.tb)))
    assert len(set(depths)) == 1  # it does not grow with each call


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (PlainError, ()),
        (PlainError, ("one", 2)),
        (KeyError, ("key",)),
        (FileNotFoundError, (2, "No such file", "name")),
        (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "invalid")),
        (StopIteration, (5,)),
        (RecursionError, ("too deep",)),
        (MemoryError, ()),
        (AssertionError, ("assert False",)),
        (TimeoutError, ("of the task",)),
        (DependencyError, ("of the task",)),
    ],
)
def test_exceptions_that_travel(
    batch: Batch, kind: type[BaseException], args: tuple[Any, ...]
) -> None:
    _, error = failed(batch, throw, kind, *args)
    assert type(error) is kind
    assert error.args == kind(*args).args
    assert str(error) == str(kind(*args))


def test_attributes_of_an_exception(batch: Batch) -> None:
    _, error = failed(batch, throw, RichError, 7, "seven")
    assert isinstance(error, RichError)
    assert (error.code, error.args, error.detail) == (7, (7, "seven"), {"rank": None})


@pytest.mark.parametrize(
    ("kind", "args", "text"),
    [
        (WrongError, (7, "seven"), "seven (7)"),
        (LockedError, ("locked",), "locked"),
        (ChangelingError, ("changed",), "changed"),
    ],
)
def test_exceptions_that_cannot_be_rebuilt(
    batch: Batch, kind: type[Exception], args: tuple[Any, ...], text: str
) -> None:
    task, error = failed(batch, throw, kind, *args)
    assert isinstance(error, RemoteError)
    assert error.type_name == f"{__name__}.{kind.__name__}"
    assert f"Task {task.uid} 'throw' failed on rank" in str(error)
    assert text in str(error)
    assert (error.uid, error.task_name) == (task.uid, "throw")
    assert error.rank in batch._live.ranks
    assert isinstance(error.__cause__, RemoteTraceback)
    assert kind.__name__ in error.__cause__.text


def test_an_exception_with_keyword_arguments(batch: Batch) -> None:
    task = batch.function(raise_keyword)
    with pytest.raises(RemoteError, match="KeywordError"):
        task.run()


def raise_keyword() -> None:
    raise KeywordError(code=3)


def test_an_exception_without_text(batch: Batch) -> None:
    _, error = failed(batch, throw, MuteError)
    assert type(error) is MuteError
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "MuteError" in error.__cause__.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("args", [(), (3,), ("words",)])
def test_what_would_end_the_program_becomes_an_error(
    batch: Batch, kind: type[BaseException], args: tuple[Any, ...]
) -> None:
    task, error = failed(batch, throw, kind, *args)
    assert isinstance(error, RemoteError)
    assert error.type_name == kind.__name__
    assert "".join(map(str, args)) in str(error)
    assert f"Task {task.uid}" in str(error)


def test_sys_exit_ends_the_task_only(batch: Batch) -> None:
    for code in (0, 1, "bye", None):
        _, error = failed(batch, sys.exit, code)
        assert isinstance(error, RemoteError)
        assert error.type_name == "SystemExit"


def test_a_base_exception_of_the_users_own(batch: Batch) -> None:
    _, error = failed(batch, throw, OwnBaseError, "base")
    assert type(error) is OwnBaseError


class OwnBaseError(BaseException):
    pass


def endless(n: int) -> int:
    return endless(n + 1)


def test_endless_recursion(batch: Batch, tmp_path: Path) -> None:
    _, error = failed(batch, endless, 0)
    assert type(error) is RecursionError
    assert isinstance(error.__cause__, RemoteTraceback)
    assert len(error.__cause__.text) < 10_000
    assert on_each_worker(batch, tmp_path, square, 2) == [4] * batch.num_workers


def chained() -> None:
    try:
        inner(0)
    except ZeroDivisionError as error:
        raise PlainError("because of that") from error


def grouped() -> None:
    raise builtins.ExceptionGroup("several", [ValueError(1), KeyError("two")])  # type: ignore


def test_chains_of_exceptions(batch: Batch) -> None:
    _, error = failed(batch, chained)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "ZeroDivisionError: division by zero" in error.__cause__.text
    assert "PlainError: because of that" in error.__cause__.text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_groups_of_exceptions(batch: Batch) -> None:
    _, error = failed(batch, grouped)
    assert isinstance(error, builtins.ExceptionGroup)  # type: ignore
    assert [type(each) for each in error.exceptions] == [ValueError, KeyError]


def test_a_huge_exception(batch: Batch) -> None:
    _, error = failed(batch, throw, PlainError, "x" * 10_000_000)
    assert len(error.args[0]) == 10_000_000


def test_every_second_task_fails(batch: Batch) -> None:
    tasks = [batch.function(inner, i % 2) for i in range(200)]
    compiled = batch.compile(tasks)
    compiled.start()
    compiled.wait()
    for index, task in enumerate(tasks):
        if index % 2:
            assert task.result.get() == 1
        else:
            with pytest.raises(ZeroDivisionError):
                task.result.get()


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def write_and_fail(path: Path, text: str) -> None:
    write(path, text)
    raise PlainError(text)


def test_failure_follows_data_and_nothing_else(batch: Batch, tmp_path: Path) -> None:
    """
    root ─RAW→ reader ─RAW→ far        skipped
    root ─WAW→ overwrites ─RAW→ fine   run
    reads_first ─WAR→ root             (fails itself)
    failing_reader ─WAR→ overwrites    run
    """
    a, b = tmp_path / "a", tmp_path / "b"
    read, write_access = batch.read, batch.write
    a.write_text("")
    before = batch.function(a.read_text, reads=read(a))
    root = batch.function(write_and_fail, a, "1", writes=write_access(a))
    reader = batch.function(write, b, "2", reads=read(a), writes=write_access(b))
    far = batch.function(b.read_text, reads=read(b))
    failing_reader = batch.function(throw, PlainError, "reader", reads=read(tmp_path / "c"))
    overwrites = batch.function(
        a.write_text, "3", writes=[write_access(a), write_access(tmp_path / "c")]
    )
    fine = batch.function(a.read_text, reads=read(a))
    b_again = batch.function(b.write_text, "4", writes=write_access(b))
    tasks = [before, root, reader, far, failing_reader, overwrites, fine, b_again]
    compiled = batch.compile(tasks)
    compiled.start()
    compiled.wait()
    assert before.result.get() == ""
    for task in (reader, far):
        with pytest.raises(DependencyError) as caught:
            task.result.get()
        error = caught.value
        assert f"Task {task.uid} " in str(error)
        assert re.search(rf"task {root.uid} 'write_and_fail'.* failed", str(error))
        assert type(error.__cause__) is PlainError
        assert (error.uid, error.task_name) == (task.uid, task._name())
        assert (task.stdout.get(), task.stderr.get()) == ("", "")
    assert overwrites.result.get() == 1
    assert fine.result.get() == "3"
    assert b_again.result.get() == 1
    with pytest.raises(PlainError, match="1"):
        root.result.get()


def test_a_long_chain_names_its_root(batch: Batch) -> None:
    board = CommunicationObject(CommunicationDomain(), "board")
    tasks = [batch.function(throw, PlainError, "root", writes=batch.write(board, 0))]
    for i in range(100):
        tasks.append(
            batch.function(square, i, reads=batch.read(board, i), writes=batch.write(board, i + 1))
        )
    batch.compile(tasks).start()
    root = None
    for task in tasks[1:]:
        with pytest.raises(
            DependencyError, match=rf"task {tasks[0].uid} 'throw'.* failed"
        ) as caught:
            task.result.get()
        root = root or caught.value.__cause__
        assert caught.value.__cause__ is root
    with pytest.raises(PlainError) as first:
        tasks[0].result.get()
    assert first.value is root
