"""Queues that still have items when the program ends are named, and others are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from alamo_mpi import Batch, Queue

kept = []


def make():
    kept.append(Queue())
    kept[0].put("work")
    return kept[0]


with Batch() as batch:
    theirs = batch.function(make).run()
many = [Queue() for _ in range(8)]
for q in many[:int(sys.argv[2])]:
    q.put_many([1, 2, 3])
with Queue() as done:
    done.put("gone with its block")
taken = Queue()
taken.put(1)
taken.get()
if sys.argv[1] == "destroyed":
    theirs.destroy()
    [q.destroy() for q in many]
elif sys.argv[1] == "failed":
    raise LookupError("as it should")
print("the end", flush=True)
"""


def run(tmp_path: Path, nranks: int, how: str, count: int) -> Run:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = mpirun(nranks, ["-m", "alamo_mpi", str(program), how, str(count)])
    done.check_clean()
    return done


@pytest.mark.parametrize("nranks", [0, 2])
def test_what_nobody_got_is_named(tmp_path: Path, nranks: int) -> None:
    done = run(tmp_path, nranks, "left", 2)
    assert (done.rc, done.stdout) == (0, "the end\n"), done
    assert done.stderr.count("Items that nobody got are lost") == (2 if nranks else 1), done
    assert done.stderr.count("with 3 items") == 2, done
    assert done.stderr.count(f"on rank {1 if nranks else 0} with 1 item") == 1, done


def test_of_many_some_are_named(tmp_path: Path) -> None:
    done = run(tmp_path, 2, "left", 8)
    assert done.rc == 0, done
    assert done.stderr.count("with 3 items") == 5, done
    assert ", and 3 more. Get them" in done.stderr, done


@pytest.mark.parametrize("nranks", [0, 2])
def test_what_was_destroyed_is_not(tmp_path: Path, nranks: int) -> None:
    done = run(tmp_path, nranks, "destroyed", 2)
    assert (done.rc, done.stdout) == (0, "the end\n"), done
    assert "Items that nobody got" not in done.stderr, done


def test_after_an_error_that_is_what_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, 2, "failed", 2)
    assert done.rc != 0, done
    assert "LookupError: as it should" in done.stderr, done
    assert "Items that nobody got" not in done.stderr, done
