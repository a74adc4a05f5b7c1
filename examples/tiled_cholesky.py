"""A tiled Cholesky factorisation: a sequential loop nest that runs as a parallel graph of tasks.

    mpiexec -n 3 python -m alamo_mpi examples/tiled_cholesky.py [--n 4096] [--tile 512]
        [--tiles ddict] [--dag cholesky.png] [--dir FOLDER]

The lower triangle of a symmetric positive definite matrix is cut into square tiles, each a file or,
with ``--tiles ddict``, a value of a `DDict`; the rest of the program is the same for both.
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
import contextlib
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alamo_mpi import Batch, DDict, Task

Matrix = NDArray[np.float64]
#: Row and column of a tile.
At = tuple[int, int]
#: Where the tiles are: a folder of files, or a dictionary.
Tiles = Path | DDict[At, Matrix]


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


def tile(tiles: Tiles, i: int, j: int) -> Path | At:
    """Return the channel of the tile in row `i`, column `j`: its file's name, or its key."""
    return Path(f"tile_{i}_{j}.npy") if isinstance(tiles, Path) else (i, j)


def load(tiles: Tiles, i: int, j: int) -> Matrix:
    """Read a tile."""
    return np.load(tiles / f"tile_{i}_{j}.npy") if isinstance(tiles, Path) else tiles[i, j]


def save(tiles: Tiles, i: int, j: int, content: Matrix) -> None:
    """Write a tile."""
    if isinstance(tiles, Path):
        np.save(tiles / f"tile_{i}_{j}.npy", content)
    else:
        tiles[i, j] = content


def spd_matrix(n: int) -> Matrix:
    """Return a symmetric positive definite matrix, the same one each time."""
    random = np.random.default_rng(7).standard_normal((n, n))
    random += random.T
    random[np.diag_indices(n)] += 4.0 * np.sqrt(n)  # the spectrum without it is within 2.9 sqrt(n)
    return random


def scatter(matrix: Matrix, tiles: Tiles, nb: int) -> None:
    """Write the lower triangle's tiles of order `nb`."""
    for i in range(len(matrix) // nb):
        for j in range(i + 1):
            save(tiles, i, j, matrix[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb])


def gather(tiles: Tiles, ntiles: int, nb: int) -> Matrix:
    """Read the tiles back into one lower triangular matrix."""
    lower = np.zeros((ntiles * nb, ntiles * nb))
    for i in range(ntiles):
        for j in range(i + 1):
            lower[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb] = load(tiles, i, j)
    return lower


# ----------------------------------------------------------------------- what the tasks compute


def potrf(tiles: Tiles, k: int) -> None:
    """Factorise a diagonal tile in place: ``L L^T = A``."""
    one_blas_thread()
    save(tiles, k, k, np.linalg.cholesky(load(tiles, k, k)))


def trsm(tiles: Tiles, i: int, k: int) -> None:
    """Solve ``X L^T = A`` in place for a tile below the diagonal tile ``L``."""
    one_blas_thread()
    lower, right = load(tiles, k, k), load(tiles, i, k)
    solve_right(lower, right)
    save(tiles, i, k, right)


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


def syrk(tiles: Tiles, i: int, k: int) -> None:
    """Update a diagonal tile in place: ``A -= L L^T``."""
    one_blas_thread()
    panel = load(tiles, i, k)
    save(tiles, i, i, load(tiles, i, i) - panel @ panel.T)


def gemm(tiles: Tiles, i: int, j: int, k: int) -> None:
    """Update a tile below the diagonal in place: ``A -= L_i L_j^T``."""
    one_blas_thread()
    product = load(tiles, i, k) @ load(tiles, j, k).T
    save(tiles, i, j, load(tiles, i, j) - product)


# ------------------------------------------------------------------------------- the loop nest


def factorise(batch: Batch, tiles: Tiles, ntiles: int) -> list[Task]:
    """Return the tasks of the factorisation, in the order of the sequential algorithm."""
    tasks: list[Task] = []

    def add(kernel: Callable[..., None], *indices: int, reads: list[At], writes: At) -> None:
        channels = [tile(tiles, *each) for each in (*reads, writes)]
        tasks.append(
            batch.function(
                kernel,
                tiles,
                *indices,
                reads=batch.read(tiles, *channels),
                writes=batch.write(tiles, channels[-1]),
            )
        )

    for k in range(ntiles):
        add(potrf, k, reads=[], writes=(k, k))
        for i in range(k + 1, ntiles):
            add(trsm, i, k, reads=[(k, k)], writes=(i, k))
        for i in range(k + 1, ntiles):
            add(syrk, i, k, reads=[(i, k)], writes=(i, i))
            for j in range(k + 1, i):
                add(gemm, i, j, k, reads=[(i, k), (j, k)], writes=(i, j))
    return tasks


def timed_run(batch: Batch, tiles: Tiles, ntiles: int, dag: str | None = None) -> float:
    """Factorise the tiles; return the seconds from start to the last task's end."""
    program = batch.compile(factorise(batch, tiles, ntiles))
    began = time.perf_counter()
    program.run()
    seconds = time.perf_counter() - began
    if dag:
        program.dump_dag(dag)
    return seconds


@contextlib.contextmanager
def place_for_tiles(kind: str, folder: Path | None) -> Iterator[Tiles]:
    """Give an empty folder or dictionary, and remove it in the end."""
    if kind == "ddict":
        with DDict[At, Matrix]() as tiles:
            yield tiles
    else:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            yield Path(name)


def main() -> int:
    """Factorise on one worker and on all; return 0 if both residuals are small."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=4096, help="order of the matrix")
    parser.add_argument("--tile", type=int, default=512, help="order of a tile; divides --n")
    parser.add_argument("--dag", metavar="FILE", help="draw the graph there, as .png, .svg or .pdf")
    parser.add_argument("--tiles", choices=["files", "ddict"], default="files")
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
        with place_for_tiles(options.tiles, options.dir) as tiles:
            scatter(matrix, tiles, nb)
            with Batch(num_workers) if num_workers else Batch() as batch:
                dag = None if num_workers else options.dag
                seconds.append(timed_run(batch, tiles, ntiles, dag))
            lower = gather(tiles, ntiles, nb)
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
