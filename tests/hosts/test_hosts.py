"""The suites with every rank on a host of its own, over TCP."""

from __future__ import annotations

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alamo_mpi.mpi.launcher import find_launcher
from tests.hosts.conftest import ROOT, Hosts, processes_of
from tests.support.until import until

PYTHON = sys.executable
NEAR = str(ROOT / "tests" / "hosts" / "near.py")
APP = str(ROOT / "tests" / "hosts" / "app.py")
LOST = str(ROOT / "tests" / "hosts" / "lost.py")
OUTLIVES = str(ROOT / "tests" / "hosts" / "outlives.py")
SURVIVES = str(ROOT / "tests" / "hosts" / "survives.py")
ON_THREE = ("-n", "3", "--ppn", "1", "--hosts", "node1,node2,node3", "--")


def test_a_program_on_three_hosts(hosts: Hosts) -> None:
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", APP, timeout_s=60)
    assert run.returncode == 0, run
    # Rank 0 is on the first host and runs no tasks.
    assert "workers: 2" in run.stdout
    assert "moved: True" in run.stdout
    assert "hosts: node2 node3" in run.stdout


def test_what_the_start_says_of_several_hosts(hosts: Hosts) -> None:
    listen = ("env", "ALAMO_LOG=info")
    ranks = ("-n", "4", "--ppn", "2", "--hosts", "node1,node2", "--")
    run = hosts.run(*ranks, *listen, PYTHON, "-m", "alamo_mpi", APP, timeout_s=60)
    assert run.returncode == 0, run
    within = "loads and stores" if find_launcher().family == "MPICH" else "operations of MPI"
    for row in (
        "  ranks        node1 x 2, node2 x 2\n",
        "  idle ranks   look each 1 ms,",
        f" MiB a rank; {within} on a host, operations of MPI between hosts,",
    ):
        assert run.stderr.count(row) == 1, (row, run.stderr)


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


def test_data_moves_between_workers_and_not_through_rank_0(hosts: Hosts) -> None:
    program = str(ROOT / "tests" / "hosts" / "traffic.py")
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", program, timeout_s=90)
    assert run.returncode == 0, run
    lines = dict(re.findall(r"(\w+): (.*)", run.stdout))
    assert set(lines) == {"results", "dictionary"}
    for how, line in lines.items():
        found = re.fullmatch(r"(\d+) made on node2 node3 rank 0 saw (\d+)", line)
        assert found, (how, line)
        moved, seen = int(found[1]) // 2, int(found[2])
        assert seen < moved // 8, (how, line)


@pytest.mark.parametrize("part", ["share", "hammer"])
def test_a_dictionary_of_all_ranks_on_three_hosts(hosts: Hosts, part: str) -> None:
    program = str(ROOT / "tests" / "support" / "ddict_spmd.py")
    run = hosts.run(*ON_THREE, PYTHON, program, part, "2", timeout_s=100)
    assert run.returncode == 0, run
    assert run.stdout.count(f"{part} ok") == 3


def test_the_doctor_between_hosts(hosts: Hosts) -> None:
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi.cli", "doctor", "--json", timeout_s=100)
    assert run.returncode == 0, run
    told = {finding["name"]: finding for finding in json.loads(run.stdout)["findings"]}
    assert told["ranks"]["meaning"] == "3 ranks: node1 x 1, node2 x 1, node3 x 1."
    for target in ("idle", "computing"):
        assert told[f"RMA, between hosts, target {target}"]["verdict"] != "broken"


def test_a_host_that_crashes_ends_the_program(hosts: Hosts, shared: Path) -> None:
    state = shared / "state"
    program = str(ROOT / "tests" / "hosts" / "stops.py")
    command = (PYTHON, "-m", "alamo_mpi", program, str(state))
    with hosts.start(*ON_THREE, *command, timeout_s=60) as run:
        until(Path(f"{state}.waits").exists, lambda: run.poll())
        began = time.monotonic()
        hosts.kill_node("node3")
        stdout, stderr = run.communicate()
    assert time.monotonic() - began < 30, (stdout, stderr)
    assert "done" not in stdout
    assert run.returncode not in (124, 137), (stdout, stderr)
    # Open MPI's launcher says what happened, and returns 0.
    assert run.returncode != 0 or find_launcher().family == "Open MPI", (stdout, stderr)


@pytest.mark.parametrize("victim", [1, 2])
def test_a_lost_rank_is_named_by_its_host(hosts: Hosts, victim: int) -> None:
    """Once, though each host has its witness, with what rank 0's host knows."""
    began = time.monotonic()
    run = hosts.run(*ON_THREE, PYTHON, "-m", "alamo_mpi", LOST, str(victim), timeout_s=90)
    # Open MPI's status for a rank that was killed is 137, as of a run that was ended by its limit.
    assert time.monotonic() - began < 60, run
    assert run.returncode != 0, run
    (said,) = re.findall(r"alamo_mpi: rank .* was lost: .*", run.stderr)
    where = f"rank {victim} (host node{victim + 1}, process "
    assert where in said, said
    assert "killed by signal 9 (SIGKILL). It was running task" in said, said
    assert "'dies'. By then 0 tasks were done, 0 had failed and 2 were unfinished." in said, said


@pytest.mark.skipif("find_launcher().family != 'MPICH'", reason="several hosts: MPICH alone can")
@pytest.mark.parametrize("victims", ["2", "3", "5 1 4"], ids=["first", "second", "several"])
def test_a_program_that_goes_on_without_lost_workers(hosts: Hosts, victims: str) -> None:
    """The first or second worker of a host, then several: everything else goes on."""
    run = hosts.run_surviving(6, 2, SURVIVES, *victims.split(), timeout_s=100)
    assert run.returncode == 0, run
    assert "RIGHT" in run.stdout, run
    assert "hosts node1 node2 node3" in run.stdout, run
    said = re.findall(r"alamo_mpi: rank (\d) .* was lost: .* The others go on", run.stderr)
    assert said == victims.split(), run


@pytest.mark.skipif("find_launcher().family != 'MPICH'", reason="several hosts: MPICH alone can")
def test_nobody_goes_on_without_rank_0(hosts: Hosts) -> None:
    began = time.monotonic()
    run = hosts.run_surviving(6, 2, LOST, "0", timeout_s=60)
    assert time.monotonic() - began < 30, run
    assert run.returncode not in (0, 124), run
    (said,) = re.findall(r"alamo_mpi: rank .* was lost: .*", run.stderr)
    assert "rank 0 (host node1, the main program) was lost: killed by signal 9" in said, said
    assert said.endswith("all ranks end now."), said
    until(lambda: not processes_of(LOST), lambda: processes_of(LOST))


@pytest.mark.skipif("find_launcher().family != 'Open MPI'", reason="MPICH can")
def test_open_mpi_does_not_survive_on_several_hosts(hosts: Hosts) -> None:
    command = ("env", "ALAMO_SURVIVE=1", PYTHON, "-m", "alamo_mpi", SURVIVES)
    run = hosts.run(*ON_THREE, *command, timeout_s=60)
    assert run.returncode == 1, run
    assert "one-sided operations do not survive a lost rank" in run.stderr, run
    assert "RIGHT" not in run.stdout


def test_a_host_that_is_cut_off_ends_the_program(hosts: Hosts, shared: Path) -> None:
    """MPI and its launcher would wait for it; the witnesses say what happened, and end all."""
    waits = shared / "waits"
    command = (PYTHON, "-m", "alamo_mpi", OUTLIVES, str(waits), "1")
    with hosts.start(*ON_THREE, *command, timeout_s=60) as run:
        until(waits.exists, lambda: run.poll())
        began = time.monotonic()
        hosts.pull_cable("node3")
        try:
            stdout, stderr = run.communicate()
        finally:
            hosts.plug_cable("node3")
    assert time.monotonic() - began < 20, (stdout, stderr)
    # Mostly that of the launcher that was killed; Open MPI's may have ended by itself before.
    assert run.returncode not in (0, 124), (run, stdout, stderr)
    (said,) = re.findall(r"alamo_mpi: .* was lost: .*", stderr)
    assert "host node3 was lost: nothing is heard of it" in said, said
    assert "nor of rank 2 there" in said, said
    assert said.endswith("all ranks end now."), said
    until(lambda: not processes_of(str(waits)), lambda: processes_of(str(waits)))


@pytest.mark.skipif("find_launcher().family != 'MPICH'", reason="several hosts: MPICH alone can")
def test_a_program_that_goes_on_without_a_host_that_is_cut_off(hosts: Hosts, shared: Path) -> None:
    waits = shared / "waits"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(hosts.run_surviving, 6, 2, OUTLIVES, str(waits), "2", timeout_s=60)
        until(waits.exists, lambda: running.result(0) if running.done() else "it runs")
        hosts.pull_cable("node3")
        try:
            run = running.result()
        finally:
            hosts.plug_cable("node3")
    assert "lost (4, 'node3') (5, 'node3')" in run.stdout, run
    assert "RIGHT on node1 node1 node2" in run.stdout, run
    assert "host node3 was lost: " in run.stderr, run
    assert "its launcher, which waits for the host that was lost, is killed" in run.stderr, run
    until(lambda: not processes_of(str(waits)), lambda: processes_of(str(waits)))


def test_a_pulled_cable_can_be_ended(hosts: Hosts, shared: Path) -> None:
    """MPI waits for the host; the user's SIGTERM has the program save, then SIGKILL ends it.

    Open MPI's launcher kills what it reaches by itself, and so soon that it may not save.
    """
    state = shared / "state"
    program = str(ROOT / "tests" / "hosts" / "stops.py")
    command = (PYTHON, "-m", "alamo_mpi", program, str(state))
    with hosts.start(*ON_THREE, *command, timeout_s=60) as run:
        until(Path(f"{state}.waits").exists, lambda: run.poll())
        hosts.pull_cable("node3")
        try:
            run.terminate()  # `timeout`, which passes it on and kills five seconds later
            run.wait(30)
        finally:
            hosts.plug_cable("node3")
    if find_launcher().family == "MPICH":
        assert Path(f"{state}.stopped").read_text() == "StopSignal(143) at 50\n"
    # With the cable back, the rank there hears that nobody is left.
    until(lambda: not processes_of(str(state)), lambda: processes_of(str(state)))


def test_a_host_that_is_not_there(hosts: Hosts) -> None:
    where = ("-n", "2", "--ppn", "1", "--hosts", "node1,node9", "--")
    run = hosts.run(*where, PYTHON, "-m", "alamo_mpi", APP, timeout_s=60)
    assert run.returncode not in (0, 124, 137), run
    assert "node9" in run.stderr
    assert "workers" not in run.stdout


def test_the_batch_suite_on_three_hosts(hosts: Hosts) -> None:
    run = hosts.run(
        *ON_THREE,
        *(PYTHON, "-m", "alamo_mpi", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-m", "not slow", "tests/mpi"),
        timeout_s=500,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
