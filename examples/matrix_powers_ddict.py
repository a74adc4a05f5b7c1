"""The powers of a matrix, each computed by a task from what the one before put in a dictionary.

    mpiexec -n 4 python -m alamo_mpi examples/matrix_powers_ddict.py

Key ``i`` of the distributed dictionary holds the i-th power of ``m``.  The same program as
``matrix_powers_files.py``, with a `DDict` in the place of the directory; see there why the
arithmetic is modulo a prime.  Every power is compared with a serial computation's, and the program
ends with status 1 if one differs.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alamo_mpi import Batch, DDict

PRIME = 268_435_399  # 100 * PRIME**2 < 2**63


def array_module() -> Any:
    """Return cupy where it is installed and finds a GPU, else numpy."""
    try:
        import cupy
    except ImportError:
        return np
    return cupy if cupy.is_available() else np


def do_dgemm(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Multiply two matrices modulo the prime, on a GPU where there is one."""
    xp = array_module()
    product = xp.matmul(xp.asarray(left % PRIME), xp.asarray(right)) % PRIME
    return product if xp is np else xp.asnumpy(product)  # type: ignore[no-any-return]


def gpu_matmul_func(
    original_matrix: NDArray[np.int64], ddict: DDict[int, NDArray[np.int64]], i: int
) -> str:
    """Read key ``i``, multiply by the original matrix, write key ``i + 1``; return a summary."""
    # read the current matrix stored in the Distributed Dictionary at key=i
    current_matrix = ddict[i]

    # actual matrix multiplication happens here
    next_matrix = do_dgemm(original_matrix, current_matrix)

    # write the next power of the matrix to the Distributed Dictionary at key=i+1
    ddict[i + 1] = next_matrix
    return f"m^{i + 1}: trace {int(np.trace(next_matrix) % PRIME)}"


# The Distributed Dictionary service will be used for communication of results
batch = Batch()
ddict: DDict[int, NDArray[np.int64]] = DDict()

# Knowledge of reads and writes to the Distributed Dictionary will also be used by
# the Batch service to determine data dependencies and how to parallelize tasks
reads = lambda i: batch.read(ddict, i)  # noqa: E731
writes = lambda i: batch.write(ddict, i + 1)  # noqa: E731

a = np.array([i for i in range(100)])
m = np.vander(a)

# The power that the first task reads
ddict[0] = np.identity(100, dtype=m.dtype)

# batch.function will create a task with specified arguments and reads/writes to the
# distributed dictionary
get_task = lambda i: batch.function(gpu_matmul_func, (m, ddict, i), reads(i), writes(i))  # noqa: E731

# Package up the list of tasks into a single compiled task and create the DAG (done by
# batch.compile), and then submit the compiled task to the Batch service (done by
# matrix_powers_task.start)
began = time.perf_counter()
serial_task_list = [get_task(i) for i in range(1000)]
matrix_powers_task = batch.compile(serial_task_list)
matrix_powers_task.start()

# Wait for the compiled task to complete
matrix_powers_task.wait(timeout=60)
seconds = time.perf_counter() - began

# If there was an exception while running the task, it will be raised when get() is called
for task in serial_task_list:
    try:
        print(f"result={task.result.get()}")
    except Exception as e:
        print(f"gpu_matmul_func failed with the following exception: {e}")

batch.close()
batch.join()

expected = ddict[0]
wrong = 0
for i in range(1000):
    expected = m % PRIME @ expected % PRIME
    wrong += not np.array_equal(ddict[i + 1], expected)
print(f"computed {len(ddict) - 1} powers of a 100 x 100 matrix modulo {PRIME}: ", end="")
print(f"{wrong} differ" if wrong else "all equal the serial computation's")
print(
    f"{seconds:.2f} s from the first task made to the last key written, "
    f"{1000 / seconds:,.0f} tasks/s"
)
ddict.destroy()
sys.exit(bool(wrong))
