"""The powers of a matrix, each computed by a task from the file that the one before it wrote.

    mpiexec -n 4 python -m alamo_mpi examples/matrix_powers_files.py [base_dir]

``file_i`` holds the i-th power of ``m``.  Each task reads one file and writes the next, so the
dependencies make the tasks run one after another: an example of the interface, not of speed.
``tiled_cholesky.py`` shows tasks side by side.

Powers of a Vandermonde matrix of order 100 outgrow every number format at once: its own entries
wrap around in 64-bit integers already, and its powers, left to wrap, stop changing after the
192nd.  So the arithmetic is modulo a prime, small enough that a row times a column stays below
2**63.  Then the products are exact, on a CPU and on a GPU and in any order of summation, and the
files must equal a serial computation's bit for bit.  The program checks this for every power,
prints what it computed and how fast, and ends with status 1 if one differs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alamo_mpi import Batch

PRIME = 268_435_399  # 100 * PRIME**2 < 2**63


def array_module() -> Any:
    """Return cupy where it is installed and finds a GPU, else numpy."""
    try:
        import cupy
    except ImportError:
        return np
    return cupy if cupy.is_available() else np


def gpu_matmul_func(original_matrix: NDArray[np.int64], base_dir: Path, i: int) -> str:
    """Read ``file_i``, multiply by the original matrix, write ``file_{i+1}``; return a summary."""
    xp = array_module()
    with open(base_dir / f"file_{i}", "rb") as file:
        current_matrix = np.load(file)

    left = xp.asarray(original_matrix % PRIME)
    next_matrix = xp.matmul(left, xp.asarray(current_matrix)) % PRIME

    if xp is not np:
        next_matrix = xp.asnumpy(next_matrix)
    with open(base_dir / f"file_{i + 1}", "wb") as file:
        np.save(file, next_matrix)
    return f"m^{i + 1}: trace {int(np.trace(next_matrix) % PRIME)} by {xp.__name__}"


def serial_powers(m: NDArray[np.int64], count: int) -> Iterator[NDArray[np.int64]]:
    """Yield the first `count` powers of `m` modulo the prime."""
    left = m % PRIME
    power = np.identity(len(m), dtype=np.int64)
    for _ in range(count):
        power = left @ power % PRIME
        yield power


# A base directory, and files in it, will be used for communication of results
batch = Batch()
temporary = tempfile.TemporaryDirectory()
base_dir = Path(sys.argv[1] if len(sys.argv) > 1 else temporary.name)

# Knowledge of reads and writes to files will also be used by the Batch service
# to determine data dependencies and how to parallelize tasks
reads = lambda i: batch.read(base_dir, Path(f"file_{i}"))  # noqa: E731
writes = lambda i: batch.write(base_dir, Path(f"file_{i + 1}"))  # noqa: E731

a = np.array([j for j in range(100)])
m = np.vander(a)

# The power that the first task reads
with open(base_dir / "file_0", "wb") as file:
    np.save(file, np.identity(100, dtype=m.dtype))

# batch.function will create a task with specified arguments and reads/writes to the file system
get_task = lambda i: batch.function(gpu_matmul_func, (m, base_dir, i), reads(i), writes(i))  # noqa: E731

# Package up the list of tasks into a single compiled task and create the DAG (done by
# batch.compile), and then submit the compiled task to the Batch service (done by
# matrix_powers_task.start)
began = time.perf_counter()
serial_task_list = [get_task(i) for i in range(1000)]
matrix_powers_task = batch.compile(serial_task_list)
matrix_powers_task.start()

# Wait for the compiled task to complete
matrix_powers_task.wait(timeout=30)
seconds = time.perf_counter() - began

# If there was an exception while running the task, it will be raised when get() is called
for task in serial_task_list:
    try:
        print(f"result={task.result.get()}")
        # print(f"stdout={task.stdout.get()}")
        # print(f"stderr={task.stderr.get()}")
    except Exception as e:
        print(f"gpu_matmul_func failed with the following exception: {e}")

batch.close()
batch.join()

began = time.perf_counter()
expected = list(serial_powers(m, len(serial_task_list)))
serial_seconds = time.perf_counter() - began
wrong = [
    i
    for i, power in enumerate(expected, 1)
    if not np.array_equal(np.load(base_dir / f"file_{i}"), power)
]
temporary.cleanup()
print(f"computed {len(expected)} powers of a 100 x 100 matrix modulo {PRIME}: ", end="")
print(f"{len(wrong)} differ" if wrong else "all equal the serial computation's")
print(
    f"{seconds:.2f} s from the first task made to the last file written, "
    f"{len(expected) / seconds:,.0f} tasks/s; serial, without files: "
    f"{serial_seconds:.2f} s"
)
sys.exit(bool(wrong))
