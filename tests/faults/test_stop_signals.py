"""SIGTERM and its like: the program ends by its own blocks, within the grace, by 128 + n."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Write
from tests.faults.test_faults import HEAD, LIMIT_S, NRANKS, REPEATS, ended_well, pids_of
from tests.support.mpirun import Run, Started, launcher, start

pytestmark = pytest.mark.slow

#: Of all that can be open: blocks, a dictionary, a queue, output that was spilled, a program that a
#: task has started, a callback, a thread that waits for a task.
OPEN = """\
    import threading

    def prints():
        print("x" * (4 << 20))

    def starts():
        import subprocess
        Path("program").touch()
        subprocess.run(["sleep", "600"])

    def note(line):
        with open("notes", "a") as notes:
            print(line, file=notes, flush=True)

    def waits(task):
        try:
            task.result.get()
        except alamo_mpi.CancelledError:
            note("thread released")

    batch.close()
    batch.join()
    try:
        with alamo_mpi.DDict() as store, alamo_mpi.Queue() as queue, alamo_mpi.Batch() as batch:
            store["key"] = bytes(1 << 20)
            queue.put(1)
            spilled = batch.function(prints)
            spilled.run()
            batch.function(pow, 2, 3, callback_func=lambda value: note("callback")).run()
            running = batch.function(block)
            running.start()
            batch.process(["sh", "-c", "touch program; exec sleep 600"]).start()
            threading.Thread(target=waits, args=(running,)).start()
            while not (list(Path().glob("running*")) and Path("program").exists()):
                time.sleep(0.01)
            print("READY", flush=True)
            running.wait()
    except alamo_mpi.StopSignal as stop:
        note(f"{stop.name} {len(spilled.stdout.get()) >> 20}")
        raise
    finally:
        note("finally")
    """
NOTES = ["callback", "SIGTERM 4", "finally"]


def notes_of(app: Path) -> list[str]:
    return (app.parent / "notes").read_text().splitlines()


def started(app: Path, nranks: int = NRANKS, **env: str) -> Started:
    return start(nranks, ["-m", "alamo_mpi", str(app)], cwd=app.parent, env=env)


def ended(run: Run, status: int) -> None:
    run.check_clean()
    assert run.rc == status, str(run)
    assert run.seconds < LIMIT_S, str(run)
    assert "Traceback" not in run.stderr, str(run)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("target", ["main program", "launcher", "alamo-mpi run"])
def test_all_is_put_in_order(target: str, repeat: int, write: Write) -> None:
    """Blocks and callbacks have run, threads that wait are released, nothing is left."""
    if target == "launcher" and launcher().family == "Open MPI":
        pytest.skip("Open MPI's launcher kills the ranks 0.2 s after the signal")
    app = write(HEAD, OPEN)
    way = ["-n", str(NRANKS)] if target == "alamo-mpi run" else []
    nranks = 0 if way else NRANKS
    with start(nranks, ["-m", "alamo_mpi", *way, str(app)], cwd=app.parent) as going:
        going.wait_for("READY")
        if target == "main program":
            going.signal(pids_of(going.stdout)[0], signal.SIGTERM)
        else:
            going.terminate()
        run = going.finish()
    ended(run, 143)
    assert run.stderr.count("SIGTERM: the program is to end") == 1, str(run)
    # The thread is released in its own time.
    notes = notes_of(app)
    assert [line for line in notes if line != "thread released"] == NOTES, notes
    assert "thread released" in notes, notes


#: Callbacks run on whichever thread is there first, and at the end too.
CALLBACK = """\
    import threading

    going_on = True

    def sleep_if_main(value):
        if going_on and threading.current_thread() is threading.main_thread():
            time.sleep(600)
    """
WAITING = {
    "computing": "while True: pass\n",
    "in a dictionary": "alamo_mpi.DDict(wait_for_keys=True)['never']\n",
    "in a queue": "alamo_mpi.Queue().get()\n",
    "submitting": "while True: batch.compile([batch.function(pow, 2, 3)] * 1).run()\n",
    "in a callback": "while True: batch.function(pow, 2, 3, callback_func=sleep_if_main).run()\n",
}


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("where", WAITING)
def test_wherever_the_main_program_is(
    where: str, signum: signal.Signals, repeat: int, write: Write
) -> None:
    body = WAITING[where].replace("\n", "")
    app = write(
        HEAD,
        CALLBACK,
        "try:\n    print('READY', flush=True)\n",
        f"    {body}\nfinally:\n    going_on = print('LAST')\n",
    )
    with started(app) as going:
        going.wait_for("READY")
        going.signal(pids_of(going.stdout)[0], signum)
        run = going.finish()
    ended(run, 128 + signum)
    assert "LAST" in run.stdout, str(run)


IGNORES = """\
    try:
        print("READY", flush=True)
        time.sleep(600)
    except alamo_mpi.StopSignal:
        print("ASKED", flush=True)
    time.sleep(600)
    """


@pytest.mark.parametrize("repeat", REPEATS)
def test_the_grace_is_over(repeat: int, write: Write) -> None:
    app = write(HEAD, IGNORES)
    with started(app, ALAMO_GRACE="1.5") as going:
        going.wait_for("READY")
        going.signal(pids_of(going.stdout)[0], signal.SIGTERM)
        run = going.finish()
    ended(run, 143)
    assert "ASKED" in run.stdout, str(run)
    assert "has not ended 1.5 s after SIGTERM" in run.stderr, str(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_second_signal(repeat: int, write: Write) -> None:
    """It ends the program at once; one within the same second is the first one again."""
    app = write(HEAD, IGNORES)
    with started(app) as going:
        going.wait_for("READY")
        pid = pids_of(going.stdout)[0]
        going.signal(pid, signal.SIGTERM)
        going.wait_for("ASKED")
        # Until one of them counts as the second: there is nothing to see before that.
        while going.pids() and not going.ends_within(0.2):
            going.signal(pid, signal.SIGTERM)
        run = going.finish()
    ended(run, 143)
    assert "A second SIGTERM" in run.stderr, str(run)


FRONT = {"terminate": 143, "interrupt": 130}


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("how", FRONT)
def test_alamo_mpi_run_ends_the_program_that_ignores_it(
    how: str, repeat: int, write: Write
) -> None:
    """Whatever stays in front of the launcher ends with it, and at the second signal."""
    app = write(HEAD, IGNORES)
    with start(0, ["-m", "alamo_mpi", "-n", str(NRANKS), str(app)], cwd=app.parent) as going:
        going.wait_for("READY")
        while not going.ends_within(0.2):
            getattr(going, how)()
        run = going.finish()
    run.check_clean()
    # MPICH's launcher has a status of its own for a second Ctrl-C.
    own = launcher().family == "MPICH" and how == "interrupt"
    assert run.rc != 0 if own else run.rc == FRONT[how], str(run)


OWN = """\
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
    import alamo_mpi
    batch = alamo_mpi.Batch()
    print("PIDS", os.getpid())
    print("READY", flush=True)
    batch.function(time.sleep, 600).run()
    """


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("way", [["-m", "alamo_mpi"], []], ids=["module", "script"])
def test_a_handler_of_the_program(way: list[str], repeat: int, write: Write) -> None:
    """It is the program's; the workers leave it to the main program."""
    app = write("    import os, signal, sys, time\n", OWN)
    with start(NRANKS, [*way, str(app)], cwd=app.parent) as going:
        going.wait_for("READY")
        going.signal(pids_of(going.stdout)[0], signal.SIGTERM)
        run = going.finish()
    ended(run, 7)


CHILDREN = """\
    import multiprocessing, subprocess

    def forked():
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        return process.exitcode

    def program():
        code = "import signal; print(*(signal.getsignal(n) == 0 for n in (10, 12, 15)))"
        return subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True).stdout

    for call in (lambda function: function(), lambda function: batch.function(function).run()):
        assert call(forked) == -signal.SIGTERM
        assert call(program) == b"True True True\\n"
    batch.close()
    batch.join()
    print("RIGHT", flush=True)
    """


@pytest.mark.parametrize("repeat", REPEATS)
def test_children_have_none_of_the_handlers(repeat: int, write: Write) -> None:
    app = write(HEAD, CHILDREN)
    with started(app) as going:
        run = going.finish()
    ended_well(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_task_of_the_only_rank(repeat: int, write: Write) -> None:
    """The task gives way, and the wait for it raises what the program is asked."""
    app = write(
        """\
        import time
        from pathlib import Path
        import alamo_mpi

        def spins():
            Path("running").touch()
            while True:
                time.sleep(0.001)

        with alamo_mpi.Batch() as batch:
            try:
                batch.compile([batch.function(spins) for _ in range(3)]).run()
            except alamo_mpi.StopSignal as stop:
                Path("notes").write_text(stop.name)
                raise
        """
    )
    with started(app, 0) as going:
        while not (app.parent / "running").exists():
            assert not going.ends_within(0.01), str(going.finish())
        going.terminate()
        run = going.finish()
    ended(run, 143)
    assert notes_of(app) == ["SIGTERM"]


SERVES = """\
    import os, signal
    from mpi4py import MPI
    import alamo_mpi

    before = [signal.getsignal(number) for number in (10, 15)]
    with alamo_mpi.serve(MPI.COMM_WORLD):
        with alamo_mpi.Batch() as batch:
            inside = batch.function(lambda: [signal.getsignal(number) for number in (10, 15)]).run()
        assert inside == before == [signal.getsignal(number) for number in (10, 15)]
    MPI.COMM_WORLD.Barrier()
    if MPI.COMM_WORLD.rank == 0:
        print("RIGHT", flush=True)
    """


@pytest.mark.parametrize("repeat", REPEATS)
def test_serve_leaves_the_handlers_alone(repeat: int, write: Write) -> None:
    app = write(SERVES)
    with start(NRANKS, [str(app)], cwd=app.parent) as going:
        run = going.finish()
    ended_well(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_wrong_grace(repeat: int, write: Write) -> None:
    app = write(HEAD)
    with started(app, ALAMO_GRACE="soon") as going:
        run = going.finish()
    run.check_clean()
    assert run.rc == 1, str(run)
    assert run.stderr.count("ALAMO_GRACE='soon' is no positive number") == 1, str(run)
