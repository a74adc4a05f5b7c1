"""Faults that cost one task, or one call: the program goes on, and its end is as ever."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.faults.conftest import Write
from tests.faults.test_faults import HEAD, NRANKS, REPEATS, ended_well
from tests.support.mpirun import Started, launcher, mpirun

pytestmark = pytest.mark.slow

#: Faults of one program, one after the other; each is a function that checks what is seen.
ERRORS = """\
    import pickle, threading
    from alamo_mpi import *

    class Unpicklable:
        def __reduce__(self):
            raise ValueError("not picklable")

    class Unloadable:
        def __reduce__(self):
            return fails_to_load, (os.getpid(),)

    def fails_to_load(maker):
        if os.getpid() != maker:
            raise ValueError("cannot be rebuilt")
        return Unloadable()

    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def raises(error):
        raise error

    def odd():
        raise OddError("one", "two")

    def gives(kind):
        return kind()

    def ignores(value):
        return 1

    def sees(expected, function, *args, text="", **more):
        task = batch.function(function, *args, **more)
        try:
            value = task.run(60)
        except BaseException as error:
            assert type(error) is expected, (expected, error)
            assert text in str(error), error
        else:
            raise AssertionError(f"{function} gave {value!r}")
        assert batch.function(square, 3).run(60) == 9

    def exits(status):
        sys.exit(status)

    def calls_back(value):
        raise KeyError("in the callback")

    def forever():
        while True:
            pass

    sees(ValueError, raises, ValueError("of the task"), text="of the task")
    sees(RemoteError, odd)
    sees(RemoteError, exits, 3, text="SystemExit")
    sees(RemoteError, raises, KeyboardInterrupt())
    sees(MemoryError, raises, MemoryError())
    sees(KeyError, square, 2, callback_func=calls_back)
    sees(SerializationError, ignores, Unpicklable(), text="not picklable")
    sees(SerializationError, ignores, Unloadable(), text="cannot be rebuilt")
    sees(SerializationError, gives, Unpicklable, text="not picklable")
    sees(SerializationError, gives, Unloadable, text="cannot be rebuilt")
    sees(SerializationError, gives, threading.Lock)
    sees(TaskTimeoutError, forever, timeout=0.05)
    bounded = DDict(total_mem=1 << 20)
    try:
        bounded["x"] = bytes(1 << 22)
    except DDictFullError:
        pass
    bounded["x"] = 1
    assert bounded["x"] == 1
    bounded.destroy()
    batch.close()
    batch.join()
    print("RIGHT", flush=True)
    """


@pytest.mark.parametrize("repeat", REPEATS)
def test_errors_of_single_tasks(repeat: int, write: Write) -> None:
    """The error that is documented, from the call that is documented; the next task runs."""
    app = write(HEAD, ERRORS)
    ended_well(mpirun(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent))


FULL = """\
    def prints():
        print("x" * (32 << 20))

    def writes():
        with open(os.path.join(os.environ["TMPDIR"], "file"), "wb") as file:
            try:
                file.write(bytes(64 << 20))
                file.flush()
            finally:
                os.unlink(file.name)

    for function in (prints, writes):
        try:
            batch.function(function).run(60)
        except OSError as error:
            assert error.errno == 28, error
            print("FULL", function.__name__)
        assert batch.function(square, 3).run(60) == 9
    batch.close()
    batch.join()
    print("RIGHT", flush=True)
    """


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root: mounts")
@pytest.mark.parametrize("repeat", REPEATS)
def test_full_disk(repeat: int, write: Write) -> None:
    """A temporary directory without room: the task that needs some fails with ENOSPC."""
    app = write(HEAD, FULL)
    mount = 'mount -t tmpfs -o size=16m tmpfs "$TMPDIR" && exec "$@"'
    inner = launcher().argv(NRANKS, [sys.executable, "-m", "alamo_mpi", str(app)])
    argv = ["unshare", "-m", "sh", "-c", mount, "sh", *inner]
    with Started(argv, timeout_s=60, cwd=app.parent) as started:
        run = started.finish()
    ended_well(run)
    assert run.stdout.count("FULL") == 2, str(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_pool_that_is_too_large(repeat: int, write: Write) -> None:
    """More than /dev/shm has: said at the start, with the numbers."""
    app = write("import alamo_mpi\nalamo_mpi.Batch()\n")
    env = {"ALAMO_POOL_BYTES": str(1 << 50)}
    run = mpirun(NRANKS, ["-m", "alamo_mpi", str(app)], cwd=app.parent, env=env)
    run.check_clean()
    assert run.rc != 0
    assert "ALAMO_POOL_BYTES" in run.stderr, str(run)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root: mounts")
@pytest.mark.parametrize("repeat", REPEATS)
def test_full_shared_memory(repeat: int, write: Write) -> None:
    """A /dev/shm with room for MPI but for no pool: said at the start, where one is needed."""
    app = write("import alamo_mpi\nd = alamo_mpi.DDict()\nd[1] = 1\nprint('RIGHT')\n")
    mount = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    inner = launcher().argv(NRANKS, [sys.executable, "-m", "alamo_mpi", str(app)])
    argv = ["unshare", "-m", "sh", "-c", mount, "sh", *inner]
    with Started(argv, timeout_s=60, cwd=app.parent) as started:
        run = started.finish()
    if launcher().family == "MPICH":
        run.check_clean()
        assert run.rc == 1, str(run)
        assert "too little for the memory pool" in run.stderr, str(run)
    else:
        ended_well(run)
