"""Jobs that a real Slurm preempts, with and without a time of grace."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts.conftest import ROOT, Hosts
from tests.hosts.test_scripts import ENDED, Script, goes_on, stopped
from tests.support.until import until

pytestmark = pytest.mark.usefixtures("urgent")

STOPS = ROOT / "tests" / "hosts" / "stops.py"


def started(slurm: Hosts, folder: Path, name: str) -> Script:
    """Return a running job of both nodes, whose program has come half way."""
    script = Script(slurm, folder, name, f"{STOPS} {folder / 'state'}")
    script.submit("--nodes=2", "--ntasks-per-node=2", "--requeue", "--open-mode=append")
    # Slurm looks at what is pending when something ends, and else once a minute.
    until((folder / "state.waits").exists, script.shown, timeout_s=120)
    return script


@contextmanager
def preempted(slurm: Hosts, grace_s: int) -> Iterator[None]:
    """Submit a job that wants both nodes, and goes before; it holds them for the block."""
    grace = ["PartitionName=test", f"GraceTime={grace_s}"]
    assert slurm.run("scontrol", "update", *grace, timeout_s=30).returncode == 0
    wants = ["--partition=urgent", "--nodes=2", "--exclusive", "--time=5", "--output=/dev/null"]
    run = slurm.run("sbatch", *wants, "--wrap=exec sleep 300", timeout_s=30)
    assert run.returncode == 0, run
    job = re.findall(r"\d+", run.stdout)[0]

    def state() -> str:
        return slurm.run("squeue", "--noheader", "--job", job, "--format=%T", timeout_s=30).stdout

    try:
        until(lambda: state() == "RUNNING\n", state, timeout_s=120)
        yield
    finally:
        slurm.run("scancel", job, timeout_s=30)
        until(lambda: state() == "", state)


def test_without_grace(slurm: Hosts, shared: Path) -> None:
    """Saved within KillWait; Slurm queues it again, and it goes on when the nodes are free."""
    script = started(slurm, shared, "nodes.sh")
    with preempted(slurm, grace_s=0):
        assert script.states() == {"PENDING"}
        assert "DUE TO PREEMPTION" in script.output()
        assert stopped(shared / "state") == ["StopSignal(143) at 50"], script.output()
    goes_on(slurm, script)


def test_with_grace(slurm: Hosts, shared: Path) -> None:
    """Saved at once, and queued again by the script: for Slurm it is a job that has ended."""
    script = started(slurm, shared, "requeue.sh")
    with preempted(slurm, grace_s=60):
        assert script.states() == {"PENDING"}
        assert "is queued again" in script.output()
        assert stopped(shared / "state") == ["StopSignal(143) at 50"], script.output()
    goes_on(slurm, script)
    # Or the script would queue a second run again that fails by itself.
    assert " PreemptTime=None" in script.shown()


@pytest.mark.skipif(
    not os.environ.get("ALAMO_FAULTS"), reason="a heavier proof, which takes ALAMO_FAULTS=1"
)
def test_with_grace_and_a_script_that_ends(slurm: Hosts, shared: Path) -> None:
    """What a script that does nothing about it becomes: saved, and not queued again."""
    script = started(slurm, shared, "nodes.sh")
    with preempted(slurm, grace_s=60):
        until(lambda: script.states() <= ENDED, script.states)
        assert script.states() == {"FAILED"}
        assert stopped(shared / "state") == ["StopSignal(143) at 50"], script.output()
