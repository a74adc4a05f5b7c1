"""The seed's dictionary example runs, and its powers are right."""

from __future__ import annotations

import re

import pytest

from tests.support.mpirun import ROOT, mpirun


@pytest.mark.parametrize("nranks", [0, 1, 4])
def test_matrix_powers_ddict(nranks: int) -> None:
    script = str(ROOT / "examples" / "matrix_powers_ddict.py")
    run = mpirun(nranks, ["-m", "alamo_mpi", script], timeout_s=120)
    assert not run.timed_out, run
    assert run.rc == 0, run
    results = re.findall(r"^result=m\^(\d+): trace \d+$", run.stdout, re.MULTILINE)
    assert results == [str(power) for power in range(1, 1001)]
    assert "computed 1000 powers" in run.stdout
    assert "all equal the serial computation's" in run.stdout
