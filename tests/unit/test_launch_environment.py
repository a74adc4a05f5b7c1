"""What a program that a rank starts sees of the launcher's environment: the job, not the rank."""

from __future__ import annotations

import pytest

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.mpi.announced import ranks_of_launcher, speaks_for_all

RANK = [
    {
        "PMI_RANK": "1",
        "PMI_SIZE": "4",
        "PMI_FD": "9",
        "MPI_LOCALRANKID": "1",
        "HYDI_CONTROL_FD": "7",
    },
    {
        "PMIX_RANK": "1",
        "PMIX_NAMESPACE": "n",
        "OMPI_COMM_WORLD_SIZE": "4",
        "PRTE_MCA_ess_base": "x",
    },
    {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"},
]
JOB = {
    "PATH": "/bin",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CONF": "/etc/slurm.conf",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMP_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0",
    "MPIR_CVAR_NOLOCAL": "1",
}


@pytest.mark.parametrize("marks", RANK)
def test_the_marks_of_a_rank_go_and_what_describes_the_job_stays(marks: dict[str, str]) -> None:
    assert scrubbed({**JOB, **marks}) == JOB
    assert ranks_of_launcher(scrubbed({**JOB, **marks})) is None


def test_a_process_without_marks_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert speaks_for_all()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not speaks_for_all()
