"""One-sided operations on hosts whose ranks compute in pure Python: how long, and at what price.

    MPIR_CVAR_NOLOCAL=1 UCX_TLS=tcp,self mpiexec -n 3 python -m alamo_mpi benchmarks/onesided.py

Every worker runs a loop in pure Python for the same time, once undisturbed and once while rank 0
gets, puts, adds and swaps words in its memory.  Over TCP each operation needs the worker's service
thread; the tasks' loss is what that costs them.  Target: a median of 3 ms at most, and less than
2 % lost at ten operations a second.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import statistics
import time

from alamo_mpi import Batch
from alamo_mpi.doctor.rma import measure_operation, operations, spin
from alamo_mpi.runtime.pool import current


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    seconds = parser.parse_args().seconds
    with Batch() as batch:
        window = current().window

        def rounds(disturb: bool) -> tuple[int, dict[str, list[float]]]:
            times: dict[str, list[float]] = {}
            tasks = [batch.function(spin, seconds) for _ in range(batch.num_workers)]
            run = batch.compile(tasks)
            run.start()
            end = time.monotonic() + 0.9 * seconds
            while disturb and time.monotonic() < end:
                for name, operation in operations(window, 1).items():
                    times.setdefault(name, []).extend(measure_operation(operation, 1))
                    time.sleep(0.1)
            run.wait()
            return sum(task.result.get() for task in tasks), times

        rounds(False)
        quiet, _ = rounds(False)
        busy, _ = rounds(True)
        again, times = rounds(True)
        quiet_again, _ = rounds(False)
        burst = {
            name: measure_operation(operation, 100)
            for name, operation in _while_spinning(batch, window, seconds).items()
        }
    for name in times:
        print(
            f"{name:5} median {statistics.median(times[name]) * 1e3:7.3f} ms at 10 a second, "
            f"{statistics.median(burst[name]) * 1e3:7.3f} ms in a row"
        )
    lost = 1 - (busy + again) / (quiet + quiet_again)
    print(f"tasks lost {100 * lost:.2f} % of their speed to 10 operations a second")


def _while_spinning(batch, window, seconds):  # type: ignore[no-untyped-def]
    run = batch.compile([batch.function(spin, seconds) for _ in range(batch.num_workers)])
    run.start()
    time.sleep(0.2)  # until the tasks run
    return operations(window, 1)


if __name__ == "__main__":
    main()
