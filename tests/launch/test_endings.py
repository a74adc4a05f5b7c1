"""Every way to end, on every way of starting: who ends, how soon, with which status and words."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mpirun import Run, launcher, mpirun, start

pytestmark = pytest.mark.slow

NRANKS = 3
#: The promise: all ranks have ended so soon after the event, busy workers included.
LIMIT_S = 10.0

WAYS = {
    "module": (NRANKS, ["-m", "alamo_mpi"]),
    "script": (NRANKS, []),
    "minus_n": (0, ["-m", "alamo_mpi", "-n", str(NRANKS)]),
    "alone": (0, []),
}

#: Both workers are inside a task that would last for ten minutes.
BUSY = """\
    import os, sys, threading, time
    from pathlib import Path
    import alamo_mpi

    def block(flag):
        Path(flag).touch()
        time.sleep(600)

    batch = alamo_mpi.Batch()
    tasks = [batch.function(block, flag) for flag in ("one", "two")]
    for task in tasks:
        task.start()
    while not (Path("one").exists() and Path("two").exists()):
        time.sleep(0.01)
    print("READY", flush=True)
    """
#: So are they, and no signal reaches Python there: foreign code that keeps the interpreter's lock.
STUCK = BUSY.replace("time.sleep(600)", "__import__('ctypes').PyDLL(None).sleep(600)")
#: No worker has anything to do.
IDLE = """\
    import os, sys, threading, time
    import alamo_mpi

    batch = alamo_mpi.Batch()
    assert batch.function(pow, 2, 10).run() == 1024
    print("READY", flush=True)
    """

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*parts: str) -> Path:
        path = tmp_path / "app.py"
        path.write_text("".join(textwrap.dedent(part) for part in parts))
        return path

    return write


def run_to_end(way: str, app: Path) -> Run:
    nranks, command = WAYS[way]
    run = mpirun(nranks, [*command, str(app)], cwd=app.parent)
    run.check_clean()
    assert "READY" in run.stdout, str(run)
    return run


@pytest.mark.parametrize("way", WAYS)
class TestIdleWorkers:
    """The workers have nothing to do: the job ends by itself, and MPI has nothing to say."""

    def test_end_of_the_program(self, way: str, write: Write) -> None:
        run = run_to_end(way, write(IDLE, "batch.close(); batch.join()\n"))
        assert (run.rc, run.stderr) == (0, ""), str(run)

    def test_batch_left_open(self, way: str, write: Write) -> None:
        run = run_to_end(way, write(IDLE))
        assert run.rc == 0, str(run)
        assert "Traceback" not in run.stderr, str(run)

    @pytest.mark.parametrize(("status", "rc"), [("", 0), ("3", 3), ("'last words'", 1)])
    def test_sys_exit(self, way: str, status: str, rc: int, write: Write) -> None:
        run = run_to_end(way, write(IDLE, f"batch.close(); batch.join(); sys.exit({status})\n"))
        assert run.rc == rc, str(run)
        assert run.stderr.count("last words") == (1 if "words" in status else 0)
        assert "Traceback" not in run.stderr, str(run)

    def test_unhandled_error(self, way: str, write: Write) -> None:
        path = write(
            IDLE,
            """\
            import atexit
            atexit.register(print, "FROM ATEXIT")
            log = open("log.txt", "w")
            log.write("not flushed by the program")
            raise ValueError("boom")
            """,
        )
        run = run_to_end(way, path)
        assert run.rc == 1, str(run)
        assert run.stderr.count("Traceback (most recent call last)") == 1, str(run)
        assert run.stderr.count("ValueError: boom") == 1, str(run)
        assert "FROM ATEXIT" in run.stdout, str(run)
        assert (path.parent / "log.txt").read_text() == "not flushed by the program"


@pytest.mark.parametrize("tasks", [BUSY, STUCK], ids=["busy", "stuck"])
@pytest.mark.parametrize("way", ["module", "script"])
class TestBusyWorkers:
    """The workers are in tasks of ten minutes, and all is over in seconds."""

    def test_unhandled_error(self, way: str, tasks: str, write: Write) -> None:
        run = run_to_end(way, write(tasks, "raise ValueError('boom')\n"))
        assert run.rc == 1, str(run)
        assert run.seconds < LIMIT_S
        assert run.stderr.count("Traceback (most recent call last)") == 1, str(run)
        assert run.stderr.count("ValueError: boom") == 1, str(run)

    def test_unhandled_error_inside_with(self, way: str, tasks: str, write: Write) -> None:
        path = write(tasks, "with batch:\n    raise ValueError('boom')\n")
        run = run_to_end(way, path)
        assert run.rc == 1, str(run)
        assert run.seconds < LIMIT_S
        assert run.stderr.count("ValueError: boom") == 1, str(run)

    @pytest.mark.parametrize(("status", "rc"), [("3", 3), ("'last words'", 1)])
    def test_sys_exit(self, way: str, tasks: str, status: str, rc: int, write: Write) -> None:
        run = run_to_end(way, write(tasks, f"sys.exit({status})\n"))
        assert run.rc == rc, str(run)
        assert run.seconds < LIMIT_S
        assert "Traceback" not in run.stderr, str(run)

    def test_end_of_the_program(self, way: str, tasks: str, write: Write) -> None:
        """Nobody waits for the tasks: they are ended, and where that fails, so has the program."""
        run = run_to_end(way, write(tasks))
        assert run.seconds < LIMIT_S
        assert run.rc == (0 if tasks is BUSY else 1), str(run)
        assert ("the job is aborted" in run.stderr) == (tasks is STUCK), str(run)
        assert "without close() and join()" in run.stderr, str(run)


#: What rank 0 does while the signal comes.
DOING = {
    "sleeping": (IDLE, "time.sleep(600)\n"),
    "sleeping, workers busy": (BUSY, "time.sleep(600)\n"),
    "sleeping, workers stuck": (STUCK, "time.sleep(600)\n"),
    "waiting": (BUSY, "tasks[0].wait()\n"),
    "getting": (BUSY, "tasks[0].result.get()\n"),
    "joining": (BUSY, "batch.close()\nbatch.join()\n"),
    "computing": (BUSY, "while True: pass\n"),
}


INTERRUPTED = [
    *(("module", doing) for doing in DOING),
    *(("script", doing) for doing in DOING),
    *(("minus_n", "waiting"), ("alone", "sleeping")),
]
#: MPICH's launcher passes it on, Open MPI's ends the ranks itself, whatever they do.
TERMINATED = [
    *(("module", "sleeping"), ("module", "sleeping, workers stuck"), ("module", "waiting")),
    *(("script", "computing"), ("minus_n", "waiting"), ("alone", "sleeping")),
]


class TestSignals:
    @pytest.mark.parametrize(("way", "doing"), INTERRUPTED)
    def test_interrupt(self, way: str, doing: str, write: Write) -> None:
        run = self._signal(way, doing, write, "interrupt")
        assert run.stderr.count("Traceback (most recent call last)") <= 1, str(run)
        if launcher().family == "MPICH" or way == "alone":
            # Open MPI's launcher keeps the signal to itself and ends the ranks.
            assert run.stderr.count("KeyboardInterrupt") == 1, str(run)

    @pytest.mark.parametrize(("way", "doing"), TERMINATED)
    def test_terminate(self, way: str, doing: str, write: Write) -> None:
        run = self._signal(way, doing, write, "terminate")
        assert "Traceback" not in run.stderr, str(run)

    @staticmethod
    def _signal(way: str, doing: str, write: Write, name: str) -> Run:
        before, then = DOING[doing]
        app = write(before, then)
        nranks, command = WAYS[way]
        with start(nranks, [*command, str(app)], cwd=app.parent) as started:
            started.wait_for("READY")
            getattr(started, name)()
            run = started.finish()
        run.check_clean()
        assert run.rc != 0, str(run)
        assert run.seconds < LIMIT_S
        return run


@pytest.mark.parametrize("way", ["module", "script"])
class TestWorkers:
    def test_a_worker_that_dies_ends_the_job(self, way: str, write: Write) -> None:
        path = write(
            IDLE,
            """\
            import signal
            def die():
                os.kill(os.getpid(), signal.SIGKILL)
            batch.function(die).run()
            """,
        )
        nranks, command = WAYS[way]
        run = mpirun(nranks, [*command, str(path)])
        run.check_clean(nlost=1)
        assert run.rc != 0, str(run)
        assert run.seconds < 2 * LIMIT_S

    def test_programs_of_tasks_can_be_interrupted(self, way: str, write: Write) -> None:
        """Workers ignore Ctrl-C, what they start does not inherit that."""
        path = write(
            IDLE,
            """\
            import subprocess
            def child():
                code = "import signal; print(signal.getsignal(2) is signal.default_int_handler)"
                return subprocess.run([sys.executable, "-c", code], capture_output=True).stdout
            print(batch.function(child).run())
            batch.close()
            batch.join()
            """,
        )
        run = run_to_end(way, path)
        assert (run.rc, run.stdout.splitlines()[-1]) == (0, "b'True\\n'"), str(run)


def test_an_error_inside_a_worker(write: Write) -> None:
    """The service itself fails on one rank: its traceback, and the end of all ranks."""
    path = write(
        """\
        import time
        import alamo_mpi
        from alamo_mpi.mpi.world import MPI
        from alamo_mpi.runtime import serving

        def broken(world):
            raise RuntimeError("broken worker")

        if MPI.COMM_WORLD.rank == 1:
            serving.serve = broken
        alamo_mpi.init()
        time.sleep(600)
        """
    )
    run = mpirun(NRANKS, [str(path)])
    run.check_clean()
    assert run.rc == 1, str(run)
    assert run.stderr.count("RuntimeError: broken worker") == 1, str(run)
    assert run.seconds < 2 * LIMIT_S


def test_rank_0_cannot_start_its_manager(write: Write) -> None:
    path = write(
        """\
        import alamo_mpi
        from alamo_mpi.mpi.world import MPI
        from alamo_mpi.runtime import manager

        def broken(world):
            raise RuntimeError("broken manager")

        manager.Manager = broken
        alamo_mpi.init()
        """
    )
    run = mpirun(NRANKS, [str(path)])
    run.check_clean()
    assert run.rc == 1, str(run)
    assert run.stderr.count("RuntimeError: broken manager") == 1, str(run)


def test_an_excepthook_of_the_program_is_called_first(write: Write) -> None:
    path = write(
        "import sys\nsys.excepthook = lambda *error: print('MINE', error[1])\n",
        IDLE,
        "raise ValueError('boom')\n",
    )
    run = run_to_end("module", path)
    assert (run.rc, run.stdout.count("MINE boom"), run.stderr.count("boom")) == (1, 1, 0), str(run)


def test_an_excepthook_that_replaces_ours(write: Write) -> None:
    """It does not know of us, and yet the job ends."""
    path = write(
        BUSY,
        "sys.excepthook = lambda *error: print('MINE', error[1], flush=True)\n",
        "raise ValueError('boom')\n",
    )
    run = run_to_end("script", path)
    assert run.rc == 1, str(run)
    assert run.stdout.count("MINE boom") == 1, str(run)
    assert run.seconds < LIMIT_S


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_thread_that_never_ends_does_not_keep_a_failed_job(way: str, write: Write) -> None:
    path = write(
        IDLE,
        "threading.Thread(target=time.sleep, args=(600,)).start()\n",
        "raise ValueError('boom')\n",
    )
    run = run_to_end(way, path)
    assert run.rc == 1, str(run)
    assert run.stderr.count("ValueError: boom") == 1, str(run)
    assert run.seconds < LIMIT_S


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_thread_that_works_after_the_main_program(way: str, write: Write) -> None:
    """As in Python: the end of the main program waits for threads, and they may use workers."""
    path = write(
        IDLE,
        """\
        def later():
            threading.main_thread().join()
            print(batch.function(pow, 3, 4).run())
            batch.close()
            batch.join()
        threading.Thread(target=later).start()
        """,
    )
    run = run_to_end(way, path)
    assert (run.rc, run.stdout.splitlines()[-1], run.stderr) == (0, "81", ""), str(run)


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_program_that_finalizes_mpi_itself(way: str, write: Write) -> None:
    path = write(
        IDLE,
        """\
        batch.close()
        batch.join()
        from mpi4py import MPI
        MPI.Finalize()
        print("FINALIZED")
        """,
    )
    run = run_to_end(way, path)
    assert (run.rc, run.stdout.splitlines()[-1], run.stderr) == (0, "FINALIZED", ""), str(run)


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_forked_child_does_not_end_the_program(way: str, write: Write) -> None:
    path = write(
        IDLE,
        """\
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, batch.function(pow, 3, 4).run())
        batch.close()
        batch.join()
        """,
    )
    run = run_to_end(way, path)
    assert (run.rc, run.stdout.splitlines()[-1]) == (0, "7 81"), str(run)


@pytest.mark.parametrize("way", ["module", "script", "alone"])
def test_an_error_at_a_prompt_does_not_end_the_program(way: str, write: Write) -> None:
    """``python -i`` after a program that failed: the prompt is rank 0's, and can use workers."""
    path = write(IDLE, "raise ValueError('boom')\n")
    nranks, command = WAYS[way]
    lines = b"1/0\nprint('ALIVE', batch.function(pow, 3, 4).run())\nexit()\n"
    run = mpirun(nranks, ["-i", *command, str(path)], stdin=lines)
    run.check_clean()
    assert "ALIVE 81" in run.stdout, str(run)
    assert run.stderr.count("ValueError: boom") == 1, str(run)
    assert run.stderr.count("ZeroDivisionError") == 1, str(run)
