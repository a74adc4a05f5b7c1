"""The doctor's judgement, its report and its watchdog; `tests/launch` has it examine real ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alamo_mpi.doctor.children import run_bounded
from alamo_mpi.doctor.facts import HostFacts, RankFacts, RmaTimes, SpawnOutcome
from alamo_mpi.doctor.judge import (
    judge_hang,
    judge_launcher,
    judge_ranks,
    judge_rma,
    judge_spawn,
)
from alamo_mpi.doctor.local import host_facts
from alamo_mpi.doctor.report import (
    BROKEN,
    GOOD,
    SLOW,
    Finding,
    as_json,
    as_text,
    status_of_findings,
)
from alamo_mpi.mpi.probe import LibraryFacts

LIBRARY = LibraryFacts("MPICH", "MPICH 5", "/lib/libmpi.so", "4.1.2", (4, 1), "MPI_THREAD_MULTIPLE")
HOST = HostFacts("a", 8, 8 << 30, 8 << 30, -1, "/tmp", "", (), None)
RANK = RankFacts(LIBRARY, HOST, 0.0)


def verdict(name: str, *ranks: RankFacts) -> Finding:
    return next(finding for finding in judge_ranks(ranks) if finding.name == name)


def library(**changed: object) -> RankFacts:
    return RANK._replace(library=LIBRARY._replace(**changed))


def host(**changed: object) -> RankFacts:
    return RANK._replace(host=HOST._replace(**changed))


def test_all_is_well() -> None:
    findings = judge_ranks([RANK, RANK])
    assert {finding.verdict for finding in findings} == {GOOD}
    assert not any(finding.remedy for finding in findings)
    assert status_of_findings(findings) == 0


@pytest.mark.parametrize(
    ("name", "ranks", "expected", "says"),
    [
        ("MPI and mpi4py", [RANK, library(version="MPICH 4")], BROKEN, "rank 1 has MPICH 4"),
        ("MPI and mpi4py", [library(mpi4py="3.1.6")], BROKEN, "mpi4py 4.1 and MPI 3.1 are needed"),
        ("MPI and mpi4py", [library(standard=(3, 0))], BROKEN, "are needed"),
        ("MPI and mpi4py", [library(family="")], SLOW, "not an MPI that is known"),
        ("threads", [RANK, library(thread_level="MPI_THREAD_SINGLE")], BROKEN, "SINGLE on rank 1"),
        ("ranks", [RANK], SLOW, "One rank"),
        ("ranks", [host(cpus=1)] * 2, SLOW, "More ranks than processors on a (2 ranks, 1"),
        ("/dev/shm", [host(shm_free=100 << 20)] * 2, SLOW, "100 MiB of 8.0 GiB free on a"),
        ("/dev/shm", [host(shm_free=1 << 20)] * 2, BROKEN, "cannot be made"),
        ("TMPDIR", [RANK, host(name="b", tmpdir_error="No space")], BROKEN, "on b cannot be writ"),
        ("memlock", [host(memlock=1 << 16)], SLOW, "0 MiB may be pinned on a"),
        ("GPUs", [host(gpus=("0",), visible_gpus=None)] * 3, SLOW, "a: GPU 0 ranks 0, 1, 2"),
        ("clocks", [RANK, RANK._replace(clock_offset_s=-0.5)], SLOW, "is -500 ms off"),
    ],
)
def test_what_is_found(name: str, ranks: list[RankFacts], expected: str, says: str) -> None:
    finding = verdict(name, *ranks)
    assert finding.verdict == expected
    assert says in finding.meaning
    assert finding.remedy


def test_a_gpu_for_each_worker_is_good() -> None:
    ranks = [host(visible_gpus=""), host(visible_gpus="0"), host(visible_gpus="1")]
    finding = verdict("GPUs", *ranks)
    assert finding == Finding("GPUs", GOOD, "a: GPU 0 rank 1; a: GPU 1 rank 2.")


@pytest.mark.parametrize(
    ("where", "seconds", "correct", "expected"),
    [
        ("one host", 2e-6, True, GOOD),
        ("one host", 2e-3, True, SLOW),
        ("between hosts", 2e-3, True, GOOD),
        ("between hosts", 2e-2, True, SLOW),
        ("between hosts", 2e-6, False, BROKEN),
    ],
)
def test_rma(where: str, seconds: float, correct: bool, expected: str) -> None:
    times = RmaTimes(where, "idle", 1e-6, 1e-6, seconds, 1e-6, correct)
    finding = judge_rma(times)
    assert finding.verdict == expected
    assert bool(finding.remedy) == (expected != GOOD)


@pytest.mark.parametrize(
    ("announced", "size", "expected"),
    [(None, 1, GOOD), (("PMI_SIZE", 4), 4, GOOD), (("PMI_SIZE", 4), 1, BROKEN)],
)
def test_launcher(announced: tuple[str, int] | None, size: int, expected: str) -> None:
    assert judge_launcher(announced, size, "mpiexec -n 4").verdict == expected


def test_spawn_is_never_broken() -> None:
    outcomes = [SpawnOutcome(True, 1, ""), SpawnOutcome(True, 9, ""), SpawnOutcome(False, 1, "x")]
    assert [judge_spawn(outcome).verdict for outcome in outcomes] == [GOOD, SLOW, SLOW]


def test_the_report_has_each_finding_and_a_summary() -> None:
    findings = [Finding("a", GOOD, "Fine."), Finding("long name", BROKEN, "word " * 40, "Mend it.")]
    lines = as_text(findings).splitlines()
    assert lines[0] == "good    a          Fine."
    assert lines[1].startswith("broken  long name  word")
    assert "-> Mend it." in lines[-2]
    assert lines[-1] == "1 good, 1 broken"
    assert max(map(len, lines)) <= 96
    told = json.loads(as_json(findings))
    assert told["status"] == 1
    assert told["findings"][0] == {"name": "a", "verdict": GOOD, "meaning": "Fine.", "remedy": ""}


def test_host_facts_are_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    facts = host_facts()
    assert facts.cpus >= 1
    assert (facts.tmpdir, facts.tmpdir_error) == (str(tmp_path), "")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert host_facts().tmpdir_error == "No such file or directory"


def test_a_child_knows_nothing_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_num_procs", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_MCA_btl", "tcp")
    program = "import os; print(*sorted(n for n in os.environ if n[:4] in ('PMI_','OMPI','SLUR')))"
    status, said = run_bounded([sys.executable, "-c", program], limit_s=30)
    assert status == 0
    told = said.split()
    assert "OMPI_MCA_btl" in told
    assert not {"PMI_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_num_procs", "SLURM_JOB_ID"} & set(
        told
    )


def test_a_child_that_hangs_is_ended_with_its_children() -> None:
    status, said = run_bounded(["sh", "-c", "echo here; sleep 600 & wait"], 0.1)
    assert (status, said) == (None, "here\n")


def test_a_child_that_cannot_be_started_is_told() -> None:
    status, said = run_bounded(["/nonexistent/mpiexec"], 1.0)
    assert status == 127
    assert "/nonexistent/mpiexec cannot be started" in said


HANGS = """
import signal
from alamo_mpi.doctor.report import Finding, GOOD, as_text
from alamo_mpi.doctor.watchdog import Watchdog
found = [Finding("first", GOOD, "Fine.")]
with Watchdog(found, lambda findings: print(as_text(findings), end="")) as watchdog:
    watchdog.stage("quick", 30.0)
    watchdog.stage("second", 0.05)
    signal.pause()
"""


def test_a_stage_that_hangs_is_reported_not_suffered() -> None:
    run = subprocess.run(
        [sys.executable, "-c", HANGS],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0].startswith("good    first")
    assert lines[1].startswith("broken  second")
    assert judge_hang("second", 0.05).meaning.startswith("It did not end within 0.05 s")
