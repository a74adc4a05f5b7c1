"""`alamo-mpi doctor` on real ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.mpirun import launcher, mpirun

pytestmark = pytest.mark.slow

DOCTOR = ["-m", "alamo_mpi.cli", "doctor"]


@pytest.mark.parametrize("way", ["launcher", "minus_n"])
def test_ranks_of_a_launcher(way: str) -> None:
    nranks, more = (3, []) if way == "launcher" else (0, ["-n", "3"])
    run = mpirun(nranks, [*DOCTOR, *more, "--json"], timeout_s=120)
    run.check_clean()
    assert run.rc == 0, str(run)
    told = json.loads(run.stdout)
    verdicts = {finding["name"]: finding["verdict"] for finding in told["findings"]}
    assert "broken" not in verdicts.values()
    assert verdicts["launcher"] == verdicts["threads"] == "good"
    assert {name for name in verdicts if name.startswith("RMA, one host")} == {
        "RMA, one host, target idle",
        "RMA, one host, target computing",
    }
    assert "spawn" in verdicts


def test_a_process_alone_tries_the_launcher() -> None:
    run = mpirun(0, DOCTOR, timeout_s=120)
    run.check_clean()
    assert run.rc == 0, str(run)
    assert "good    launcher, tried" in run.stdout
    assert "One rank" in run.stdout


def test_separate_programs_are_found_and_told_once() -> None:
    name = "OMPI_COMM_WORLD_SIZE" if launcher().family == "MPICH" else "PMI_SIZE"
    run = mpirun(0, DOCTOR, env={name: "3"}, timeout_s=120)
    run.check_clean()
    assert run.rc == 1, str(run)
    assert "broken  launcher" in run.stdout
    assert "3 separate programs" in run.stdout


WITHOUT_FOLDER = """\
import os
from alamo_mpi.doctorcommand import doctor

os.environ["TMPDIR"] = "/proc/nonexistent"
doctor([])
"""


def test_a_folder_that_cannot_be_written_and_a_pool_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "without.py"
    path.write_text(WITHOUT_FOLDER)
    run = mpirun(2, [str(path)], env={"ALAMO_POOL_BYTES": "many"}, timeout_s=120)
    run.check_clean()
    assert run.rc != 0, str(run)
    assert "broken  TMPDIR" in run.stdout
    assert "/proc/nonexistent" in run.stdout
    assert "is not a number of bytes" in run.stdout


HANGS = """\
import time
from alamo_mpi.doctor import examine
from alamo_mpi.doctorcommand import doctor
from alamo_mpi.mpi.world import World

examine.GATHER_S = 1.0
gather = examine._gather

def absent(world):
    if world.rank == 1:
        time.sleep(600)
    return gather(world)

examine._gather = absent
doctor([])
"""


def test_a_rank_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text(HANGS)
    run = mpirun(2, [str(path)], timeout_s=60)
    run.check_clean()
    assert run.rc != 0, str(run)
    assert "broken  messages between the ranks" in run.stdout
