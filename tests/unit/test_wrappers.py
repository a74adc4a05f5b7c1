"""The wrappers of ``launch/``: what the program behind them sees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RANK_VARIABLES = (
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "MPI_LOCALRANKID"),
    *("SLURM_PROCID", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES", "UCX_TLS", "OMPI_MCA_btl"),
)


def wrapped(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return subprocess.run(
        ["bash", f"launch/{command[0]}.sh", *command[1:]],
        cwd=ROOT,
        env={**clean, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def visible(**env: str) -> str:
    done = wrapped("gpu", "printenv", "CUDA_VISIBLE_DEVICES", **env)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("rank", "local", "expected"),
    [("0", "0", ""), ("1", "1", "4"), ("2", "2", "6"), ("3", "0", "4"), ("4", "1", "6")],
)
@pytest.mark.parametrize(
    "names",
    [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("PMI_RANK", "MPI_LOCALRANKID"),
        ("SLURM_PROCID", "SLURM_LOCALID"),
    ],
)
def test_each_worker_sees_one_gpu(
    names: tuple[str, str], rank: str, local: str, expected: str
) -> None:
    assert visible(CUDA_VISIBLE_DEVICES="4,6", **dict(zip(names, (rank, local), strict=True))) == (
        expected
    )


def test_mpiexec_is_asked_before_slurm() -> None:
    """Inside a batch job Slurm's variables are those of the launcher's own daemons."""
    env = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "PMI_RANK": "2", "MPI_LOCALRANKID": "2"}
    assert visible(CUDA_VISIBLE_DEVICES="4,6", **env) == "6"


def test_more_workers_than_gpus_are_refused() -> None:
    done = wrapped("gpu", "true", PMI_RANK="3", MPI_LOCALRANKID="3", CUDA_VISIBLE_DEVICES="4,6")
    assert done.returncode == 1
    assert "rank 3 is worker 2 (from 0) of " in done.stderr
    assert "which has 2 GPUs: start fewer ranks" in done.stderr


@pytest.mark.parametrize("name", ["gpu", "numa"])
def test_without_a_launcher_they_say_where_they_go(name: str) -> None:
    done = wrapped(name, "true")
    assert done.returncode == 2
    assert f"mpiexec -n N launch/{name}.sh python" in done.stderr


def test_numa_runs_the_program() -> None:
    done = wrapped("numa", "echo", "here", PMI_RANK="1", MPI_LOCALRANKID="1")
    assert (done.returncode, done.stdout) == (0, "here\n")


def test_a_fabric_is_named_and_what_is_set_stays() -> None:
    done = wrapped("fabric", "tcp", "printenv", "UCX_TLS", "OMPI_MCA_btl", UCX_TLS="tcp,self")
    assert done.stdout == "tcp,self\ntcp,sm,self\n"


def test_an_unknown_fabric_is_refused() -> None:
    done = wrapped("fabric", "token-ring", "true")
    assert done.returncode == 2
    assert "'token-ring' is no fabric; there are: tcp ucx cxi." in done.stderr
