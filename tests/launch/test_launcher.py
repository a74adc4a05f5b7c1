"""`alamo_mpi.mpi.launcher`: which launcher is chosen, with which options, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi import launcher
from alamo_mpi.mpi.allocation import Allocation, allocation_of, srun_for
from alamo_mpi.mpi.announced import ranks_of_launcher
from alamo_mpi.mpi.launcher import (
    Launcher,
    check_singleton,
    exec_ranks,
    find_launcher,
    launch_command,
)
from tests.support.mpirun import ROOT

RANK_VARIABLES = (
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"),
    *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"),
)


@pytest.fixture(autouse=True)
def _not_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RANK_VARIABLES, "MPIEXEC"):
        monkeypatch.delenv(name, raising=False)


def _command(folder: Path, name: str, answer: str) -> Path:
    """Make an executable that answers ``--version`` as a launcher does."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    path.chmod(0o755)
    return path


def test_the_launcher_found_is_of_theloaded_library() -> None:
    found = find_launcher()
    answer = subprocess.run(
        [*found.command, "--version"], capture_output=True, text=True, check=True
    ).stdout
    wanted = {"MPICH": "HYDRA", "Open MPI": "Open MPI", "Intel MPI": "Intel"}[found.family]
    assert wanted in answer


def test_finding_it_starts_no_mpi() -> None:
    code = (
        "from alamo_mpi.mpi.launcher import find_launcher; find_launcher()\n"
        "from mpi4py import MPI; print(MPI.Is_initialized())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_launcher_of_another_library_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only PATH is left to look at: first two strangers there, then the right one."""
    monkeypatch.setattr(launcher, "loaded_library", lambda: ("MPICH", ""))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nowhere"))
    _command(tmp_path / "a", "mpiexec", "mpiexec (Open MPI) 5.0.11")
    _command(tmp_path / "b", "mpirun", "prterun (PRRTE) 3.0.0")
    right = _command(tmp_path / "c", "mpiexec", "HYDRA build details:\n    Version: 5.0.2")
    path = os.pathsep.join(str(tmp_path / name) for name in "abc")
    found = find_launcher({"PATH": f"{path}{os.pathsep}{os.defpath}"})
    assert found.command == (str(right),)


def test_not_found_names_all_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "loaded_library", lambda: ("MPICH", ""))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nowhere"))
    stranger = _command(tmp_path / "a", "mpiexec", "mpiexec (Open MPI) 5.0.11")
    silent = tmp_path / "a" / "mpirun"
    silent.write_text("no program")
    silent.chmod(0o755)
    with pytest.raises(LaunchError, match="MPIEXEC") as caught:
        find_launcher({"PATH": str(tmp_path / "a")})
    assert f"{stranger} (Open MPI)" in str(caught.value)
    assert f"{silent} (unknown)" in str(caught.value)


def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_launcher({"MPIEXEC": "srun --mpi=pmi2 'a b'"})
    assert found.command == ("srun", "--mpi=pmi2", "a b")


def test_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ["python", "app.py"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Launcher(["m"], "MPICH").argv(3, program) == ["m", "-n", "3", *program]
    assert Launcher(["m"], "Open MPI").argv(3, program) == [
        *("m", "--oversubscribe", "--allow-run-as-root", "-n", "3"),
        *program,
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--allow-run-as-root" not in Launcher(["m"], "Open MPI").argv(3, program)
    # Whatever MPIEXEC names takes Open MPI's options only if it is Open MPI's.
    assert Launcher(["srun"], "").argv(2, program) == ["srun", "-n", "2", *program]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4"}, ("PMI_SIZE", 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ("OMPI_COMM_WORLD_SIZE", 2)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}, ("SLURM_STEP_NUM_TASKS", 8)),
        # A batch shell is no step, and mpiexec inside a step counts its own ranks.
        ({"SLURM_STEP_NUM_TASKS": "8"}, None),
        # So is the shell of an interactive allocation.
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"}, None),
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0", "PMI_SIZE": "1"},
            ("PMI_SIZE", 1),
        ),
    ],
)
def test_ranks_of_launcher(environ: dict[str, str], expected: tuple[str, int] | None) -> None:
    assert ranks_of_launcher(environ) == expected


def test_singletons_are_refused_with_the_command_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_singleton(1)
    monkeypatch.setenv("PMI_SIZE", "4")
    check_singleton(4)
    with pytest.raises(LaunchError, match="4 separate programs of one rank") as caught:
        check_singleton(1)
    command = re.escape(find_launcher().command[0])
    assert re.search(rf"Use: {command} .*-n 4 python -m alamo_mpi", str(caught.value))


def test_singletons_of_srun_are_told_the_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command(tmp_path, "srun", "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    interface = {"MPICH": "pmi2", "Open MPI": "pmix"}[find_launcher().family]
    with pytest.raises(LaunchError, match=f"Use: .*srun --mpi={interface} .*-n 4 python"):
        check_singleton(1)


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_a_real_launcher_of_another_mpi_is_refused(mpi: str, tmp_path: Path) -> None:
    """N programs start, each stops, and one of them says what to do."""
    other = ROOT / f".venv-{mpi}" / "bin" / "mpiexec"
    if not other.exists() or other.is_relative_to(sys.prefix):
        pytest.skip(f"{other} is not there, or is this MPI's")
    app = tmp_path / "app.py"
    app.write_text("print('SEEN')\n")
    run = subprocess.run(
        [
            "timeout",
            "-k",
            "5",
            "60",
            str(other),
            "-n",
            "3",
            sys.executable,
            "-m",
            "alamo_mpi",
            str(app),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode not in (0, 124, 137), run
    assert "SEEN" not in run.stdout
    assert run.stderr.count("3 separate programs of one rank") == 1, run
    assert re.search(rf"Use: {re.escape(sys.prefix)}\S*mpiexec .*-n 3 python", run.stderr), run


IN_A_JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
HETEROGENEOUS = {
    **{"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"},
    **{"SLURM_NTASKS_HET_GROUP_0": "1", "SLURM_NTASKS_HET_GROUP_1": "3"},
}
SRUN = ["--kill-on-bad-exit=1", "--overlap"]
ALL = frozenset({"none", "pmi2", "pmix", "cray_shasta"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, Allocation("7", (), None)),
        (IN_A_JOB, Allocation("7", (4,), None)),
        ({**IN_A_JOB, "SLURM_CPUS_PER_TASK": "2"}, Allocation("7", (4,), 2)),
        (HETEROGENEOUS, Allocation("7", (1, 3), None)),
        ({"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"}, Allocation("7", (), None)),
    ],
)
def test_allocation_of(environ: dict[str, str], expected: Allocation | None) -> None:
    assert allocation_of(environ) == expected


@pytest.mark.parametrize(
    ("family", "job", "nranks", "expected"),
    [
        ("MPICH", (4,), 4, ["srun", "--mpi=pmi2", *SRUN, "-n", "4"]),
        ("MPICH", (4,), 5, ["srun", "--mpi=pmi2", *SRUN, "--overcommit", "-n", "5"]),
        ("MPICH", (), 5, ["srun", "--mpi=pmi2", *SRUN, "-n", "5"]),
        ("MPICH", (1, 3), 4, ["srun", "--mpi=pmi2", *SRUN, "--het-group=0,1"]),
        ("Cray MPICH", (4,), 4, ["srun", "--mpi=cray_shasta", *SRUN, "-n", "4"]),
        (
            "Open MPI",
            (4,),
            2,
            ["env", "PMIX_MCA_psec=native", "srun", "--mpi=pmix", *SRUN, "-n", "2"],
        ),
        ("Intel MPI", (4,), 4, None),
        ("", (4,), 4, None),
    ],
)
def test_srun_for(
    family: str, job: tuple[int, ...], nranks: int, expected: list[str] | None
) -> None:
    assert srun_for(family, ALL, Allocation("7", job, None), nranks) == expected


def test_srun_is_told_the_cpus_of_a_task_again() -> None:
    command = srun_for("MPICH", ALL, Allocation("7", (4,), 2), 4)
    assert command is not None
    assert command[-3:] == ["--cpus-per-task=2", "-n", "4"]


def test_srun_is_not_used_without_the_interface() -> None:
    assert srun_for("MPICH", {"none", "pmix"}, Allocation("7", (4,), None), 4) is None


def test_a_heterogeneous_job_has_the_ranks_it_has() -> None:
    with pytest.raises(LaunchError, match=r"-n 5 in a heterogeneous job of 4 tasks \(1 \+ 3\)"):
        srun_for("MPICH", ALL, Allocation("7", (1, 3), None), 5)


def test_mpiexec_overrides_srun() -> None:
    environ = {**IN_A_JOB, "MPIEXEC": "my-launcher", "PATH": os.environ["PATH"]}
    assert launch_command(2, ["app"], environ)[0] == "my-launcher"


def test_no_srun_means_the_own_launcher() -> None:
    """Open MPI's fills the first host when it may oversubscribe, so it may not where all fit."""
    environ = {**IN_A_JOB, "PATH": str(Path(sys.prefix) / "bin")}
    command = launch_command(4, ["app"], environ)
    assert command[0] == find_launcher().command[0]
    assert "--oversubscribe" not in command


def test_a_rank_starts_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "1")
    with pytest.raises(LaunchError, match="PMI_SIZE=1"):
        exec_ranks(2, ["python"])


def test_a_launcher_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIEXEC", "/nonexistent/mpiexec")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(LaunchError, match="/nonexistent/mpiexec cannot be started"):
        exec_ranks(2, ["python"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
