"""Several real hosts on one machine, by the test bed's scripts; skipped where there are none."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from alamo_mpi.mpi.launcher import find_launcher

ROOT = Path(__file__).resolve().parents[2]
#: Slurm's configuration, written by slurm-up for all nodes; one line a thing.
SLURM_CONF = Path("/etc/slurm/slurm.conf")
PREEMPTION = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=60 State=UP
"""
#: Folder with netns-cluster and slurm-up; `ALAMO_TESTBED` names another one.
TESTBED = Path(os.environ.get("ALAMO_TESTBED", ROOT.parent / "shared" / "testbed"))


class Hosts:
    """Hosts that commands can be run on."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command = command
        self._env = env

    def run(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command on the hosts; kills it, and fails, past the time limit."""
        with self.start(*arguments, timeout_s=timeout_s) as run:
            stdout, stderr = run.communicate()
        return subprocess.CompletedProcess(run.args, run.returncode, stdout, stderr)

    def run_surviving(
        self, nranks: int, per_host: int, *program: str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a program by ``alamo-mpi run --survive``, from outside of the hosts."""
        inner = ["env", f"MPIEXEC={self._env['MPIEXEC']}", *self._command]
        launcher = shlex.join([*inner, "--ppn", str(per_host)])
        command = [sys.executable, "-m", "alamo_mpi.cli", "run", "--survive", "-n", str(nranks)]
        return subprocess.run(
            ["timeout", "-k", "5", str(timeout_s), *command, *program],
            cwd=ROOT,
            env={**self._env, "MPIEXEC": launcher},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    def start(self, *arguments: str, timeout_s: float = 300) -> subprocess.Popen[str]:
        """Start a command on the hosts; it is killed past the time limit."""
        return subprocess.Popen(
            ["timeout", "-k", "5", str(timeout_s), *self._command, *arguments],
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def kill_node(self, name: str) -> None:
        """Kill every process on a host, as its crash would."""
        self._cluster("kill-node", name)

    def pull_cable(self, name: str) -> None:
        """Take a host off the network; its processes go on."""
        self._cluster("link", name, "down")

    def plug_cable(self, name: str) -> None:
        """Put it back."""
        self._cluster("link", name, "up")

    def _cluster(self, *words: str) -> None:
        script = str(TESTBED / "netns-cluster")
        subprocess.run([script, *words], env=self._env, check=True, capture_output=True)


def _environment() -> dict[str, str]:
    env = dict(os.environ)
    # For more ranks than cores on one host; here it would put all ranks on the first.
    env.pop("PRTE_MCA_rmaps_default_mapping_policy", None)
    # As `launch/fabric.sh tcp` does: Open MPI would try UCX first, which is slow over TCP.
    env |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,sm,self", "OMPI_MCA_osc": "^ucx"}
    return env


def _need(script: str) -> Path:
    if os.geteuid() != 0:
        pytest.skip("several hosts on one machine need network namespaces, and these need root")
    path = TESTBED / script
    if not path.exists():
        pytest.skip(f"no {script} in {TESTBED}; name its folder by ALAMO_TESTBED")
    return path


def _up_and_down(up: list[str], down: list[str], env: dict[str, str]) -> Iterator[None]:
    made = subprocess.run(up, env=env, capture_output=True, text=True, timeout=300, check=False)
    try:
        assert made.returncode == 0, made.stderr
        yield
    finally:
        subprocess.run(down, env=env, capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Three hosts; `Hosts.run` takes the arguments of ``netns-cluster mpiexec``."""
    script = str(_need("netns-cluster"))
    env = _environment()
    # A cluster of this run's own, so that another one on the machine is left alone.
    env["NETNS_CLUSTER"] = f"alamo-{os.getpid()}"
    env["MPIEXEC"] = find_launcher().command[0]
    # The tests' own temporary files must be seen from every host.
    for _ in _up_and_down([script, "up", "-n", "3", "--tmp", "shared"], [script, "down"], env):
        yield Hosts([script, "mpiexec"], env)


def processes_of(words: str) -> list[str]:
    """Return the command lines, on whichever host, that have these words."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if words in line]


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that all hosts see: their ``/tmp`` is their own."""
    with tempfile.TemporaryDirectory(prefix=".hosts-", dir=ROOT) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Hosts]:
    """A Slurm of two nodes; `Hosts.run` runs a command on the first.

    Each node has a ``/tmp`` of its own: Slurm's PMIx keeps sockets there under equal names.
    """
    _need("slurm-up")
    env = _slurm_environment()
    # Job numbers begin anew in each run: what Slurm remembers of them must not be older.
    subprocess.run(_SLURM_DOWN, env=env, capture_output=True, timeout=60, check=False)
    for _ in _up_and_down(_SLURM_UP, _SLURM_DOWN, env):
        yield Hosts([str(TESTBED / "slurm-sh")], env)


_SLURM_UP = [str(TESTBED / "slurm-up"), "-n", "2", "-c", "8"]
_SLURM_DOWN = [str(TESTBED / "slurm-down"), "--purge"]


def _slurm_environment() -> dict[str, str]:
    return {**_environment(), "NETNS_CLUSTER": "slurm"}  # as slurm-up calls it


def slurm_again() -> None:
    """Make the nodes of the Slurm that is up anew."""
    env = _slurm_environment()
    for command in (_SLURM_DOWN, _SLURM_UP):
        subprocess.run(command, env=env, capture_output=True, timeout=120, check=True)


@pytest.fixture
def urgent(slurm: Hosts) -> Iterator[None]:
    """A second partition, ``urgent``, whose jobs preempt those of the other one."""
    before = SLURM_CONF.read_text()

    def configure(text: str) -> None:
        SLURM_CONF.write_text(text)
        run = slurm.run("scontrol", "reconfigure", timeout_s=30)
        assert run.returncode == 0, run

    configure(before + PREEMPTION)
    yield
    configure(before)
