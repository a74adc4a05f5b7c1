"""What a program of a process task leaves running: its group, its orphans, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alamo_mpi import Batch, CancelledError
from tests.mpi.gates import LIMIT_S, wait_until

#: Longer than any test.
LONG = f"{4 * LIMIT_S:g}"


def sh(line: str) -> list[str]:
    return ["sh", "-c", line]


def there(pid: int) -> bool:
    """Tell whether a process is there, be it as a zombie."""
    return os.path.exists(f"/proc/{pid}")


def all_gone(pids: list[int]) -> bool:
    return not any(map(there, pids))


@pytest.fixture
def warm(batch: Batch) -> None:
    """Have each worker start a program: its first one waits for what starts them all.

    A time-out counts from the request, and might be over before the program has begun.
    """
    batch.compile([batch.process(sh("exit 0")) for _ in range(4 * batch.num_workers)]).run()


def test_what_is_left_of_its_group_ends_with_the_program(batch: Batch) -> None:
    child = f"sleep {LONG} & echo $!"
    task = batch.process(sh(f"{child}; sh -c '{child}'"))
    assert task.run() == 0
    left = [int(pid) for pid in task.stdout.get().split()]
    assert len(left) == 2
    # Not even as a zombie: the task has not ended before.
    assert all_gone(left)


def test_a_daemon_lives_on_and_leaves_no_zombie(batch: Batch, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    daemon = f"echo $$ > {file}.new; mv {file}.new {file}; exec sleep {LONG}"
    until = f"while [ ! -e {file} ]; do sleep 0.01; done"
    assert (
        batch.process(sh(f'setsid -f sh -c "{daemon}"; {until}'.replace("$$", r"\$\$"))).run() == 0
    )
    pid = int(file.read_text())
    assert there(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not there(pid), f"for the end of {pid}")


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_out_of_time(batch: Batch, warm: None, trap: str) -> None:
    line = f"{trap}echo out; echo err >&2; sleep {LONG} & echo $! $$; wait; sleep {LONG}"
    task = batch.process(sh(line), timeout=1.0)
    task.start()
    with pytest.raises(subprocess.TimeoutExpired, match=r"after 1\.0 seconds") as caught:
        task.result.get()
    assert caught.value.cmd == sh(line)
    assert caught.value.stderr == "err\n"
    words = task.stdout.get().split()
    assert words[0] == "out"
    assert all_gone([int(pid) for pid in words[1:]])
    assert batch.process(sh("exit 5"), timeout=LIMIT_S).run() == 5


def test_a_program_with_time_to_clean_up(batch: Batch, warm: None) -> None:
    line = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    task = batch.process(sh(line), timeout=1.0)
    task.start()
    with pytest.raises(subprocess.TimeoutExpired):
        task.result.get()
    assert task.stdout.get() == "ready\ncleaned\n"


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_terminate_ends_programs_and_their_groups(tmp_path: Path, alone: bool, trap: str) -> None:
    if alone:
        pytest.skip("one rank: its tasks run in this process and cannot be interrupted")
    batch = Batch()
    files = [tmp_path / str(i) for i in range(batch.num_workers)]
    tasks = [
        batch.process(
            sh(f"{trap}sleep {LONG} & echo $! $$ > {file}.new; mv {file}.new {file}; wait")
        )
        for file in files
    ]
    for task in tasks:
        task.start()
    wait_until(lambda: all(file.exists() for file in files), "for programs to start")
    begun = time.monotonic()
    batch.terminate()
    assert time.monotonic() - begun < LIMIT_S / 2
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    wait_until(lambda: all_gone(pids), f"for the end of {pids}")
    for task in tasks:
        with pytest.raises(CancelledError):
            task.result.get()
    with Batch() as other:
        tasks = [other.process(sh(f"exit {i}")) for i in range(8)]
        other.compile(tasks).run()
        assert [task.result.get() for task in tasks] == list(range(8))


def warden_pid() -> int | None:
    """Return the process that watches over the programs of the rank that runs this."""
    from alamo_mpi.runtime import wardship

    current = wardship._current
    return None if current is None else current._process.pid


def kill_warden() -> None:
    pid = warden_pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_killed_warden_is_replaced(batch: Batch) -> None:
    for _ in range(2):
        assert batch.process(sh("exit 2")).run() == 2
        tasks = [batch.function(kill_warden) for _ in range(4 * batch.num_workers)]
        batch.compile(tasks).run()
        again = [batch.process(sh(f"exit {i}")) for i in range(4 * batch.num_workers)]
        batch.compile(again).run()
        assert [task.result.get() for task in again] == list(range(4 * batch.num_workers))


def test_a_warden_that_is_killed_with_a_program_under_way(batch: Batch) -> None:
    task = batch.process([sys.executable, "-c", "import os; os.kill(os.getppid(), 9)"])
    task.start()
    with pytest.raises(ChildProcessError, match="has been killed"):
        task.result.get()
    assert batch.process(sh("exit 2")).run() == 2
