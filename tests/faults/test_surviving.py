"""A worker is lost in a program that goes on without it: ``alamo-mpi run --survive``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Write
from tests.faults.test_faults import LIMIT_S, REPEATS, pids_of
from tests.support.mpirun import Run, Started, launcher, mpirun

pytestmark = pytest.mark.slow

NRANKS = 4

HEAD = """\
    import ctypes, os, signal, sys, time
    from pathlib import Path
    from alamo_mpi import *

    def mine():
        return int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])

    def rank():
        time.sleep(0.01)
        return mine()

    def pid():
        time.sleep(0.05)
        return os.getpid()

    def found():
        while True:
            tasks = [batch.function(pid) for _ in range(3)]
            batch.compile(tasks).run()
            pids = {task.result.get() for task in tasks}
            if len(pids) == 3:
                return sorted(pids)

    def square(x):
        return x * x

    def block(name):
        Path(name).touch()
        time.sleep(600)

    def outcome(task):
        try:
            return task.result.get(timeout=30)
        except AlamoError as error:
            return error

    def first_failure(tasks):
        while True:
            for task in tasks:
                try:
                    task.result.get(timeout=0.05)
                except WorkerDiedError as error:
                    return error
                except TimeoutError:
                    pass

    def goes_on(*lost):
        tasks = [batch.function(rank) for _ in range(60)]
        batch.compile(tasks).run(30)
        seen = {task.result.get() for task in tasks}
        assert seen and not seen & set(lost), (seen, lost)

    batch = Batch()
    print("PIDS", os.getpid(), *found(), flush=True)
    """
TAIL = """\
    batch.close()
    batch.join(30)
    print("RIGHT", flush=True)
    """


def begin(app: Path, *, timeout_s: float = 60.0) -> Started:
    program = ["-m", "alamo_mpi.cli", "run", "--survive", "-n", str(NRANKS), str(app)]
    return Started([sys.executable, *program], timeout_s=timeout_s, cwd=app.parent)


def right(run: Run, nlost: int = 1, *, status: int = 0) -> None:
    run.check_clean(nlost=nlost)
    assert run.rc == status, str(run)
    assert "RIGHT" in run.stdout, str(run)
    assert all("The others go on without it." in each for each in run.losses), str(run)


#: What a task does to its rank.
WAYS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "ctypes.string_at(0)",
    "exit": "os._exit(3)",
}


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_takes_its_worker_along(way: str, repeat: int, write: Write) -> None:
    """It fails, those that read from it are skipped, and the next ones run elsewhere."""
    program = f"""\
    def dies():
        {WAYS[way]}

    place = Path("place")
    first = batch.function(dies, writes=batch.write(place))
    second = batch.function(square, 3, reads=batch.read(place))
    other = batch.function(square, 4)
    both = batch.compile([first, second, other])
    both.start()
    error = outcome(first)
    assert type(error) is WorkerDiedError, error
    assert error.task_name == "dies" and error.rank in (1, 2, 3) and error.uid == first.uid, error
    assert type(outcome(second)) is DependencyError, outcome(second)
    assert outcome(other) == 16
    goes_on(error.rank)
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        run = started.finish()
    # Open MPI's launcher gives the status of a rank that exits by itself.
    right(run, status=3 if way == "exit" and launcher().family == "Open MPI" else 0)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_worker_killed_among_short_tasks(repeat: int, write: Write) -> None:
    """Each task has a result or was lost, none runs twice, and few are lost."""
    program = """\
    def note(i):
        with open(f"ran-{os.getpid()}", "a", buffering=1) as file:
            file.write(f"{i}\\n")
        return i

    ends = []
    while not Path("killed").exists():
        tasks = [batch.function(note, len(ends) + i) for i in range(1000)]
        batch.compile(tasks).start()
        if len(ends) == 2000:
            print("READY", flush=True)
        ends += [outcome(task) for task in tasks]
    lost = [i for i, end in enumerate(ends) if isinstance(end, WorkerDiedError)]
    done = [i for i, end in enumerate(ends) if type(end) is int]
    assert len(lost) + len(done) == len(ends), set(map(type, ends))
    ran = [int(x) for path in Path().glob("ran-*") for x in path.read_text().split()]
    assert len(ran) == len(set(ran)), "some ran twice"
    assert set(done) <= set(ran)
    assert len(lost) < 600, len(lost)
    goes_on()
    print("LOST", len(lost))
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        started.wait_for("READY")
        started.signal(pids_of(started.stdout)[2], signal.SIGKILL)
        (app.parent / "killed").touch()
        run = started.finish()
    right(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_two_workers_one_after_the_other(repeat: int, write: Write) -> None:
    """An idle one, then one that runs: the third goes on."""
    program = """\
    print("READY", flush=True)
    while not Path("go").exists():
        time.sleep(0.01)
    goes_on()
    tasks = [batch.function(block, f"running-{i}") for i in range(2)]
    for task in tasks:
        task.start()
    while len(list(Path().glob("running-*"))) < 2:
        time.sleep(0.01)
    print("RUNNING", flush=True)
    first_failure(tasks)
    print("NOTICED", flush=True)
    batch.cancel_all()
    goes_on()
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        started.wait_for("READY")
        idle, running = pids_of(started.stdout)[1:3]
        started.signal(idle, signal.SIGKILL)
        (app.parent / "go").touch()
        started.wait_for("RUNNING")
        started.signal(running, signal.SIGKILL)
        started.wait_for("NOTICED")
        run = started.finish()
    right(run, 2)
    assert run.seconds < LIMIT_S, str(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_what_was_kept_on_the_lost_worker(repeat: int, write: Write) -> None:
    """Its results, shards of dictionaries and queues: errors that name the rank, never a hang."""
    program = """\
    def large(i):
        return mine(), bytes(1 << 20)

    def first(pair):
        return pair[0]

    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    store = DDict()
    store.update({i: i for i in range(300)})
    tasks = [batch.function(large, i) for i in range(9)]
    batch.compile(tasks).run(30)
    task = batch.function(dies)
    task.start()
    error = outcome(task)
    assert type(error) is WorkerDiedError
    lost = error.rank
    readers = [batch.function(first, task) for task in tasks]
    for reader in readers:
        reader.start()
    for task, reader in zip(tasks, readers):
        seen, read = outcome(task), outcome(reader)
        if type(seen) is WorkerDiedError:
            assert seen.rank == lost and str(lost) in str(seen), seen
            assert type(read) is WorkerDiedError, read
        else:
            assert int(seen[0]) == read != lost, (seen[0], read)
    good = 0
    for i in range(300):
        try:
            good += store[i] == i
        except ShardLostError as error:
            assert error.rank == lost and f"rank {lost}" in str(error), error
        try:
            store[i] = -i
        except ShardLostError as error:
            assert error.rank == lost, error
    assert 100 < good < 300, good
    queue = Queue()
    queue.put(1)
    assert queue.get(timeout=10) == 1
    goes_on(lost)
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        run = started.finish()
    right(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_worker_killed_in_a_put(repeat: int, write: Write) -> None:
    """Others that write the same keys go on, or are told."""
    program = """\
    def puts(store, who, seconds):
        end = time.monotonic() + seconds
        Path(f"puts-{who}").touch()
        count = 0
        while time.monotonic() < end:
            try:
                store[count % 64] = bytes(2000)
            except ShardLostError:
                pass
            count += 1
        return count

    store = DDict()
    tasks = [batch.function(puts, store, who, 2.0) for who in range(3)]
    for task in tasks:
        task.start()
    while len(list(Path().glob("puts-*"))) < 3:
        time.sleep(0.01)
    print("READY", flush=True)
    ends = [outcome(task) for task in tasks]
    assert sum(isinstance(end, WorkerDiedError) for end in ends) == 1, ends
    assert sum(isinstance(end, int) for end in ends) == 2, ends
    goes_on()
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        started.wait_for("READY")
        started.signal(pids_of(started.stdout)[3], signal.SIGKILL)
        run = started.finish()
    right(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_all_workers_are_lost(repeat: int, write: Write) -> None:
    """What cannot run any more is cancelled; the program comes to its end."""
    program = """\
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    tasks = [batch.function(dies) for _ in range(8)]
    for task in tasks:
        task.start()
    ends = [type(outcome(task)) for task in tasks]
    assert ends.count(WorkerDiedError) == 3 and ends.count(CancelledError) == 5, ends
    task = batch.function(square, 1)
    task.start()
    assert type(outcome(task)) is CancelledError, outcome(task)
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        run = started.finish()
    right(run, 3)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("end", ["sys.exit(7)", "raise ValueError('on purpose')"])
def test_its_status_is_the_programs(end: str, repeat: int, write: Write) -> None:
    program = f"""\
    task = batch.function(ctypes.string_at, 0)
    task.start()
    assert type(outcome(task)) is WorkerDiedError
    {end}
    """
    app = write(HEAD, program)
    with begin(app) as started:
        run = started.finish()
    assert not run.timed_out, str(run)
    assert not run.survivors, str(run)
    assert run.rc == (7 if "exit" in end else 1), str(run)


@pytest.mark.parametrize("repeat", REPEATS)
def test_without_rank_0_the_program_ends(repeat: int, write: Write) -> None:
    app = write(HEAD, "    print('READY', flush=True)\n    time.sleep(600)\n")
    with begin(app) as started:
        started.wait_for("READY")
        started.signal(pids_of(started.stdout)[0], signal.SIGKILL)
        run = started.finish()
    run.check_clean(nlost=1)
    assert run.rc != 0, str(run)
    assert run.seconds < LIMIT_S, str(run)
    assert "rank 0 (host" in run.losses[0], str(run)


def test_a_program_that_loses_nobody(write: Write) -> None:
    app = write(HEAD, "    goes_on()\n", TAIL)
    with begin(app) as started:
        run = started.finish()
    right(run, 0)


@pytest.mark.skipif("launcher().family == 'Open MPI'", reason="asks the launcher: MPICH has none")
def test_refused_where_mpi_cannot(write: Write) -> None:
    """Only said in the environment, and not to the launcher."""
    app = write("from alamo_mpi import Batch\nBatch()\nraise AssertionError('it was run')\n")
    run = mpirun(2, ["-m", "alamo_mpi", str(app)], cwd=app.parent, env={"ALAMO_SURVIVE": "1"})
    run.check_clean()
    assert run.rc == 1, str(run)
    assert "start it by `alamo-mpi run --survive -n N`" in run.stderr, str(run)
