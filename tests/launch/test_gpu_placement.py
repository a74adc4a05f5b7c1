"""Which worker has which GPU, with a make-believe list of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.mpirun import mpirun

pytestmark = pytest.mark.slow

PROGRAM = """\
    import logging, os, subprocess
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import alamo_mpi
    from alamo_mpi import Batch, Policy

    def mine():
        return alamo_mpi.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")

    with Batch(log_level=logging.INFO) as batch:
        def shown(**wanted):
            line = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
            task = batch.process(line, policy=Policy(**wanted))
            assert task.run() == 0
            return task.stdout.get().strip()

        for gpu in alamo_mpi.gpus():
            assert batch.function(mine, policy=Policy(gpu_affinity=[gpu])).run() == ((gpu,), gpu)
            assert shown(gpu_affinity=[gpu]) == gpu
        print("all:", *alamo_mpi.gpus(), "shown:", shown(gpu_affinity=alamo_mpi.gpus()))
        print("one:", len(shown(gpus=1)))

        def of_ranks(launch, **wanted):
            policy = Policy(launch=launch, **wanted)
            job = batch.job("sh", ("-c", "echo $CUDA_VISIBLE_DEVICES"), 2, policy=policy)
            assert job.run() == [0, 0]
            return [line.split("] ")[1] for line in sorted(job.stdout.get().splitlines())]

        for launch in "auto", "mpiexec":  # that one has its environment from one of the workers
            assert of_ranks(launch) == of_ranks(launch, gpus=1) == list(alamo_mpi.gpus())
            assert of_ranks(launch, gpu_affinity=alamo_mpi.gpus()[:1]) == [alamo_mpi.gpus()[0]] * 2
        try:
            batch.function(mine, policy=Policy(gpus=2))
        except ValueError as error:
            print(error)
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
