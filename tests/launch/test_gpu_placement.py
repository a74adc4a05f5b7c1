"""Which worker has which GPU, with a make-believe list of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import mpirun

pytestmark = pytest.mark.slow

PROGRAM = """\
    import logging, os, subprocess, sys
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import alamo_mpi
    from alamo_mpi import Batch, Policy

    def mine():
        return alamo_mpi.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")

    def use(batch, gpus):
        said = []

        def shown(**wanted):
            line = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
            task = batch.process(line, policy=Policy(**wanted))
            assert task.run() == 0
            return task.stdout.get().strip()

        for gpu in gpus:
            tasks = [batch.function(mine, policy=Policy(gpu_affinity=[gpu])) for _ in range(3)]
            batch.compile(tasks).run()
            assert {task.result.get() for task in tasks} == {((gpu,), gpu)}
            assert shown(gpu_affinity=[gpu]) == gpu
        said.append(f"all: {' '.join(gpus)} shown: {shown(gpu_affinity=gpus)}")
        said.append(f"one: {len(shown(gpus=1))}")

        def of_ranks(launch, **wanted):
            policy = Policy(launch=launch, **wanted)
            job = batch.job("sh", ("-c", "echo $CUDA_VISIBLE_DEVICES"), 2, policy=policy)
            assert job.run() == [0, 0]
            return [line.split("] ")[1] for line in sorted(job.stdout.get().splitlines())]

        for launch in "auto", "mpiexec":  # that one has its environment from one of the workers
            assert of_ranks(launch) == of_ranks(launch, gpus=1) == list(gpus)
            assert of_ranks(launch, gpu_affinity=gpus[:1]) == [gpus[0]] * 2
        for gpu in gpus:
            policy = Policy(launch="ranks", gpu_affinity=[gpu])
            assert batch.job(lambda comm: mine(), policy=policy).run() == [((gpu,), gpu)]
        try:
            batch.function(mine, policy=Policy(gpus=2))
        except ValueError as error:
            said.append(str(error))
        return said

    def in_own_batch(gpus):
        with Batch() as inner:
            return use(inner, gpus)

    def in_attached_program(gpus):
        command = [sys.executable, __file__, *gpus]
        with alamo_mpi.waiting():  # the program has tasks for this very worker
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0
        return done.stdout.splitlines()

    if sys.argv[1:]:
        with Batch() as batch:
            print("\\n".join(use(batch, tuple(sys.argv[1:]))))
        sys.exit()

    with Batch(log_level=logging.INFO) as batch:
        gpus = alamo_mpi.gpus()
        said = use(batch, gpus)
        print("\\n".join(said))
        for task in in_own_batch, in_attached_program:
            assert batch.function(task, gpus).run() == said
        # A batch that a task was given, too.
        assert batch.function(use, batch, gpus).run() == said
    assert "CUDA_DEVICE_ORDER" not in os.environ
"""


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [(None, "all: 0 1 shown: 0,1"), ("5,3", "all: 5 3 shown: 5,3")],
)
def test_each_worker_has_gpus_of_its_own(tmp_path: Path, mask: str | None, wanted: str) -> None:
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(PROGRAM))
    env = {"ALAMO_FAKE_GPUS": "2", "CUDA_VISIBLE_DEVICES": mask}
    done = mpirun(3, ["-m", "alamo_mpi", str(app)], env=env, cwd=tmp_path)
    assert done.rc == 0, done
    done.check_clean()
    assert wanted in done.stdout
    assert "one: 1" in done.stdout
    assert "No worker of this batch has 2 GPUs: its workers have 1 at most." in done.stdout
    names = ("0", "1") if mask is None else mask.split(",")
    assert "GPUs:\nrank 1: " in done.stderr
    for rank, name in enumerate(names, 1):
        assert f"rank {rank}: host " in done.stderr
        assert f"GPUs {name}\n" in done.stderr
