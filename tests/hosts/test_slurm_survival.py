"""A node of a real Slurm is taken from a program that goes on without it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alamo_mpi.mpi.launcher import find_launcher
from tests.hosts.conftest import ROOT, Hosts, slurm_again
from tests.support.until import until

OUTLIVES = str(ROOT / "tests" / "hosts" / "outlives.py")
RUN = (sys.executable, "-m", "alamo_mpi.cli", "run", "--survive", "-n", "6", OUTLIVES)
ALLOCATION = ("salloc", "-N", "2", "--ntasks-per-node=3", "--no-kill")

pytestmark = pytest.mark.skipif(
    find_launcher().family != "MPICH", reason="several hosts: MPICH alone can"
)


@pytest.fixture
def fresh(slurm: Hosts) -> Iterator[Hosts]:
    """A Slurm both of whose nodes are up, as they are again afterwards."""
    slurm_again()
    yield slurm
    slurm_again()


#: Slurm takes most of a minute to notice, so the crash is for the heavier proofs alone.
WAYS = {"cable": Hosts.pull_cable, "crash": Hosts.kill_node}
TAKEN = list(WAYS) if os.environ.get("ALAMO_FAULTS") else ["cable"]


@pytest.mark.parametrize("take", [WAYS[way] for way in TAKEN], ids=TAKEN)
def test_a_node_is_lost(fresh: Hosts, shared: Path, take: Callable[[Hosts, str], None]) -> None:
    waits = shared / "waits"
    with fresh.start(*ALLOCATION, *RUN, str(waits), "3", timeout_s=120) as run:
        until(waits.exists, lambda: run.poll())
        take(fresh, "node2")
        stdout, stderr = run.communicate()
    assert run.returncode == 0, (stdout, stderr)
    assert "lost (3, 'node2') (4, 'node2') (5, 'node2')" in stdout, (stdout, stderr)
    assert "RIGHT on node1 node1" in stdout, (stdout, stderr)
    assert stderr.count("host node2 was lost: ") == 1, stderr
    assert subprocess.run(["pgrep", "-f", str(waits)], check=False).returncode == 1
