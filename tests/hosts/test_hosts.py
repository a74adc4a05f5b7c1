"""The suites with every rank on a host of its own, over TCP."""

from __future__ import annotations

import re
import sys

import pytest

from tests.hosts.conftest import ROOT, Hosts

PYTHON = sys.executable
NEAR = str(ROOT / "tests" / "hosts" / "near.py")
APP = str(ROOT / "tests" / "hosts" / "app.py")
ON_THREE = ("-n", "3", "--ppn", "1", "--hosts", "node1,node2,node3", "--")


def test_a_program_on_three_hosts(hosts: Hosts) -> None:
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", APP, timeout_s=60)
    assert run.returncode == 0, run
    # Rank 0 is on the first host and runs no tasks.
    assert "workers: 2" in run.stdout
    assert "moved: True" in run.stdout
    assert "hosts: node2 node3" in run.stdout


@pytest.mark.parametrize("name", ["before", "chain"])
def test_tasks_run_where_their_data_is(hosts: Hosts, name: str) -> None:
    """Placed anyhow, half of the values would cross; the last few may, when a host has no work."""
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", NEAR, timeout_s=100)
    assert run.returncode == 0, run
    found = re.search(rf"{name}: (\d+) of 24 near, ([0-9.]+) crossed", run.stdout)
    assert found is not None, run
    assert int(found[1]) >= 16, run
    assert float(found[2]) <= 0.35, run


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
