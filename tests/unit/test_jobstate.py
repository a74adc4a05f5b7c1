"""When a job has failed, and who is to blame."""

from __future__ import annotations

import pytest

from alamo_mpi.core.jobstate import PATIENCE_S, JobState
from alamo_mpi.core.launch import choose_launch, scrubbed


def running(size: int = 3, *, initialized: str = "", seen: bool = True) -> JobState:
    state = JobState(size, seen=seen)
    state.initialized |= {int(rank) for rank in initialized}
    return state


def test_statuses_of_ranks_that_end_by_themselves_are_no_failure() -> None:
    state = running(initialized="012")
    for rank in range(3):
        state.ended(rank, 5, rank * 0.1)  # as after exit(5) everywhere, without MPI_Finalize
        state.check(rank * 0.1)
    state.check(100.0)
    assert (state.over, state.statuses, state.fault) == (True, [5, 5, 5], None)


def test_a_signal_fails_the_job_and_what_follows_does_not_count() -> None:
    state = running()
    state.ended(1, -11, 0.0)
    state.ended(0, -9, 0.1)
    assert state.fault is not None
    assert state.fault[::2] == (1, -11)
    assert not state.over


@pytest.mark.parametrize(
    ("initialized", "finalized", "why"),
    [
        ("012", set(), "without MPI_Finalize"),
        ("02", set(), "before MPI_Init"),
        ("012", {1}, None),
        ("", set(), None),
    ],
    ids=["left", "early", "finalized", "no MPI"],
)
@pytest.mark.parametrize("status", [0, 3])
def test_who_leaves_the_others_is_blamed_when_they_have_waited(
    initialized: str, finalized: set[int], why: str | None, status: int
) -> None:
    state = running(initialized=initialized)
    state.finalized |= finalized
    state.ended(1, status, 10.0)
    state.check(10.0 + 0.9 * PATIENCE_S)
    assert state.fault is None
    state.check(10.0 + PATIENCE_S)
    if why is None:
        assert state.fault is None
    else:
        assert state.fault is not None
        assert state.fault[::2] == (1, status)
        assert why in state.fault.did


def test_others_may_call_mpi_init_long_after_one_has_ended() -> None:
    state = running()
    state.ended(1, 0, 0.0)
    state.check(50.0)
    assert state.fault is None
    state.initialized.add(0)
    state.check(50.1)
    assert state.fault is not None
    assert state.fault.rank == 1


def test_where_mpi_is_not_seen_a_status_is_suspect() -> None:
    state = running(seen=False)
    state.ended(0, 0, 0.0)
    state.ended(1, 3, 0.0)
    state.check(PATIENCE_S)
    assert state.fault is not None
    assert state.fault[::2] == (1, 3)


def test_a_launcher_ends_the_others_for_what_one_did() -> None:
    state = running(seen=False)
    state.ended(1, 9, 0.0)
    state.ended(0, -15, 0.01, told=True)
    assert state.fault is not None
    assert state.fault[::2] == (1, 9)


def test_a_launcher_ends_all_and_nobody_knows_why() -> None:
    state = running(seen=False)
    state.ended(0, -15, 0.0, told=True)
    assert state.fault is not None
    assert state.fault.rank == -1


def test_what_a_launcher_told_a_rank_is_kept_from_its_children() -> None:
    environ = {
        "PATH": "/bin",
        "PMI_RANK": "1",
        "PMI_FD": "7",
        "PMIX_RANK": "1",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_MCA_btl": "tcp",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "SLURM_JOB_ID": "5",
        "SLURM_PROCID": "1",
        "SLURM_STEP_ID": "0",
        "MPI_LOCALRANKID": "0",
        "MPIR_CVAR_NOLOCAL": "1",
    }
    kept = {"PATH", "OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT", "SLURM_JOB_ID", "MPIR_CVAR_NOLOCAL"}
    assert set(scrubbed(environ)) == kept


@pytest.mark.parametrize(
    ("family", "in_slurm", "launch"),
    [
        ("MPICH", False, "pmi"),
        ("MPICH", True, "pmi"),
        ("Open MPI", False, "mpiexec"),
        ("Open MPI", True, "srun"),
        ("", False, "mpiexec"),
    ],
)
def test_which_way_is_taken_where_nobody_asked(family: str, in_slurm: bool, launch: str) -> None:
    assert choose_launch(family, in_slurm=in_slurm) == launch
