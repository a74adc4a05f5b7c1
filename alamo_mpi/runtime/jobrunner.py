"""The program of a job whose target is a Python callable: one process, one rank, one call.

Run as a file by `runtime.jobwrapper`, with two descriptors: the call is read from one, and what
became of it written to the other.  MPI is started by whoever imports it first, be it the callable
or what its pickle refers to, and ended by mpi4py at exit.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

__all__: list[str] = []


def _main(source: int, sink: int) -> None:
    with open(source, "rb") as file:
        search_path, call = pickle.load(file)
    sys.path[:] = search_path
    from alamo_mpi.runtime.failures import describe
    from alamo_mpi.runtime.packing import dumps, loads

    outcome: tuple[bool, Any]
    try:
        function, arguments = loads(call)
        outcome = True, dumps(function(*arguments))
    except BaseException as error:
        outcome = False, tuple(describe(error, 1))
    with open(sink, "wb") as file:
        pickle.dump(outcome, file, 5)
    if not outcome[0]:
        # Leave at once: MPI_Finalize would wait for the others, which may wait for this rank.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
