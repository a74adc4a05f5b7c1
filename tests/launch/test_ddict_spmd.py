"""All ranks at once on one `DDict`: on one host, and with every rank a host of its own."""

from __future__ import annotations

import pytest

from tests.support.mpirun import APART, ROOT, launcher, mpirun, run_part

pytestmark = pytest.mark.slow

PROGRAM = str(ROOT / "tests" / "support" / "ddict_spmd.py")


def run(nranks: int, part: str, seconds: float, **env: str) -> None:
    run_part(PROGRAM, nranks, part, seconds, **env)


@pytest.mark.parametrize("nranks", [1, 2, 4])
@pytest.mark.parametrize("part", ["share", "hammer"])
def test_on_one_host(nranks: int, part: str) -> None:
    run(nranks, part, 2.0)


@pytest.mark.parametrize("nranks", [1, 3])
@pytest.mark.parametrize("part", ["fill", "churn"])
def test_in_a_tight_pool(nranks: int, part: str) -> None:
    run(nranks, part, 1.0, ALAMO_POOL_BYTES=str(12_000_000 // nranks))


@pytest.mark.parametrize("part", ["share", "hammer"])
def test_between_hosts(part: str) -> None:
    if launcher().family != "MPICH":
        pytest.skip("only MPICH can keep ranks of one host apart without network namespaces")
    run(2, part, 2.0, **APART)


@pytest.mark.parametrize(
    ("nbytes", "message"),
    [
        (str(1 << 40), "it must be 65536 to"),
        (str(60 << 30), "bytes free. Lower ALAMO_POOL_BYTES"),
        ("many", "is not a number of bytes"),
    ],
)
def test_pool_that_cannot_be_is_refused_with_numbers(nbytes: str, message: str) -> None:
    done = mpirun(2, [PROGRAM, "share"], env={"ALAMO_POOL_BYTES": nbytes})
    assert not done.timed_out, done
    assert done.rc != 0
    assert "LaunchError" in done.stderr
    assert message in done.stderr
