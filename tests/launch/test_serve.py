"""`alamo_mpi.serve` inside a host program: one body, every rank goes on, nothing is touched."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import Run, mpirun

pytestmark = pytest.mark.slow

HEAD = """\
    import signal, sys, threading, time, traceback
    from pathlib import Path
    from mpi4py import MPI
    import alamo_mpi

    world = MPI.COMM_WORLD
    rank, size = world.rank, world.size

    def triple(x):
        return 3 * x

    def tripled(x):
        with alamo_mpi.Batch() as batch:
            return batch.function(triple, x).run()

    def say(*words):                                   # in one piece, whatever other ranks say
        sys.stdout.write(" ".join(map(str, words)) + "\\n")
        sys.stdout.flush()

    def show(*error):       # every rank of a host program shows its error: Python's hook, in bits
        sys.stderr.write("".join(traceback.format_exception(*error)))
        sys.stderr.flush()

    sys.excepthook = show
    """


def host(tmp_path: Path, body: str, *, nranks: int = 4, head: str = HEAD) -> Run:
    path = tmp_path / "host.py"
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    run = mpirun(nranks, [str(path)], cwd=tmp_path)
    run.check_clean()
    return run


@pytest.mark.parametrize("nranks", [1, 2, 4])
def test_world_and_split_twice_with_traffic_of_the_host(tmp_path: Path, nranks: int) -> None:
    """Even ranks serve on a split communicator while odd ones compute together."""
    run = host(
        tmp_path,
        """\
        bodies = []

        def host_traffic(comm):
            here, n = comm.rank, comm.size
            assert comm.sendrecv(here, (here + 1) % n, 7, None, (here - 1) % n, 7) == (here - 1) % n
            assert comm.allreduce(1) == n

        def work(comm, n):
            with alamo_mpi.serve(comm) as alamo:
                assert alamo.world.size == comm.size
                bodies.append(rank)
                with alamo_mpi.Batch() as batch:
                    tasks = [batch.function(triple, i) for i in range(n)]
                    for task in tasks:
                        task.start()
                    assert [task.result.get() for task in tasks] == [3 * i for i in range(n)]
            return comm.size

        def settings():
            return (
                [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
                sys.excepthook, sys.exit, sys.gettrace(), sys.getswitchinterval(),
                threading.enumerate(), sys.stdout, sys.stderr,
            )

        before = settings()
        host_traffic(world)
        request = world.irecv(source=rank, tag=9)      # pending all the while
        assert work(world, 20) == size
        host_traffic(world)
        half = world.Split(rank % 2, -rank)            # another order than the world's
        for turn in range(2):
            if rank % 2 == 0:
                assert work(half, 20) == half.size
            else:
                for _ in range(200):
                    host_traffic(half)
            host_traffic(world)
        with alamo_mpi.serve(half):                    # two groups at once
            bodies.append("both")
            with alamo_mpi.Batch() as batch:
                assert batch.function(triple, 5).run() == 15
        host_traffic(world)
        world.send("late", rank, tag=9)
        assert request.wait() == "late"
        assert settings() == before, (settings(), before)
        everything = world.gather(bodies)
        if rank == 0:
            flat = [entry for bodies in everything for entry in bodies]
            last = max(range(0, size, 2))              # rank 0 of `half`
            expected = [0, last, last] + ["both"] * min(size, 2)
            assert sorted(map(str, flat)) == sorted(map(str, expected)), everything
        say("FINE", rank)
        """,
        nranks=nranks,
    )
    assert (run.rc, run.stdout.count("FINE"), run.stderr) == (0, nranks, ""), str(run)


def test_body_shapes(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        ran = []
        with alamo_mpi.serve(world): ran.append(1)
        with alamo_mpi.serve() as alamo: ran.append(alamo.world.rank)
        def nested():
            def inner():
                with alamo_mpi.serve(world):
                    return "body"
                return "after"
            return inner()
        ran.append(nested())
        assert ran == ([1, 0, "body"] if rank == 0 else ["after"]), ran
        assert ("alamo" in globals()) == (rank == 0)
        say("FINE")
        """,
        nranks=3,
    )
    assert (run.rc, run.stdout.count("FINE")) == (0, 3), str(run)


def test_host_that_has_initialized_mpi_itself(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        with alamo_mpi.serve(world):
            assert tripled(5) == 15
        world.Barrier()
        say("FINE")
        MPI.Finalize()
        """,
        nranks=2,
        head="import mpi4py\nmpi4py.rc.initialize = False\nfrom mpi4py import MPI\n"
        "MPI.Init_thread(MPI.THREAD_MULTIPLE)\n" + textwrap.dedent(HEAD),
    )
    assert (run.rc, run.stdout.count("FINE")) == (0, 2), str(run)


def test_too_low_a_thread_level(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        try:
            with alamo_mpi.serve(world):
                print("BODY")
        except alamo_mpi.LaunchError as error:
            say("TOLD", "mpi4py.rc.thread_level" in str(error), "FUNNELED" in str(error))
        """,
        nranks=2,
        head="import mpi4py\nmpi4py.rc.thread_level = 'funneled'\n" + textwrap.dedent(HEAD),
    )
    assert (run.rc, run.stdout.count("TOLD True True"), "BODY" in run.stdout) == (0, 2, False), str(
        run
    )


def test_an_error_in_the_body_is_raised_on_every_rank(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        class Unpicklable(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")
                self.lock = threading.Lock()
        try:
            with alamo_mpi.serve(world):
                raise Unpicklable("boom", "bang")
        except Unpicklable as error:
            say("OWN", rank, error)
        except alamo_mpi.RemoteError as error:
            assert (error.rank, error.type_name) == (0, "Unpicklable")
            say("REMOTE", "boom and bang" in str(error))
        with alamo_mpi.serve(world):                   # and the ranks are of use again
            assert tripled(5) == 15
        assert world.allreduce(1) == size
        """,
        nranks=3,
    )
    assert (run.rc, run.stderr) == (0, ""), str(run)
    assert sorted(run.stdout.splitlines()) == [
        *("OWN 0 boom and bang", "REMOTE True", "REMOTE True"),
    ], str(run)


def test_an_unhandled_error_in_the_body_ends_the_job(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        with alamo_mpi.serve(world):
            raise ValueError("boom")
        """,
    )
    assert run.rc == 1, str(run)
    assert run.stderr.count("\nValueError: boom") == 1, str(run)
    assert run.seconds < 20


@pytest.mark.parametrize(("status", "rc"), [("0", 0), ("3", 3), ("'last words'", 1)])
def test_sys_exit_in_the_body(tmp_path: Path, status: str, rc: int) -> None:
    run = host(tmp_path, f"with alamo_mpi.serve(world):\n    sys.exit({status})\n", nranks=3)
    assert run.rc == rc, str(run)
    assert run.stderr.count("last words") == (1 if "words" in status else 0)
    assert "Traceback" not in run.stderr, str(run)


@pytest.mark.parametrize("stuck", [False, True])
def test_an_error_with_a_long_task_in_flight(tmp_path: Path, stuck: bool) -> None:
    """Such a task is given up; where nothing reaches it, the job is aborted."""
    wait = "ctypes.PyDLL(None).sleep(600)" if stuck else "time.sleep(600)"
    run = host(
        tmp_path,
        f"""\
        import ctypes
        def block():
            Path("flag").touch()
            {wait}
        with alamo_mpi.serve(world):
            batch = alamo_mpi.Batch()
            batch.function(block).start()
            while not Path("flag").exists():
                time.sleep(0.01)
            raise ValueError("boom")
        """,
    )
    assert ("the job is aborted" in run.stderr) == stuck, str(run)
    assert ("alamo_mpi.errors.RemoteError:" in run.stderr) == (not stuck), str(run)
    assert run.rc == 1, str(run)
    assert run.stderr.count("\nValueError: boom") == 1, str(run)
    assert run.seconds < 20


def test_misuse_is_told_and_harms_nothing(tmp_path: Path) -> None:
    run = host(
        tmp_path,
        """\
        import contextlib
        told = []
        def refused(kind, enter):
            try:
                enter()
            except kind as error:
                told.append(str(error))
        def null():
            with alamo_mpi.serve(MPI.COMM_NULL):
                raise AssertionError
        def text():
            with alamo_mpi.serve("world"):
                raise AssertionError
        def stacked():
            with contextlib.ExitStack() as stack:
                stack.enter_context(alamo_mpi.serve(world))
                raise AssertionError
        def nested():
            with alamo_mpi.serve(MPI.COMM_SELF):
                raise AssertionError
        refused(ValueError, null)
        refused(TypeError, text)
        refused(RuntimeError, stacked)
        with alamo_mpi.serve(world):
            refused(alamo_mpi.TaskStateError, nested)
        assert len(told) == (4 if rank == 0 else 3), told
        with alamo_mpi.serve(world):
            assert tripled(5) == 15
        say("FINE")
        """,
        nranks=2,
    )
    assert (run.rc, run.stdout.count("FINE")) == (0, 2), str(run)


def test_serve_in_a_program_that_has_taken_the_job(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("import alamo_mpi\nwith alamo_mpi.serve():\n    print('BODY')\n")
    run = mpirun(2, ["-m", "alamo_mpi", str(path)])
    run.check_clean()
    assert run.rc == 1, str(run)
    assert run.stderr.count("\nalamo_mpi.errors.TaskStateError:") == 1, str(run)
    assert "BODY" not in run.stdout
