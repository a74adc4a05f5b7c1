"""Faults around isolated tasks: what ends the process of one ends no rank, nor outlives it.

As in `test_faults`, each row is one real run, and nothing may be left: no process, no file.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.conftest import Write
from tests.support.mpirun import Run, start

pytestmark = pytest.mark.slow

NRANKS = 3
#: All has ended so soon after the fault.
LIMIT_S = 10.0
#: So long a start may take, where the time counts from that.
START_S = 20.0
REPEATS = range(int(os.environ.get("ALAMO_FAULTS", "1")))

HEAD = """\
    import ctypes, os, signal, sys, time
    from pathlib import Path
    import alamo_mpi

    def pids():
        return os.getpid(), os.getppid()

    def square(x):
        return x * x

    def stuck():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path("running").touch()
        ctypes.PyDLL(None).sleep(600)

    def started(task):
        task.start()
        while not Path("running").exists():
            time.sleep(0.01)
        return task

    def goes_on():
        tasks = [batch.function(square, i) for i in range(100)]
        batch.compile(tasks).run()
        assert [task.result.get() for task in tasks] == [i * i for i in range(100)]
        batch.close()
        batch.join()
        print("RIGHT", flush=True)

    batch = alamo_mpi.Batch(isolate=True)
    """

#: What ends the process of a task, and what the error says of it.
DEATHS = {
    "segfaults": ("ctypes.string_at(0)", "(-11, 'SIGSEGV')"),
    "aborts": ("os.abort()", "(-6, 'SIGABRT')"),
    "exits": ("os._exit(3)", "(3, None)"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "(-9, 'SIGKILL')"),
    "raises SIGFPE": ("signal.raise_signal(signal.SIGFPE)", "(-8, 'SIGFPE')"),
}


def run(app: str, write: Write, nranks: int, *, nlost: int = 0) -> Run:
    path = write(HEAD, app)
    with start(nranks, ["-m", "alamo_mpi", str(path)], cwd=path.parent) as started:
        finished = started.finish()
    finished.check_clean(nlost=nlost)
    return finished


def ended_well(finished: Run) -> None:
    assert finished.rc == 0, str(finished)
    assert "RIGHT" in finished.stdout, str(finished)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("nranks", [1, NRANKS])
@pytest.mark.parametrize("how", DEATHS)
def test_its_process_dies(how: str, nranks: int, repeat: int, write: Write) -> None:
    """That task fails with what ended it; all others, and the ranks, go on."""
    statement, told = DEATHS[how]
    app = f"""\
    def dies():
        {statement}

    among = [batch.function(square, i) for i in range(10)]
    among[5] = batch.function(dies)
    batch.compile(among).start()
    try:
        among[5].result.get()
    except alamo_mpi.WorkerDiedError as error:
        assert (error.status, error.signal) == {told}, error
        assert error.task_name == "dies" and error.peak_nbytes > 0, error
    assert [task.result.get() for task in among if task is not among[5]][6] == 49
    goes_on()
    """
    ended_well(run(app, write, nranks))


@pytest.mark.parametrize("repeat", REPEATS)
def test_its_process_never_returns(repeat: int, write: Write) -> None:
    """A time-out takes it out of a C call that keeps the interpreter's lock and ignores SIGTERM."""
    app = """\
    task = batch.function(stuck, timeout=0.5)
    begun = time.monotonic()
    try:
        task.run()
    except alamo_mpi.TaskTimeoutError:
        print("AFTER", time.monotonic() - begun)
    goes_on()
    """
    finished = run(app, write, NRANKS)
    ended_well(finished)
    assert float(finished.stdout.split("AFTER")[1].split()[0]) < LIMIT_S


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("whose", [0, 1])
def test_idle_process_or_warden_killed(whose: int, repeat: int, write: Write) -> None:
    """Nobody notices: the next task gets a fresh one."""
    app = f"""\
    tasks = [batch.function(pids) for _ in range(20)]
    batch.compile(tasks).run()
    for pid in {{task.result.get()[{whose}] for task in tasks}}:
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                if open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0] == "Z":
                    break  # the warden, which its rank buries when it needs another
            except OSError:
                break
            time.sleep(0.01)
    goes_on()
    """
    ended_well(run(app, write, NRANKS))


#: How the program ends while an isolated task is stuck.
ENDS = {
    "the worker is killed": "os.kill(worker, signal.SIGKILL); time.sleep(600)",
    "the client is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "the client raises": "1 // 0",
    "the client exits": "sys.exit(3)",
}


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("how", ENDS)
def test_the_program_ends_under_it(how: str, repeat: int, write: Write) -> None:
    """However the rank ends, the process ends too, though it ignores SIGTERM."""
    app = f"""\
    worker = batch.function(os.getpid, isolate=False).run()
    started(batch.function(stuck))
    {ENDS[how]}
    """
    finished = run(app, write, 2, nlost=int("killed" in how))
    assert finished.rc != 0, str(finished)
    assert finished.seconds < START_S + LIMIT_S, str(finished)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_signal_to_the_launcher(how: str, repeat: int, write: Write) -> None:
    app = """\
    started(batch.function(stuck))
    print("READY", flush=True)
    batch.close()
    batch.join()
    """
    path = write(HEAD, app)
    with start(2, ["-m", "alamo_mpi", str(path)], cwd=path.parent) as going:
        going.wait_for("READY")
        getattr(going, how)()
        finished = going.finish()
    finished.check_clean()
    assert finished.rc != 0, str(finished)
    assert finished.seconds < LIMIT_S, str(finished)


@pytest.mark.parametrize("repeat", REPEATS)
def test_out_of_memory(repeat: int, write: Write) -> None:
    """What the kernel's limit refuses is a `MemoryError`, and the process goes on."""
    app = """\
    import resource

    def takes_too_much():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        return len(bytearray(1 << 32))

    try:
        batch.function(takes_too_much).run()
    except MemoryError:
        print("REFUSED")
    goes_on()
    """
    finished = run(app, write, NRANKS)
    ended_well(finished)
    assert "REFUSED" in finished.stdout
