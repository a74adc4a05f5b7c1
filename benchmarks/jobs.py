"""What it costs to start a job, beside the floors: Comm.Spawn, mpiexec, subprocess.

mpiexec -n 3 python -m alamo_mpi benchmarks/jobs.py [--quick]

Medians of whole runs, from start to result; all of them on the same machine in the same run, each
row in turn so that a busy moment meets all.  The C program initializes and finalizes MPI; bare
Comm.Spawn has its parent in a world of its own, as this program may not be the one it endangers.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskbench.worlds import environment, launched

from alamo_mpi import Batch, Policy

PROGRAM = """
#include <mpi.h>
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Finalize();
    return 0;
}
"""

#: Prints the median seconds of some spawns: what argv[1] is, so often as argv[2] says.
SPAWNER = """
import statistics, sys, time
from mpi4py import MPI
times = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    MPI.COMM_SELF.Spawn(sys.argv[1], [], maxprocs=2).Disconnect()
    times.append(time.perf_counter() - began)
print(statistics.median(times))
"""


def compiled(folder: str) -> str | None:
    """Compile the program by the mpicc beside this Python; None if that cannot be."""
    source, program = Path(folder, "program.c"), Path(folder, "program")
    source.write_text(PROGRAM)
    mpicc = Path(sys.prefix, "bin", "mpicc")
    try:
        done = subprocess.run([mpicc, "-o", program, source], capture_output=True, check=False)
    except OSError:
        return None
    return str(program) if done.returncode == 0 else None


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def bare_spawn(program: str, repeats: int) -> list[float]:
    """Return the median seconds of a bare spawn of two processes by a world of one rank.

    Nothing where that crashes, as MPICH's launcher sometimes does.
    """
    command = launched(1, "-c", SPAWNER, program, str(repeats))
    answer = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    return [float(answer.stdout.split()[-1])] if answer.returncode == 0 else []


def nested(program: str) -> None:
    """Run two processes by a launcher."""
    command = launched(2, "-c", "")
    command[command.index(sys.executable) :] = [program]
    subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=True)


def nothing(*_: Any) -> None:
    """Be called on each rank."""


def initializes() -> None:
    """Be called in each process, and need its MPI."""
    from mpi4py import MPI

    MPI.COMM_WORLD.Get_rank()


def main() -> None:
    """Print the table."""
    repeats = 3 if "--quick" in sys.argv else 15
    rows: dict[str, list[float]] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        rows.setdefault(name, []).append(seconds(call))

    with Batch() as batch, tempfile.TemporaryDirectory() as folder:
        width = min(2, batch.num_workers)
        program = compiled(folder)

        def job(target: Any, launch: str) -> Callable[[], object]:
            policy = Policy(launch=launch)
            return lambda: batch.job(target, (), width, policy=policy).run()

        for _ in range(repeats):
            if program is not None:
                measure("C program: job", job(program, "auto"))
                measure("C program: subprocess + mpiexec -n 2", lambda: nested(program))
                rows.setdefault("C program: bare Comm.Spawn", []).extend(bare_spawn(program, 3))
            measure("callable: job", job(initializes, "auto"))
            measure("callable: job by ranks", job(nothing, "ranks"))
            measure("callable: job by ranks, again", job(nothing, "ranks"))
            measure("echo: job without MPI", job("true", "pmi"))
            measure("echo: subprocess.run", lambda: subprocess.run(["true"], check=True))
    print(f"{'median of ' + str(repeats):42} {'ms':>9} {'least':>9}")
    for name, times in rows.items():
        print(f"{name:42} {1e3 * statistics.median(times):9.2f} {1e3 * min(times):9.2f}")
    if program is not None:
        ours = statistics.median(rows["C program: job"])
        for other in ("C program: bare Comm.Spawn", "C program: subprocess + mpiexec -n 2"):
            print(f"C program: job / {other[11:]}: {ours / statistics.median(rows[other]):.2f}")


if __name__ == "__main__":
    main()
