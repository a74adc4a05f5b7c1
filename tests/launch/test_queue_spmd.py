"""All ranks at once on one `Queue`: on one host, and with every rank a host of its own."""

from __future__ import annotations

import os

import pytest

from tests.support.mpirun import APART, ROOT, launcher, run_part

pytestmark = pytest.mark.slow

PROGRAM = str(ROOT / "tests" / "support" / "queue_spmd.py")


def run(nranks: int, part: str, seconds: float, **env: str) -> None:
    run_part(PROGRAM, nranks, part, seconds, **env)


@pytest.mark.parametrize("nranks", [1, 2, 4])
@pytest.mark.parametrize("part", ["hammer", "bounded", "stream"])
def test_on_one_host(nranks: int, part: str) -> None:
    run(nranks, part, 1.0)


@pytest.mark.parametrize("nranks", [1, 3])
def test_in_a_tight_pool(nranks: int) -> None:
    run(nranks, "tight", 1.0, ALAMO_POOL_BYTES=str(12_000_000 // nranks))


@pytest.mark.parametrize("part", ["hammer", "bounded", "stream"])
def test_between_hosts(part: str) -> None:
    if launcher().family != "MPICH":
        pytest.skip("only MPICH can keep ranks of one host apart without network namespaces")
    run(3, part, 1.5, **APART)


def test_item_of_three_gibibytes() -> None:
    """In the pool and with the consumer; more than the memory of one rank, less than of two."""
    room = os.statvfs("/dev/shm")
    shm_gib = room.f_bavail * room.f_frsize / (1 << 30)
    with open("/proc/meminfo") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if shm_gib < 5 or kib < 9 << 20:
        free = f"{shm_gib:.1f} and {kib / (1 << 20):.1f} GiB are free"
        pytest.skip(f"needs 5 GiB of /dev/shm and 9 GiB of memory: {free}")
    run(2, "gibibytes", 0.0, ALAMO_POOL_BYTES=str(2 << 30))
