"""A node of a real Slurm goes down under a running program; the last test, for what it leaves."""

from __future__ import annotations

from pathlib import Path

from alamo_mpi.mpi.launcher import find_launcher
from tests.hosts.conftest import ROOT, Hosts
from tests.hosts.test_scripts import Script, stopped
from tests.support.until import until

STOPS = ROOT / "tests" / "hosts" / "stops.py"


def test_a_node_that_goes_down(slurm: Hosts, shared: Path) -> None:
    """Slurm notices, the program saves on the node that is left, and the job is queued again.

    With Open MPI all ranks end as soon as one is gone, before Slurm notices: the script waits then.
    """
    state = shared / "state"
    script = Script(slurm, shared, "nodes.sh", f"{STOPS} {state}")
    ends_at_once = find_launcher().family == "Open MPI"
    if ends_at_once:
        script.replace("alamo-mpi run", "trap 'sleep 100' ERR\nalamo-mpi run")
    script.submit("--nodes=2", "--ntasks-per-node=2", "--requeue", "--open-mode=append")
    until(Path(f"{state}.waits").exists, script.output)
    slurm.kill_node("node2")
    until(
        lambda: script.states() == {"PENDING"},
        lambda: f"{script.states()}\n{script.output()}",
        timeout_s=120,
    )
    if ends_at_once:
        assert "was lost" in script.output(), script.output()
    else:
        assert stopped(state) == ["StopSignal(143) at 50"], script.output()
    left = slurm.run("pgrep", "-f", f"{shared}/[s]tate", timeout_s=30)
    assert left.returncode == 1, left.stdout
