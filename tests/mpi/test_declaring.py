"""Accesses as users declare them: every form, what it orders, and what is no access."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import (
    Batch,
    CommunicationDomain,
    CommunicationObject,
    DataAccess,
    DependencyError,
    Task,
    TaskStateError,
)


def put(folder: Path, name: str, value: int) -> int:
    (folder / name).write_text(str(value))
    return value


def double(folder: Path, source: str, target: str) -> int:
    value = 2 * int((folder / source).read_text())
    (folder / target).write_text(str(value))
    return value


def given(*args: Any) -> tuple[Any, ...]:
    return args


Forms = Callable[[Batch, DataAccess, DataAccess, Path], Task]
#: All the ways to say `double(folder, "a", "b")` with one read and one write.
FORMS: dict[str, Forms] = {
    "tuple, then accesses": lambda b, r, w, d: b.function(double, (d, "a", "b"), r, w),
    "accesses, then tuple": lambda b, r, w, d: b.function(double, r, w, (d, "a", "b")),
    "among the arguments": lambda b, r, w, d: b.function(double, d, r, "a", w, "b"),
    "one each": lambda b, r, w, d: b.function(double, d, "a", "b", reads=r, writes=w),
    "lists": lambda b, r, w, d: b.function(double, d, "a", "b", reads=[r], writes=[w]),
    "sets": lambda b, r, w, d: b.function(double, d, "a", "b", reads={r}, writes={w}),
    "iterators": lambda b, r, w, d: b.function(
        double, d, "a", "b", reads=iter([r]), writes=iter([w])
    ),
    "both ways": lambda b, r, w, d: b.function(double, (d, "a", "b"), r, writes=w),
}


@pytest.mark.parametrize("form", [*FORMS, "task.read and task.write"])
def test_every_form_orders_a_chain(batch: Batch, tmp_path: Path, form: str) -> None:
    for name in "abc":
        (tmp_path / name).write_text("-1000")
    tasks: list[Task] = []
    first = batch.function(put, tmp_path, "a", 1, writes=batch.write(tmp_path, "a"))
    read, write = batch.read(tmp_path, "a"), batch.write(tmp_path, "b")
    if form in FORMS:
        second = FORMS[form](batch, read, write, tmp_path)
    else:
        second = batch.function(double, tmp_path, "a", "b")
        second.read(tmp_path, "a")
        second.write(tmp_path, "b")
    third = batch.function(double, (tmp_path, "b", "c"), batch.read(tmp_path, Path("b")))
    tasks = [first, second, third]
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == [1, 2, 4]


ARGUMENTS: dict[str, tuple[Callable[[Batch, DataAccess], Task], tuple[Any, ...]]] = {
    "one tuple and an access": (lambda b, a: b.function(given, (1, 2), a), (1, 2)),
    "an empty tuple and an access": (lambda b, a: b.function(given, (), a), ()),
    "a tuple of one tuple": (lambda b, a: b.function(given, ((1, 2),), a), ((1, 2),)),
    "an access and nothing else": (lambda b, a: b.function(given, a), ()),
    "a list is one argument": (lambda b, a: b.function(given, [1, 2], a), ([1, 2],)),
    "two tuples are two arguments": (lambda b, a: b.function(given, (1,), (2,), a), ((1,), (2,))),
    "a tuple without access": (lambda b, a: b.function(given, (1, 2)), ((1, 2),)),
    "a tuple and reads=": (lambda b, a: b.function(given, (1, 2), reads=a), ((1, 2),)),
}


@pytest.mark.parametrize("form", ARGUMENTS)
def test_what_is_left_for_the_function(batch: Batch, form: str) -> None:
    make, expected = ARGUMENTS[form]
    board = CommunicationObject(CommunicationDomain(), "board")
    assert make(batch, batch.read(board, 1)).run() == expected


def test_a_tuple_of_tasks_is_the_argument_list_too(batch: Batch, tmp_path: Path) -> None:
    one = batch.function(given, 1)
    two = batch.function(given, (one, 5), batch.write(tmp_path, "x"))
    batch.compile([one, two]).run()
    assert two.result.get() == ((1,), 5)


def test_single_tasks_ignore_accesses(batch: Batch, tmp_path: Path) -> None:
    # Otherwise the second would wait for ever for a file that nobody writes.
    task = batch.function(given, 1, reads=batch.read(tmp_path, "never written"))
    assert task.run() == (1,)


def test_whole_objects_and_several_channels(batch: Batch, tmp_path: Path) -> None:
    board = CommunicationObject(CommunicationDomain(), "board")
    names = [f"f{i}" for i in range(8)]
    writers = [
        batch.function(put, tmp_path, name, i, writes=batch.write(board, name))
        for i, name in enumerate(names)
    ]
    some = batch.function(total, tmp_path, names[:3], reads=batch.read(board, *names[:3]))
    whole = batch.function(total, tmp_path, names, reads=batch.read(board))
    batch.compile([*writers, some, whole]).run()
    assert (some.result.get(), whole.result.get()) == (3, 28)


def total(folder: Path, names: list[str]) -> int:
    return sum(int((folder / name).read_text()) for name in names)


def test_two_spellings_of_one_file(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = batch.function(put, tmp_path, "a", 1, writes=batch.write(tmp_path / "link", "a"))
    second = batch.function(
        double, tmp_path, "a", "b", reads=batch.read(Path("a")), writes=batch.write(Path("."), "b")
    )
    third = batch.function(
        double, tmp_path, "b", "c", reads=batch.read(tmp_path / "x" / ".." / "b")
    )
    batch.compile([first, second, third]).run()
    assert third.result.get() == 4


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_domain_decides_which_hazards_count(batch: Batch, tmp_path: Path) -> None:
    adding = CommunicationObject(CommunicationDomain(waw=False), "sum")
    posts = [
        batch.function(append, tmp_path / "sum", f"{i}\n", writes=batch.write(adding))
        for i in range(20)
    ]
    reader = batch.function((tmp_path / "sum").read_text, reads=batch.read(adding))
    batch.compile([*posts, reader]).run()
    assert sorted(map(int, reader.result.get().split())) == list(range(20))


def test_reads_in_order_where_a_domain_says_so(batch: Batch, tmp_path: Path) -> None:
    stream = CommunicationObject(CommunicationDomain(rar=True), "stream")
    log = tmp_path / "log"
    tasks = [batch.function(append, log, f"{i} ", reads=batch.read(stream, 1)) for i in range(30)]
    batch.compile(tasks).run()
    assert log.read_text().split() == [str(i) for i in range(30)]


class Board:
    """A communication object of the user's own kind."""

    def communication_object(self) -> CommunicationObject:
        return CommunicationObject(CommunicationDomain(), "Board")

    def channel_key(self, channel: Hashable) -> Hashable:
        return str(channel).casefold()


def test_objects_that_are_their_own_communication_object(batch: Batch, tmp_path: Path) -> None:
    first = batch.function(put, tmp_path, "a", 1, writes=batch.write(Board(), "Straße"))
    second = batch.function(double, tmp_path, "a", "b", reads=batch.read(Board(), "STRASSE"))
    batch.compile([first, second]).run()
    assert second.result.get() == 2


_domain: Any = CommunicationDomain
_object: Any = CommunicationObject
WRONG: dict[str, tuple[Callable[[Any, DataAccess, DataAccess], Any], str]] = {
    "a string as reads": (lambda b, r, w: b.function(given, reads="file"), "reads= takes what"),
    "a path as writes": (lambda b, r, w: b.function(given, writes=Path("f")), "writes= takes what"),
    "a number in reads": (lambda b, r, w: b.function(given, reads=[r, 3]), "3 is something else"),
    "a write among reads": (lambda b, r, w: b.function(given, reads=[r, w]), "is something else"),
    "a read among writes": (lambda b, r, w: b.function(given, writes=r), "is something else"),
    "a string as object": (lambda b, r, w: b.read("file"), r"use pathlib.Path\('file'\)"),
    "a number as object": (lambda b, r, w: b.write(42), "42 is not a communication object"),
    "None as object": (lambda b, r, w: b.read(None), "None is not a communication object"),
    "a list as channel": (lambda b, r, w: b.read(Path("d"), ["f"]), "not hashable"),
    "a number as file": (lambda b, r, w: b.write(Path("d"), 3), "must be a Path or str"),
    "a domain of numbers": (
        lambda b, r, w: _domain(rar=1),
        "must be True or False",
    ),
    "no domain": (
        lambda b, r, w: _object("tcp", 1),
        "must be a CommunicationDomain",
    ),
    "a callback that is none": (
        lambda b, r, w: b.function(given, callback_func=3),
        "callback_func",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_access(batch: Batch, tmp_path: Path, wrong: str) -> None:
    make, text = WRONG[wrong]
    with pytest.raises(TypeError, match=text):
        make(batch, batch.read(tmp_path, "f"), batch.write(tmp_path, "f"))


def test_declaring_too_late(batch: Batch, tmp_path: Path) -> None:
    started = batch.function(given, 1)
    started.run()
    with pytest.raises(TaskStateError, match="was started already: declare reads and writes"):
        started.read(tmp_path, "f")
    compiled = batch.function(given, 1)
    whole = batch.compile([compiled])
    with pytest.raises(TaskStateError, match="was compiled already: declare reads and writes"):
        compiled.write(tmp_path, "f")
    whole.run()


def fail() -> None:
    raise ValueError("on purpose")


def test_a_failure_through_a_file_names_the_file(batch: Batch, tmp_path: Path) -> None:
    first = batch.function(fail, writes=batch.write(tmp_path, "matrix"))
    second = batch.function(given, reads=batch.read(tmp_path, "matrix"))
    batch.compile([first, second]).start()
    with pytest.raises(DependencyError, match=r"reads \S*matrix \(RAW\)"):
        second.result.get()


def test_many_accesses_of_one_task(batch: Batch, tmp_path: Path) -> None:
    names = [f"f{i}" for i in range(500)]
    writers = [
        batch.function(put, tmp_path, name, 1, writes=batch.write(tmp_path, name)) for name in names
    ]
    reader = batch.function(
        total, tmp_path, names, reads=(batch.read(tmp_path, name) for name in names)
    )
    batch.compile([*writers, reader]).run()
    assert reader.result.get() == 500
