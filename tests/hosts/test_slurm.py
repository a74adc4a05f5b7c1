"""Programs started by a real Slurm."""

from __future__ import annotations

import sys

import pytest

from alamo_mpi.mpi.launcher import find_launcher
from tests.hosts.conftest import ROOT, Hosts

PYTHON = sys.executable
APP = str(ROOT / "tests" / "hosts" / "app.py")
SURVIVES = str(ROOT / "tests" / "hosts" / "survives.py")
SURVIVING = (PYTHON, "-m", "alamo_mpi.cli", "run", "--survive")
FAILS = str(ROOT / "tests" / "hosts" / "fails.py")


@pytest.fixture(scope="module")
def srun() -> list[str]:
    """Srun with the PMI that fits the MPI of this environment."""
    if find_launcher().family == "Open MPI":
        # Slurm's PMIx plugin and Open MPI's library agree on no other security module.
        return ["env", "PMIX_MCA_psec=native", "srun", "--mpi=pmix"]
    return ["srun", "--mpi=pmi2"]


@pytest.mark.parametrize("way", [["-m", "alamo_mpi", APP], [APP]], ids=["module", "plain"])
def test_srun_on_two_nodes(slurm: Hosts, srun: list[str], way: list[str]) -> None:
    run = slurm.run(*srun, "-N", "2", "-n", "4", PYTHON, *way, timeout_s=90)
    assert run.returncode == 0, run
    assert "workers: 3" in run.stdout
    assert "hosts: node1 node2" in run.stdout
    assert "moved: True" in run.stdout


def test_singletons_are_refused(slurm: Hosts) -> None:
    run = slurm.run("srun", "--mpi=none", "-n", "3", PYTHON, "-m", "alamo_mpi", APP, timeout_s=90)
    assert run.returncode not in (0, 124, 137), run
    assert "workers" not in run.stdout
    assert "srun --mpi=" in run.stderr


def test_an_exception_ends_the_step(slurm: Hosts, srun: list[str]) -> None:
    run = slurm.run(*srun, "-n", "3", PYTHON, "-m", "alamo_mpi", FAILS, timeout_s=60)
    assert run.returncode not in (0, 124, 137), run
    assert run.stderr.count("ValueError: not today") == 1


@pytest.mark.skipif("find_launcher().family != 'MPICH'", reason="several hosts: MPICH alone can")
def test_a_program_that_goes_on_without_lost_workers(slurm: Hosts) -> None:
    """A rank on each node, then a whole node."""
    started = ("-n", "6", SURVIVES, "1", "4")
    run = slurm.run("salloc", "-N", "2", "-n", "6", *SURVIVING, *started, timeout_s=100)
    assert run.returncode == 0, run
    assert "RIGHT" in run.stdout, run
    assert run.stderr.count("The others go on without it.") == 2, run
