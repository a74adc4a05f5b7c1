"""The suites with every rank on a host of its own, over TCP."""

from __future__ import annotations

import sys

from tests.hosts.conftest import ROOT, Hosts

PYTHON = sys.executable
APP = str(ROOT / "tests" / "hosts" / "app.py")
ON_THREE = ("-n", "3", "--ppn", "1", "--hosts", "node1,node2,node3", "--")


def test_a_program_on_three_hosts(hosts: Hosts) -> None:
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", APP, timeout_s=60)
    assert run.returncode == 0, run
    # Rank 0 is on the first host and runs no tasks.
    assert "workers: 2" in run.stdout
    assert "moved: True" in run.stdout
    assert "hosts: node2 node3" in run.stdout


def test_an_error_ends_all_hosts(hosts: Hosts) -> None:
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", APP + ".missing", timeout_s=60)
    assert run.returncode not in (0, 124, 137), run


def test_the_batch_suite_on_three_hosts(hosts: Hosts) -> None:
    run = hosts.run(
        *ON_THREE,
        *(PYTHON, "-m", "alamo_mpi", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-m", "not slow", "tests/mpi"),
        timeout_s=500,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
