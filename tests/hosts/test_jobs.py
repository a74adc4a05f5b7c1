"""Jobs whose ranks are on several hosts, in each way that can be had without ssh."""

from __future__ import annotations

import os
import sys

import pytest

from alamo_mpi.mpi.launcher import find_launcher
from tests.hosts.conftest import ROOT, Hosts

PYTHON = sys.executable
APP = str(ROOT / "tests" / "hosts" / "jobs_app.py")
MPICH = find_launcher().family == "MPICH"


@pytest.mark.skipif(
    not MPICH and (os.cpu_count() or 1) < 5,
    reason="needs a core for each rank with Open MPI, whose ranks spin and starve one another",
)
def test_jobs_on_three_hosts(hosts: Hosts) -> None:
    launches = ["auto", "spawn", "ranks"] if MPICH else ["ranks"]
    where = ("-n", "5", "--ppn", "2", "--hosts", "node1,node2,node3", "--")
    run = hosts.run(*where, PYTHON, "-m", "alamo_mpi", APP, *launches, timeout_s=90)
    assert run.returncode == 0, run
    assert "hosts: node1 node2 node3" in run.stdout
    assert "spread 2 on 2\nspread 3 on 3\npacked 3 on 2\n" in run.stdout
    assert "on node1\non node2\non node3\n" in run.stdout
    assert run.stdout.count("launch: ") == len(launches)
    assert run.stdout.count("crash: SIGSEGV") == len(launches) - 1


def test_jobs_inside_a_slurm_step(slurm: Hosts) -> None:
    launches = ["auto", "srun", "ranks"]
    start = ["srun", "--mpi=pmi2"]
    if not MPICH:
        start = ["env", "PMIX_MCA_psec=native", "srun", "--mpi=pmix"]
    run = slurm.run(
        *start, "-N", "2", "-n", "4", PYTHON, "-m", "alamo_mpi", APP, *launches, timeout_s=90
    )
    assert run.returncode == 0, run
    assert "hosts: node1 node2" in run.stdout
    assert run.stdout.count("launch: ") == len(launches)
    assert run.stdout.count("crash: SIGSEGV") == len(launches) - 1
