"""A worker is lost while a job runs, in a program that goes on without it."""

from __future__ import annotations

import signal

import pytest

from tests.faults.conftest import Write
from tests.faults.test_faults import LIMIT_S, REPEATS
from tests.faults.test_surviving import HEAD, TAIL, begin, right
from tests.support.mpirun import Started

pytestmark = pytest.mark.slow

#: A job of two ranks on two of the three workers, and who these are: leader, member.
JOB = """\
    def who():
        time.sleep(0.02)
        return mine(), os.getpid()

    workers = {}
    while len(workers) < 3:
        tasks = [batch.function(who) for _ in range(6)]
        batch.compile(tasks).run()
        workers.update(task.result.get() for task in tasks)

    PROGRAM = "import os, time; open(f'on-{os.getpid()}', 'w'); time.sleep(600)"

    def in_a_collective():
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        world.Barrier()
        Path(f"on-{world.rank}").touch()
        world.recv(source=1 - world.rank)

    def second_time_lucky(flag):
        from mpi4py import MPI

        if not Path(flag).exists():
            MPI.COMM_WORLD.Barrier()
            Path(f"on-{MPI.COMM_WORLD.rank}").touch()
            time.sleep(600)
        return MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.rank)

    def started(job):
        job.start()
        while len(list(Path().glob("on-*"))) < 2:
            time.sleep(0.01)
        idle, _ = batch.function(who).run()
        gang = sorted(set(workers) - {idle})
        print("GANG", *[workers[rank] for rank in gang], flush=True)
        return gang
    """


def kill(started: Started, at: int) -> None:
    """Kill the leader (0) or the member (1) of the job."""
    started.wait_for("GANG")
    line = next(line for line in started.stdout.splitlines() if line.startswith("GANG"))
    started.signal(int(line.split()[1:][at]), signal.SIGKILL)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("lost", [0, 1], ids=["leader", "member"])
@pytest.mark.parametrize(
    "job", ["sys.executable, ['-c', PROGRAM]", "in_a_collective"], ids=["program", "callable"]
)
def test_a_job_that_loses_a_worker(job: str, lost: int, repeat: int, write: Write) -> None:
    """It fails and says which; jobs for which there are workers go on, wider ones do not wait."""
    program = f"""\
    job = batch.job({job}, num_procs=2)
    gang = started(job)
    error = outcome(job)
    assert type(error) is WorkerDiedError, error
    assert error.rank == gang[{lost}] and error.uid == job.uid, error
    goes_on(error.rank)
    assert batch.job("true", num_procs=2).run(30) == [0, 0]
    wide = batch.job("true", num_procs=3)
    behind = batch.job("true", num_procs=2)
    wide.start()
    behind.start()
    assert type(outcome(wide)) is CancelledError, outcome(wide)
    assert outcome(behind) == [0, 0]
    goes_on(error.rank)
    """
    app = write(HEAD, JOB, program, TAIL)
    with begin(app) as started:
        kill(started, lost)
        run = started.finish()
    right(run)
    assert run.seconds < 2 * LIMIT_S, str(run)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("lost", [0, 1], ids=["leader", "member"])
def test_a_job_that_is_tried_again(lost: int, repeat: int, write: Write) -> None:
    program = """\
    job = batch.job(second_time_lucky, ("flag",), num_procs=2, retries=1)
    gang = started(job)
    Path("flag").touch()
    print("READY", flush=True)
    assert outcome(job) == [[0, 1], [0, 1]], outcome(job)
    first, second = job.attempts
    assert type(first.error) is WorkerDiedError and second.error is None, job.attempts
    """
    app = write(HEAD, JOB, program, TAIL)
    with begin(app) as started:
        started.wait_for("READY")
        kill(started, lost)
        run = started.finish()
    right(run)


@pytest.mark.parametrize("launch", ["ranks", "spawn"])
def test_what_ties_a_job_to_its_workers_is_refused(launch: str, write: Write) -> None:
    program = f"""\
    try:
        batch.job(len, num_procs=2, policy=Policy(launch="{launch}"))
    except TaskStateError as error:
        assert "--survive" in str(error), error
    else:
        raise AssertionError("it was made")
    """
    app = write(HEAD, program, TAIL)
    with begin(app) as started:
        run = started.finish()
    right(run, 0)
