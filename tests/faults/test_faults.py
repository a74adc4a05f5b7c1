"""A table of faults: what the user sees of each, how soon, with which status, and what is left.

Each row is one real run, and is repeated by ``ALAMO_FAULTS=10``.  What is left is nothing: no
process, no file in /dev/shm or the temporary directory; `Run.check_clean` looks.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.conftest import Write
from tests.support.mpirun import Run, launcher, start

pytestmark = pytest.mark.slow

NRANKS = 3
#: The promise: all ranks have ended so soon after the fault.
LIMIT_S = 10.0
REPEATS = range(int(os.environ.get("ALAMO_FAULTS", "1")))

#: Every program begins so: it tells the process of each rank.
HEAD = """\
    import ctypes, os, signal, sys, time
    from pathlib import Path
    import alamo_mpi

    def pid():
        time.sleep(0.05)
        return os.getpid()

    def found():
        while True:
            tasks = [batch.function(pid) for _ in range(2)]
            batch.compile(tasks).run()
            pids = {task.result.get() for task in tasks}
            if len(pids) == 2:
                return sorted(pids)

    def block():
        Path(f"running-{os.getpid()}").touch()
        time.sleep(600)

    def square(x):
        return x * x

    batch = alamo_mpi.Batch()
    print("PIDS", os.getpid(), *found(), flush=True)
    """
IDLE = "    print('READY', flush=True)\n    time.sleep(600)\n"
RUNNING = """\
    for _ in range(2):
        batch.function(block).start()
    while len(list(Path().glob("running-*"))) < 2:
        time.sleep(0.01)
    print("READY", flush=True)
    batch.close()
    batch.join()
    """
PUTTING = """\
    def puts(store, key):
        for i in range(10**9):
            store[key, i % 4] = bytes(1 << 20)
            if i == 8:
                Path(f"running-{key}").touch()

    store = alamo_mpi.DDict()
    for key in range(2):
        batch.function(puts, store, key).start()
    while not (Path("running-0").exists() and Path("running-1").exists()):
        time.sleep(0.01)
    print("READY", flush=True)
    batch.close()
    batch.join()
    """
COMPLETING = """\
    print("READY", flush=True)
    while True:
        batch.compile([batch.function(square, i) for i in range(2000)]).run()
    """
GOES_ON = """\
    tasks = [batch.function(pid) for _ in range(100)]
    batch.compile(tasks).start()
    print("READY", flush=True)
    while not Path("go").exists():
        time.sleep(0.01)
    print("GOING ON", flush=True)
    assert len({task.result.get() for task in tasks}) == 2
    batch.close()
    batch.join()
    print("RIGHT", flush=True)
    """


def in_task(statement: str) -> str:
    return f"""\
    def dies():
        {statement}

    print("READY", flush=True)
    batch.function(dies).run()
    """


class Fatal(NamedTuple):
    """A fault that ends the program, as MPI ends all ranks when one is lost."""

    program: str
    #: The signal that the lost rank dies of.
    signum: int
    #: Which rank gets it, by its place among the processes told; None: a task does it.
    victim: int | None = None
    #: The task that it runs, or has run last; None where that is not known.
    task: str | None = "dies"


KILL, SEGV, ABRT, TERM = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM
FATAL = {
    "task exits the process": Fatal(in_task("os._exit(3)"), 0),
    "task segfaults": Fatal(in_task("ctypes.string_at(0)"), SEGV),
    "task aborts": Fatal(in_task("os.abort()"), ABRT),
    "idle worker killed": Fatal(IDLE, KILL, 1, "pid"),
    "running worker killed": Fatal(RUNNING, KILL, 1, "block"),
    "worker killed in a put": Fatal(PUTTING, KILL, 1, "puts"),
    "worker killed in a completion": Fatal(COMPLETING, KILL, 2, None),
    "client killed, workers idle": Fatal(IDLE, KILL, 0, None),
    "client killed, workers running": Fatal(RUNNING, KILL, 0, None),
}


def statuses_of(signum: int) -> set[int]:
    """Return what the launcher may make of a rank that dies of a signal, or exits with 3.

    MPICH's may tell the end of a rank instead that it has ended itself for that, by KILL or TERM.
    """
    if launcher().family == "MPICH":
        return {signum or 3, KILL, TERM}
    return {128 + signum if signum else 3}


def check_loss(run: Run, fault: Fatal) -> None:
    """Look whether what is said of the lost rank is true."""
    (said,) = run.losses
    lost = re.match(r"alamo_mpi: rank (\d+) \(host (\S+), (.*?)\) was lost: (.*?)\. ", said)
    assert lost is not None, said
    number, host, who, how = lost.groups()
    assert host == platform.node(), said
    if fault.victim is None:
        assert number in "12", said
    else:
        # Workers are told by process, not by rank.
        assert (number == "0") == (fault.victim == 0), said
        assert who in ("the main program", f"process {pids_of(run.stdout)[fault.victim]}"), said
    signals = {-signum: f"signal {signum} ({signum.name})" for signum in (KILL, SEGV, ABRT, TERM)}
    assert signals.get(-fault.signum, "exited with status 3") in how, said
    if fault.task is not None:
        where = "its last task was" if fault.program == IDLE else "It was running task"
        assert re.search(rf"{where} \d+ '{fault.task}'", said), said
    assert re.search(r"By then [1-9]\d* tasks were done, 0 had failed", said), said
    if fault.program == RUNNING:
        assert "2 were unfinished" in said, said
        running = re.search(r"Running elsewhere: (.*)\.", said)
        assert running is not None, said
        assert running[1].count("'block' on rank") == (1 if fault.victim else 2), said


def pids_of(text: str) -> list[int]:
    line = next(line for line in text.splitlines() if line.startswith("PIDS "))
    return [int(word) for word in line.split()[1:]]


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("name", FATAL)
def test_fatal(name: str, repeat: int, write: Write) -> None:
    """All ranks end soon, one message names the lost one and its task, and nothing is left."""
    fault = FATAL[name]
    app = write(HEAD, fault.program)
    with start(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent) as started:
        started.wait_for("READY")
        if fault.victim is not None:
            started.signal(pids_of(started.stdout)[fault.victim], fault.signum)
        run = started.finish()
    run.check_clean(nlost=1)
    check_loss(run, fault)
    assert run.rc in statuses_of(fault.signum), str(run)
    assert run.seconds < LIMIT_S, str(run)


def state_of(pid: int) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("rank", [0, 1])
def test_stopped_and_continued(rank: int, repeat: int, write: Write) -> None:
    """SIGSTOP and SIGCONT of one rank: the program waits for it, and ends right."""
    app = write(HEAD, GOES_ON)
    with start(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent) as started:
        started.wait_for("READY")
        pid = pids_of(started.stdout)[rank]
        started.signal(pid, signal.SIGSTOP)
        until = time.monotonic() + LIMIT_S
        while state_of(pid) != "T" and time.monotonic() < until:
            time.sleep(1e-3)
        assert state_of(pid) == "T"
        (app.parent / "go").touch()
        if rank:
            started.wait_for("GOING ON")
        started.signal(pid, signal.SIGCONT)
        run = started.finish()
    ended_well(run)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("signum", [signal.SIGINT, TERM, signal.SIGUSR1])
def test_signal_to_one_worker(signum: signal.Signals, repeat: int, write: Write) -> None:
    """A worker leaves them to the main program, which does not get them here."""
    app = write(HEAD, GOES_ON)
    with start(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent) as started:
        started.wait_for("READY")
        started.signal(pids_of(started.stdout)[1], signum)
        (app.parent / "go").touch()
        run = started.finish()
    ended_well(run)


def ended_well(run: Run) -> None:
    run.check_clean()
    assert run.rc == 0, str(run)
    assert "RIGHT" in run.stdout, str(run)


#: What SIGINT and SIGTERM to the launcher give: it decides on the status.
STATUSES = {
    "MPICH": {"interrupt": 130, "terminate": 143},
    "Open MPI": {"interrupt": 1, "terminate": 1},
}


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_signal_to_the_launcher(how: str, repeat: int, write: Write) -> None:
    app = write(HEAD, RUNNING)
    with start(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent) as started:
        started.wait_for("READY")
        getattr(started, how)()
        run = started.finish()
    run.check_clean()
    assert run.rc == STATUSES[launcher().family][how], str(run)
    assert run.seconds < LIMIT_S, str(run)
