"""The kernel kills for want of memory: what a task has started, and no rank.

In a control group with less memory than the program wants.  As in `test_faults`, each row is one
real run, and nothing may be left: no process, no file.
"""

from __future__ import annotations

import os
import sys

import pytest

from alamo_mpi.mpi.launcher import find_launcher
from tests.faults.conftest import Write
from tests.support.memorylimit import limited_group
from tests.support.mpirun import Run, Started

pytestmark = pytest.mark.slow

REPEATS = range(int(os.environ.get("ALAMO_FAULTS", "1")))
MIB = 1 << 20

HEAD = """\
    import os, signal, socket, subprocess, sys
    import alamo_mpi

    #: Of the limit, what the worker has: more than is left for what it starts.
    RANK, TOO_MUCH = 600 << 20, 4 << 30

    def fill():
        sys.kept = bytearray(b"x") * RANK  # on a module: a global of a task goes with it

    def grow():
        kept = []
        while sum(map(len, kept)) < TOO_MUCH:
            kept.append(bytearray(b"x") * (16 << 20))

    def pid():
        return os.getpid()

    batch = alamo_mpi.Batch()
    worker = batch.function(pid).run()
    batch.function(fill).run()
    """
TAIL = """
    assert batch.function(pid, isolate=True).run() != worker
    assert batch.function(pid).run() == worker
    assert batch.function(lambda: len(sys.kept)).run() == RANK
    batch.close()
    batch.join()
    print("RIGHT", flush=True)
    """


def run(app: str, write: Write) -> Run:
    """Run a program of two ranks in a control group of 1 GiB."""
    path = write(HEAD, app, TAIL)
    with limited_group(1024 * MIB) as members:
        command = find_launcher().argv(2, [sys.executable, "-m", "alamo_mpi", str(path)])
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(members)]
        small = {"ALAMO_POOL_BYTES": str(16 * MIB)}
        with Started([*enter, *command], env=small, timeout_s=60, cwd=path.parent) as started:
            finished = started.finish()
    finished.check_clean()
    assert finished.rc == 0, str(finished)
    assert "RIGHT" in finished.stdout, str(finished)
    return finished


@pytest.mark.parametrize("repeat", REPEATS)
def test_an_isolated_task(repeat: int, write: Write) -> None:
    """Its process is killed and not its worker, though that has more; the task says by what."""
    app = """
    task = batch.function(grow, isolate=True)
    try:
        task.run()
    except alamo_mpi.WorkerDiedError as error:
        assert (error.status, error.signal) == (-9, "SIGKILL"), error
        assert 64 << 20 < error.peak_nbytes < RANK, error.peak_nbytes
        assert (error.rank, error.host) == (1, socket.gethostname()), error
        assert "SIGKILL" in str(error) and "MiB" in str(error), error
    else:
        raise AssertionError("it had the memory")
    """
    run(app, write)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_rank_of_a_job(repeat: int, write: Write) -> None:
    """The job ends, and its worker goes on."""
    app = """
    try:
        batch.job(grow, (), 1).run()
    except alamo_mpi.JobError as error:
        assert (error.status, error.signal) == (-9, "SIGKILL"), error
    else:
        raise AssertionError("it had the memory")
    """
    run(app, write)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_program(repeat: int, write: Write) -> None:
    """And with a program of a program: its parent goes on, and the worker too."""
    app = """
    grows = "kept = []\\nwhile len(kept) < 256: kept.append(bytearray(b'x') * (16 << 20))"
    assert batch.process([sys.executable, "-c", grows]).run() == -signal.SIGKILL
    inner = ["sh", "-c", '"$0" -c "$1"; echo $?', sys.executable, grows]
    task = batch.process(inner)
    assert task.run() == 0
    assert task.stdout.get().split() == ["137"], task.stdout.get()
    """
    run(app, write)


@pytest.mark.parametrize(("site", "raised"), [(0, 500), (300, 800), (900, 1000)])
def test_scores(site: int, raised: int, write: Write) -> None:
    """What a task starts has a higher score than ranks, and so has what that starts."""
    app = """
    def score(pid="self"):
        with open(f"/proc/{pid}/oom_score_adj") as file:
            return int(file.read())

    def program(*args):
        task = batch.process(args)
        assert task.run() == 0
        return [int(word) for word in task.stdout.get().split()]

    batch = alamo_mpi.Batch()
    own, warden = program("sh", "-c", "cat /proc/self/oom_score_adj; echo $PPID")
    job = batch.job(score, (), 1).run()
    print("SCORES", batch.function(score).run(), score(warden), own, job[0],
          batch.function(score, isolate=True).run())
    batch.close()
    batch.join()
    """
    path = write("import alamo_mpi\n", app)
    command = find_launcher().argv(2, [sys.executable, "-m", "alamo_mpi", str(path)])
    enter = ["sh", "-c", 'echo "$0" > /proc/self/oom_score_adj && exec "$@"', str(site)]
    with Started([*enter, *command], timeout_s=60, cwd=path.parent) as started:
        finished = started.finish()
    finished.check_clean()
    assert finished.stdout == f"SCORES {site} {site} {raised} {raised} {raised}\n", str(finished)
