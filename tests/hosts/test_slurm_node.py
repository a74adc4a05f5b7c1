"""A node of a real Slurm goes down under a running program; the last test, for what it leaves."""

from __future__ import annotations

from pathlib import Path

from tests.hosts.conftest import ROOT, Hosts
from tests.hosts.test_scripts import Script, stopped
from tests.support.until import until

STOPS = ROOT / "tests" / "hosts" / "stops.py"


def test_a_node_that_goes_down(slurm: Hosts, shared: Path) -> None:
    """Slurm notices, the program saves on the node that is left, and the job is queued again."""
    state = shared / "state"
    script = Script(slurm, shared, "nodes.sh", f"{STOPS} {state}")
    script.submit("--nodes=2", "--ntasks-per-node=2", "--requeue", "--open-mode=append")
    until(Path(f"{state}.waits").exists, script.output)
    slurm.kill_node("node2")
    until(lambda: script.states() == {"PENDING"}, script.states, timeout_s=120)
    assert stopped(state) == ["StopSignal(143) at 50"], script.output()
    left = slurm.run("pgrep", "-f", f"{shared}/[s]tate", timeout_s=30)
    assert left.returncode == 1, left.stdout
