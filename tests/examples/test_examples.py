"""Each script of ``examples/`` runs under the environment's MPI and prints what it should."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from tests.support.mpirun import ROOT, mpirun

EXAMPLES = ROOT / "examples"


def run_example(nranks: int, name: str, *arguments: str, launched: bool = True) -> str:
    """Run one example to a clean end and return what it printed; 0 ranks: without a launcher."""
    front = ["-m", "alamo_mpi"] if launched else []
    run = mpirun(nranks, [*front, str(EXAMPLES / name), *arguments], timeout_s=120)
    assert run.rc == 0, str(run)
    if nranks < 2:
        # Open MPI 5.0 leaves the segment of its sm transport behind in any program of one rank,
        # also in one that only imports mpi4py.MPI: removed here, in its stead.
        segments = [name for name in run.leftovers if name.startswith("/dev/shm/sm_segment.")]
        for name in segments:
            Path(name).unlink()
        kept = tuple(name for name in run.leftovers if name not in segments)
        run = dataclasses.replace(run, leftovers=kept)
    run.check_clean()
    return run.stdout


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    untested = [script.name for script in EXAMPLES.glob("*.py") if script.name not in source]
    # The dictionary's example has its test beside the dictionary's own.
    assert [name for name in untested if "ddict" not in name] == []


@pytest.mark.parametrize(
    ("nranks", "launched"), [(0, False), (0, True), (2, True), (4, True), (3, False)]
)
def test_hello(nranks: int, launched: bool) -> None:
    lines = run_example(nranks, "hello.py", launched=launched).splitlines()
    assert "squares: [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]" in lines
    assert lines.count("sum: 285") == 1


def test_matrix_powers_files(tmp_path: Path) -> None:
    printed = run_example(4, "matrix_powers_files.py", str(tmp_path))
    results = re.findall(r"^result=m\^(\d+): trace \d+ by (?:numpy|cupy)$", printed, re.MULTILINE)
    assert results == [str(power) for power in range(1, 1001)]
    assert "computed 1000 powers" in printed
    assert "all equal the serial computation's" in printed
    assert len(list(tmp_path.glob("file_*"))) == 1001


def test_matrix_powers_files_in_a_folder_of_its_own() -> None:
    assert "all equal the serial computation's" in run_example(1, "matrix_powers_files.py")


@pytest.mark.parametrize("tiles", ["files", "ddict"])
def test_tiled_cholesky(tmp_path: Path, tiles: str) -> None:
    dag = tmp_path / "dag.png"
    options = ("--n", "512", "--tile", "64", "--tiles", tiles, "--dag", str(dag))
    printed = run_example(3, "tiled_cholesky.py", *options)
    residuals = [float(text) for text in re.findall(r"residual (\S+)$", printed, re.MULTILINE)]
    assert len(residuals) == 2
    assert max(residuals) < 512 * 2.3e-16
    assert re.search(r"^speed-up: \d+\.\d\d$", printed, re.MULTILINE)
    assert dag.read_bytes().startswith(b"\x89PNG\r\n")


def test_monte_carlo_pi_is_the_same_on_any_number_of_ranks() -> None:
    options = ("--tasks", "24", "--points", "20000")
    estimates = []
    for nranks in (1, 3):
        printed = run_example(nranks, "monte_carlo_pi.py", *options)
        assert len(re.findall(r"^ +\d+ of 24 tasks: pi is about ", printed, re.MULTILINE)) == 8
        (estimate,) = re.findall(r"^pi = (\S+) \+- (\S+), ", printed, re.MULTILINE)
        estimates.append(estimate)
    assert estimates[0] == estimates[1]
    value, error = map(float, estimates[0])
    assert abs(value - math.pi) < 4 * error


@pytest.mark.parametrize("nranks", [1, 2, 4])
def test_existing_mpi_code(nranks: int) -> None:
    lines = run_example(nranks, "existing_mpi_code.py", launched=False).splitlines()
    for step in range(2):
        mean = (nranks - 1) / 2 + 1 + step
        assert f"step {step}: {nranks} tasks, mean {mean:.6f}" in lines
        assert f"step {step}: by Allreduce,  mean {mean:.6f}" in lines
    assert f"all {nranks} ranks went through 2 steps" in lines
