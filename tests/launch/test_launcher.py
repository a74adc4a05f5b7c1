"""`alamo_mpi.mpi.launcher`: which launcher is chosen, with which options, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi import launcher
from alamo_mpi.mpi.launcher import (
    Launcher,
    check_singleton,
    exec_ranks,
    find_launcher,
    ranks_of_launcher,
)

RANK_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID")


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


def test_the_launcher_found_is_of_the_loaded_library() -> None:
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
    monkeypatch.setattr(launcher, "_loaded_library", lambda: ("MPICH", ""))
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
    monkeypatch.setattr(launcher, "_loaded_library", lambda: ("MPICH", ""))
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
    monkeypatch.delenv("PMI_SIZE")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(LaunchError, match="srun --mpi=pmi2 -n 4"):
        check_singleton(1)


def test_a_rank_starts_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "1")
    with pytest.raises(LaunchError, match="PMI_SIZE=1"):
        exec_ranks(2, ["python"])


def test_a_launcher_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIEXEC", "/nonexistent/mpiexec")
    with pytest.raises(LaunchError, match="/nonexistent/mpiexec cannot be started"):
        exec_ranks(2, ["python"])
