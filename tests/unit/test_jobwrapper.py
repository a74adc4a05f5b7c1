"""What the wrapper of a job's rank does by itself."""

from __future__ import annotations

import os

import pytest

from alamo_mpi.runtime import jobwrapper


def test_cpus_that_cannot_be_had_are_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(OSError, match="not all of the CPUs in its policy") as caught:
        jobwrapper._keep_to((100_000, 100_001))
    assert caught.value.filename == "100000, 100001"
    assert os.sched_getaffinity(0) == before
