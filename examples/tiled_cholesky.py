"""A tiled Cholesky factorisation: a sequential loop nest that runs as a parallel graph of tasks.

    mpiexec -n 3 python -m alamo_mpi examples/tiled_cholesky.py [--n 4096] [--tile 512]
        [--dag cholesky.png] [--dir FOLDER]

The lower triangle of a symmetric positive definite matrix is cut into square tiles, one file each.
`factorise` is the textbook's loop nest; it says for every task which tiles it reads and which it
writes, and nothing about order.  The order follows from the sequence of the list and from the
hazards between its accesses, so all that the mathematics leaves independent runs side by side.

The program factorises the same matrix on one worker and then on all of them, checks the residual
``||A - L L^T|| / ||A||`` (Frobenius norms) of both, and prints the speed-up.  With several hosts,
``--dir`` must name a folder that all of them share.

Every worker computes with one BLAS thread, or the "one worker" would use all cores through
NumPy.  ``OMP_NUM_THREADS=1 mpiexec ...`` sets that for any BLAS; without it, `one_blas_thread`
sets it in each worker for OpenBLAS, with which NumPy's own packages come.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alamo_mpi import Batch, Task

Matrix = NDArray[np.float64]


def one_blas_thread() -> None:
    """Limit this process's BLAS to one thread, unless the environment has done so."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # libraries loaded later obey; and this runs once
    with open("/proc/self/maps") as maps:
        libraries = {line.split()[-1] for line in maps if "openblas" in line}
    for path in libraries:
        library = ctypes.CDLL(path)
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            setter = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
            if setter is not None:
                setter(1)
                break


# ------------------------------------------------------------------------------------- tiles


def tile(i: int, j: int) -> Path:
    """Return the name of the file of the tile in row `i`, column `j`."""
    return Path(f"tile_{i}_{j}.npy")


def spd_matrix(n: int) -> Matrix:
    """Return a symmetric positive definite matrix, the same one each time."""
    random = np.random.default_rng(7).standard_normal((n, n))
    random += random.T
    random[np.diag_indices(n)] += 4.0 * np.sqrt(n)  # the spectrum without it is within 2.9 sqrt(n)
    return random


def scatter(matrix: Matrix, folder: Path, nb: int) -> None:
    """Write the lower triangle's tiles of order `nb` into `folder`."""
    for i in range(len(matrix) // nb):
        for j in range(i + 1):
            np.save(folder / tile(i, j), matrix[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb])


def gather(folder: Path, ntiles: int, nb: int) -> Matrix:
    """Read the tiles back into one lower triangular matrix."""
    lower = np.zeros((ntiles * nb, ntiles * nb))
    for i in range(ntiles):
        for j in range(i + 1):
            lower[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb] = np.load(folder / tile(i, j))
    return lower


# ----------------------------------------------------------------------- what the tasks compute


def potrf(folder: Path, k: int) -> None:
    """Factorise a diagonal tile in place: ``L L^T = A``."""
    one_blas_thread()
    np.save(folder / tile(k, k), np.linalg.cholesky(np.load(folder / tile(k, k))))


def trsm(folder: Path, i: int, k: int) -> None:
    """Solve ``X L^T = A`` in place for a tile below the diagonal tile ``L``."""
    one_blas_thread()
    lower, right = np.load(folder / tile(k, k)), np.load(folder / tile(i, k))
    solve_right(lower, right)
    np.save(folder / tile(i, k), right)


def solve_right(lower: Matrix, right: Matrix) -> None:
    """Overwrite `right` with ``right L^-T``, by halves, so that matrix products do the work."""
    n = len(lower)
    if n <= 64:
        right[:] = np.linalg.solve(lower, right.T).T
        return
    half = n // 2
    solve_right(lower[:half, :half], right[:, :half])
    right[:, half:] -= right[:, :half] @ lower[half:, :half].T
    solve_right(lower[half:, half:], right[:, half:])


def syrk(folder: Path, i: int, k: int) -> None:
    """Update a diagonal tile in place: ``A -= L L^T``."""
    one_blas_thread()
    panel = np.load(folder / tile(i, k))
    np.save(folder / tile(i, i), np.load(folder / tile(i, i)) - panel @ panel.T)


def gemm(folder: Path, i: int, j: int, k: int) -> None:
    """Update a tile below the diagonal in place: ``A -= L_i L_j^T``."""
    one_blas_thread()
    product = np.load(folder / tile(i, k)) @ np.load(folder / tile(j, k)).T
    np.save(folder / tile(i, j), np.load(folder / tile(i, j)) - product)


# ------------------------------------------------------------------------------- the loop nest


def factorise(batch: Batch, folder: Path, ntiles: int) -> list[Task]:
    """Return the tasks of the factorisation, in the order of the sequential algorithm."""
    tasks: list[Task] = []

    def add(kernel: Callable[..., None], *indices: int, reads: list[Path], writes: Path) -> None:
        tasks.append(
            batch.function(
                kernel,
                folder,
                *indices,
                reads=batch.read(folder, *reads, writes),
                writes=batch.write(folder, writes),
            )
        )

    for k in range(ntiles):
        add(potrf, k, reads=[], writes=tile(k, k))
        for i in range(k + 1, ntiles):
            add(trsm, i, k, reads=[tile(k, k)], writes=tile(i, k))
        for i in range(k + 1, ntiles):
            add(syrk, i, k, reads=[tile(i, k)], writes=tile(i, i))
            for j in range(k + 1, i):
                add(gemm, i, j, k, reads=[tile(i, k), tile(j, k)], writes=tile(i, j))
    return tasks


def timed_run(batch: Batch, folder: Path, ntiles: int, dag: str | None = None) -> float:
    """Factorise the tiles in `folder`; return the seconds from start to the last task's end."""
    program = batch.compile(factorise(batch, folder, ntiles))
    began = time.perf_counter()
    program.run()
    seconds = time.perf_counter() - began
    if dag:
        program.dump_dag(dag)
    return seconds


def main() -> int:
    """Factorise on one worker and on all; return 0 if both residuals are small."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=4096, help="order of the matrix")
    parser.add_argument("--tile", type=int, default=512, help="order of a tile; divides --n")
    parser.add_argument("--dag", metavar="FILE", help="draw the graph there, as .png, .svg or .pdf")
    parser.add_argument(
        "--dir", type=Path, help="folder for the tiles; a temporary one if not given"
    )
    options = parser.parse_args()
    n, nb = options.n, options.tile
    if n < 1 or nb < 1 or n % nb:
        parser.error("--tile must divide --n")
    ntiles = n // nb

    matrix = spd_matrix(n)
    norm = np.linalg.norm(matrix)
    flops = n**3 / 3
    seconds: list[float] = []
    residuals: list[float] = []
    for num_workers in (1, None):
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            scatter(matrix, Path(name), nb)
            with Batch(num_workers) if num_workers else Batch() as batch:
                dag = None if num_workers else options.dag
                seconds.append(timed_run(batch, Path(name), ntiles, dag))
            lower = gather(Path(name), ntiles, nb)
        residuals.append(float(np.linalg.norm(matrix - lower @ lower.T) / norm))
        label = "1 worker   " if num_workers else "all workers"
        print(
            f"{label}: {seconds[-1]:.2f} s, {flops / seconds[-1] / 1e9:.1f} Gflop/s, "
            f"residual {residuals[-1]:.1e}"
        )
    print(f"speed-up: {seconds[0] / seconds[1]:.2f}")
    return int(max(residuals) > n * np.finfo(float).eps)


if __name__ == "__main__":
    sys.exit(main())
