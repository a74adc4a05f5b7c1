"""The scripts of ``slurm/``, edited as a user would and submitted to a real Slurm."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.conftest import ROOT, Hosts
from tests.support.until import until

HERE = ROOT / "tests" / "hosts"
APP = str(HERE / "app.py")


GAP_S = 5
ASK_AGAIN_S = 20.0
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


class Script:
    """A script of ``slurm/`` with its three lines edited."""

    def __init__(self, slurm: Hosts, folder: Path, name: str, program: str) -> None:
        text = (ROOT / "slurm" / name).read_text()
        text = text.replace("source .venv/", f"source {sys.prefix}/")
        text = text.replace("launch/gpu.sh", str(ROOT / "launch" / "gpu.sh"))
        assert "app.py" in text
        self._slurm = slurm
        self._path = folder / name
        self._path.write_text(text.replace("app.py", program))
        self.folder = folder
        self.job = ""

    def replace(self, old: str, new: str) -> None:
        """Edit it further."""
        text = self._path.read_text()
        assert old in text
        self._path.write_text(text.replace(old, new))

    def submit(self, *options: str) -> None:
        """Submit it; options of the command line win over those of the script."""
        output = f"--output={self.folder}/out-%a"
        run = self._slurm.run("sbatch", output, "--time=3", *options, str(self._path), timeout_s=30)
        assert run.returncode == 0, run
        self.job = re.findall(r"\d+", run.stdout)[0]

    def run(self, *options: str) -> str:
        """Submit it, wait for its end, and return its output."""
        self.submit(*options)
        until(lambda: self.states() <= ENDED, self.hung, timeout_s=150)
        assert self.states() == {"COMPLETED"}, (self.states(), self.output())
        return self.output()

    def output(self) -> str:
        """Return what the job has written so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("out-*")))

    def hung(self) -> str:
        """Return what can be found out about a job that does not end; its ranks end by that."""
        states, before = self.states(), self.output()
        ps = ["ps", "-eo", "pid,ppid,stat,wchan:20,etimes,args", "--forest"]
        processes = subprocess.run(ps, capture_output=True, text=True, check=True).stdout
        # With PYTHONFAULTHANDLER they write their stacks.
        self._slurm.run("scancel", "--signal=ABRT", self.job, timeout_s=30)
        time.sleep(3)
        stacks = self.output().removeprefix(before)
        return f"{states}\n{before}\n{self.shown()}\n{processes}\n{stacks}"

    def states(self) -> set[str]:
        """Return the state of the job, or of its elements, in Slurm's words."""
        return set(re.findall(r"JobState=(\w+)", self.shown()))

    def shown(self) -> str:
        """Return all that Slurm says of it."""
        return self._slurm.run("scontrol", "show", "job", self.job, timeout_s=30).stdout


@pytest.fixture(scope="module", autouse=True)
def limited(slurm: Hosts) -> Iterator[Script]:
    """A job that runs into the shortest limit that Slurm has, while the other tests run."""
    with tempfile.TemporaryDirectory(prefix=".hosts-", dir=ROOT) as name:
        folder = Path(name)
        script = Script(slurm, folder, "cpu.sh", f"{HERE / 'stops.py'} {folder}/state")
        script.submit("--ntasks-per-node=2", "--time=1")
        yield script


def test_cpu(slurm: Hosts, shared: Path) -> None:
    output = Script(slurm, shared, "cpu.sh", APP).run("--ntasks-per-node=3")
    assert "hosts: node1\n" in output
    assert "workers: 2" in output


def test_nodes(slurm: Hosts, shared: Path) -> None:
    output = Script(slurm, shared, "nodes.sh", APP).run("--nodes=2", "--ntasks-per-node=2")
    assert "hosts: node1 node2" in output
    assert "workers: 3" in output


def test_gpu(slurm: Hosts, shared: Path) -> None:
    """One worker a GPU on both nodes, and a manager with none, whichever way ranks start."""
    script = Script(slurm, shared, "gpu.sh", str(HERE / "gpus.py"))
    output = script.run("--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=2")
    assert "manager sees: ''" in output
    assert "workers: 4" in output
    seen = re.findall(r"worker sees: (\w+) (\d)", output)
    assert seen == [("node1", "0"), ("node1", "1"), ("node2", "0"), ("node2", "1")]


def test_array(slurm: Hosts, shared: Path) -> None:
    script = Script(slurm, shared, "array.sh", APP)
    output = script.run("--array=0-1", "--ntasks-per-node=2")
    assert output.count("moved: True") == 2


def test_hetero(slurm: Hosts, shared: Path) -> None:
    output = Script(slurm, shared, "hetero.sh", APP).run()
    assert "workers: 3" in output
    assert "hosts: node2" in output


def test_jobs(slurm: Hosts, shared: Path) -> None:
    """MPI programs as tasks, on the workers of two nodes and as a step of the job."""
    script = Script(slurm, shared, "jobs.sh", str(HERE / "inner_jobs.py"))
    output = script.run("--nodes=2", "--ntasks-per-node=3")
    assert "pairs: [[2, 2], [2, 2], [2, 2], [2, 2]]" in output
    assert "wide: 5 ['node1', 'node2']" in output
    assert "step: [2, 2]" in output
    assert "crash: SIGSEGV" in output
    assert "after: 8" in output


def test_requeue(slurm: Hosts, shared: Path) -> None:
    """Warned before its limit, the program saves and stops, and goes on in a second run."""
    state = shared / "state"
    script = Script(slurm, shared, "requeue.sh", f"{HERE / 'stops.py'} {state}")
    script.submit("--ntasks-per-node=2")
    until(lambda: Path(f"{state}.waits").exists(), script.output)
    slurm.run("scancel", "--batch", "--signal=USR1", script.job, timeout_s=30)
    goes_on(slurm, script)
    assert stopped(state) == ["KeyboardInterrupt() at 50"]


def test_requeued_by_hand(slurm: Hosts, shared: Path) -> None:
    """Put back in the queue by Slurm itself, as an administrator would: saved, and goes on."""
    state = shared / "state"
    script = Script(slurm, shared, "cpu.sh", f"{HERE / 'stops.py'} {state}")
    script.submit("--ntasks-per-node=2", "--requeue", "--open-mode=append")
    until(lambda: Path(f"{state}.waits").exists(), script.output)
    slurm.run("scontrol", "requeue", script.job, timeout_s=30)
    goes_on(slurm, script)
    assert stopped(state) == ["StopSignal(143) at 50"]


def stopped(state: Path) -> list[str]:
    """Return what has stopped the program, and where; its output may be cut by then."""
    return Path(f"{state}.stopped").read_text().splitlines()


def goes_on(slurm: Hosts, script: Script) -> None:
    """Wait until a requeued job has come to its end in its second run."""

    def first_run_gone() -> bool:
        steps = slurm.run("pgrep", "-f", rf"slurmste[p]d: \[{script.job}\.", timeout_s=30)
        return script.states() == {"PENDING"} and steps.returncode == 1

    # Slurm gives the node two minutes to clean up, and the second run has the same step numbers.
    # With less, the news that the script of the first run has ended may come late, and is taken
    # for the end of the second one: FAILED, after no time.
    until(first_run_gone, script.states)

    asked = float("-inf")

    def second_run_done() -> bool:
        # Asked again: Slurm may set the later start after it shows the job as pending.
        nonlocal asked
        if script.states() == {"PENDING"} and time.monotonic() > asked + ASK_AGAIN_S:
            slurm.run(
                "scontrol", "update", f"JobId={script.job}", f"StartTime=now+{GAP_S}", timeout_s=30
            )
            asked = time.monotonic()
        return "done at 100" in script.output()

    until(second_run_done, lambda: f"{script.shown()}\n{script.output()}", timeout_s=150)
    assert re.findall(r"run (\d) begins at (\d+)", script.output()) == [("0", "0"), ("1", "51")]
    until(lambda: script.states() <= ENDED, script.states)
    assert script.states() == {"COMPLETED"}, script.output()


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_scancel(slurm: Hosts, shared: Path, signal: str) -> None:
    """The job ends, and with it all of its ranks."""
    state = shared / "state"
    script = Script(slurm, shared, "cpu.sh", f"{HERE / 'stops.py'} {state}")
    script.submit("--ntasks-per-node=2")
    until(lambda: Path(f"{state}.waits").exists(), script.output)
    options = ["--signal=INT"] if signal == "INT" else []
    slurm.run("scancel", *options, script.job, timeout_s=30)
    until(lambda: script.states() <= {"FAILED", "CANCELLED"}, script.states)
    name = "KeyboardInterrupt()" if signal == "INT" else "StopSignal(143)"
    assert stopped(state) == [f"{name} at 50"], script.output()
    # Brackets, or it would find itself.
    left = slurm.run("pgrep", "-f", f"{shared}/[s]tate", timeout_s=30)
    assert left.returncode == 1, left.stdout


def test_the_time_limit(slurm: Hosts, limited: Script) -> None:
    """Without a warning asked for, the program has KillWait to save what it has, and does."""
    until(lambda: limited.states() <= ENDED, limited.states, timeout_s=150)
    assert limited.states() == {"TIMEOUT"}
    assert "DUE TO TIME LIMIT" in limited.output()
    assert stopped(limited.folder / "state") == ["StopSignal(143) at 50"], limited.output()
    left = slurm.run("pgrep", "-f", f"{limited.folder}/[s]tate", timeout_s=30)
    assert left.returncode == 1, left.stdout


def test_in_an_allocation_the_number_of_ranks_can_be_given(slurm: Hosts, shared: Path) -> None:
    script = Script(slurm, shared, "cpu.sh", f"-n 5 {APP}")
    assert "workers: 4" in script.run("--ntasks-per-node=3")


def test_mpiexec_inside_a_batch_job(slurm: Hosts, shared: Path) -> None:
    script = Script(slurm, shared, "nodes.sh", APP)
    script.replace("alamo-mpi run", "mpiexec -n 4 python -m alamo_mpi")
    assert "hosts: node1 node2" in script.run("--nodes=2", "--ntasks-per-node=2")


def test_a_warning_before_the_limit(slurm: Hosts, shared: Path) -> None:
    """SIGTERM to the ranks alone, as ``--signal=TERM@120`` sends it, ends the program by itself."""
    state = shared / "state"
    script = Script(slurm, shared, "cpu.sh", f"{HERE / 'stops.py'} {state}")
    script.submit("--ntasks-per-node=2")
    until(lambda: Path(f"{state}.waits").exists(), script.output)
    slurm.run("scancel", "--signal=TERM", script.job, timeout_s=30)
    until(lambda: script.states() == {"FAILED"}, script.states)
    assert "saved at 50" in script.output()
    assert stopped(state) == ["StopSignal(143) at 50"]
