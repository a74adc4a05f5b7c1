"""stdout and stderr of each task: from Python, C and children, whatever the task does to them."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import Batch, Task
from tests.mpi.gates import on_each_worker


def by_print(text: str) -> None:
    print(text, end="")


def by_descriptor(text: str) -> None:
    os.write(1, text.encode())


def by_c(text: str) -> None:
    # No flush: C holds it back until somebody does it.
    ctypes.CDLL(None).printf(b"%s", text.encode())


def by_child(text: str) -> None:
    subprocess.run([sys.executable, "-c", f"print({text!r}, end='')"], check=True)


def by_shell(text: str) -> None:
    os.system(f"printf '%s' '{text}'")


def by_kept_reference(text: str) -> None:
    from sys import __stdout__

    assert __stdout__ is not None
    print(text, end="", file=__stdout__)


WRITERS: dict[str, Callable[[str], None]] = {
    f.__name__: f for f in (by_print, by_descriptor, by_c, by_child, by_shell, by_kept_reference)
}
TEXT = "grüße 🐢 %d 100%"


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_to_write(batch: Batch, writer: str) -> None:
    tasks = [batch.function(WRITERS[writer], f"{TEXT} {i}") for i in range(3)]
    batch.compile(tasks).run()
    for index, task in enumerate(tasks):
        assert task.stdout.get() == f"{TEXT} {index}"
        assert task.stderr.get() == ""
    single = batch.function(WRITERS[writer], TEXT)
    single.run()
    assert single.stdout.get(single.uid) == TEXT


def mixed() -> None:
    print("one")
    sys.stdout.flush()
    by_c("two\n")
    ctypes.CDLL(None).fflush(None)
    os.write(1, b"three\n")
    by_child("four\n")
    print("five")
    print("err one", file=sys.stderr)
    os.write(2, b"err two\n")
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'err three')"], check=True)


def test_order_within_a_task(batch: Batch) -> None:
    task = batch.function(mixed)
    task.run()
    assert task.stdout.get() == "one\ntwo\nthree\nfour\nfive\n"
    assert task.stderr.get() == "err one\nerr two\nerr three"


def talk(number: int, lines: int) -> None:
    for line in range(lines):
        print(f"{number}:{line}")
        if line % 3 == 0:
            os.write(1, b"")
            print(f"{number}:{line}", file=sys.stderr)


def test_tasks_do_not_mix(batch: Batch) -> None:
    lines = [i % 40 for i in range(300)]
    tasks = [batch.function(talk, i, n) for i, n in enumerate(lines)]
    batch.compile(tasks).run()
    for index, task in enumerate(tasks):
        expected = [f"{index}:{line}\n" for line in range(lines[index])]
        assert task.stdout.get() == "".join(expected)
        assert task.stderr.get() == "".join(expected[::3])


def print_and_fail(kind: type[BaseException]) -> None:
    print("last words")
    print("of a task", file=sys.stderr)
    raise kind("dead")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_task_that_fails(batch: Batch, kind: type[BaseException]) -> None:
    task = batch.function(print_and_fail, kind)
    task.start()
    assert task.stdout.get() == "last words\n"
    assert task.stderr.get() == "of a task\n"
    quiet = batch.function(len, "abc")
    quiet.run()
    assert (quiet.stdout.get(), quiet.stderr.get()) == ("", "")


def print_generator() -> Any:
    print("made one")
    return (i for i in range(3))


def test_a_task_whose_result_is_lost(batch: Batch) -> None:
    task = batch.function(print_generator)
    task.start()
    task.wait()
    assert task.stdout.get() == "made one\n"


def print_much(nbytes: int) -> int:
    line = b"0123456789abcde\n"
    sys.stdout.buffer.write(line * (nbytes // len(line)))
    print("end", end="")
    return nbytes


@pytest.mark.parametrize("nbytes", [1 << 16, (1 << 16) + 16, 1 << 22])
def test_much_output(batch: Batch, nbytes: int) -> None:
    tasks = [batch.function(print_much, nbytes) for _ in range(3)]
    batch.compile(tasks).run()
    for task in tasks:
        text = task.stdout.get()
        assert len(text) == nbytes + 3
        assert text.endswith("abcde\nend")
        assert task.result.get() == nbytes
        assert task.stdout.get() == text


def test_a_hundred_megabytes(batch: Batch) -> None:
    task = batch.function(print_much, 100_000_000)
    assert task.run() == 100_000_000
    assert batch.function(len, "abc").run() == 3
    text = task.stdout.get()
    assert len(text) == 100_000_003
    assert text[-19:] == "0123456789abcde\nend"


def not_utf8() -> None:
    os.write(1, b"ab\xff\xfecd")


def test_bytes_that_are_no_text(batch: Batch) -> None:
    task = batch.function(not_utf8)
    task.run()
    text = task.stdout.get()
    assert text == "ab\ufffd\ufffdcd"


def closes_stdout() -> None:
    print("before")
    sys.stdout.close()


def closes_both_descriptors() -> None:
    print("before", flush=True)
    os.close(1)
    os.close(2)


def replaces_stdout() -> None:
    print("before")
    sys.stdout = io.StringIO()
    print("into the void")


def deletes_stdout() -> None:
    print("before")
    del sys.stdout


def detaches_stdout() -> None:
    print("before")
    sys.stdout.detach()  # type: ignore[union-attr]


def redirects_the_descriptor(path: Path) -> None:
    print("before", flush=True)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
    print("into the file", flush=True)


def changes_the_encoding() -> None:
    print("before")
    sys.stdout.reconfigure(encoding="latin-1")  # type: ignore[union-attr]


SPOILERS = [
    closes_stdout,
    closes_both_descriptors,
    replaces_stdout,
    deletes_stdout,
    detaches_stdout,
    changes_the_encoding,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_streams_are_whole_again_for_the_next_task(
    batch: Batch, tmp_path: Path, spoil: Callable[[], None], alone: bool
) -> None:
    if alone and spoil in (closes_stdout, detaches_stdout):
        pytest.skip("one rank: it is the very stream that pytest reports to")
    # In one chunk and one after the other: on one worker of each.
    for _ in range(2):
        tasks: list[Task] = []
        for _ in range(4):
            tasks += [batch.function(spoil), batch.function(mixed)]
        batch.compile(tasks).run()
        for task in tasks[::2]:
            assert task.stdout.get() == "before\n"
        for task in tasks[1::2]:
            assert task.stdout.get() == "one\ntwo\nthree\nfour\nfive\n"
            assert task.stderr.get() == "err one\nerr two\nerr three"
    assert on_each_worker(batch, tmp_path, len, "abc") == [3] * batch.num_workers


def test_a_redirected_descriptor(batch: Batch, tmp_path: Path) -> None:
    tasks = [batch.function(redirects_the_descriptor, tmp_path / "file"), batch.function(mixed)]
    batch.compile(tasks).run()
    assert tasks[0].stdout.get() == "before\n"
    assert (tmp_path / "file").read_text() == "into the file\n"
    assert tasks[1].stdout.get() == "one\ntwo\nthree\nfour\nfive\n"


def test_the_programs_own_output_is_its_own(
    batch: Batch, capfd: pytest.CaptureFixture[str]
) -> None:
    print("mine, before")
    tasks = [batch.function(by_print, f"task {i}") for i in range(10)]
    compiled = batch.compile(tasks)
    compiled.run()
    print("mine, after")
    os.write(1, b"mine, by descriptor\n")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert "task" not in out
    assert {"mine, before", "mine, after", "mine, by descriptor"} <= set(out.splitlines())
    assert err == ""
    assert [task.stdout.get() for task in tasks] == [f"task {i}" for i in range(10)]
