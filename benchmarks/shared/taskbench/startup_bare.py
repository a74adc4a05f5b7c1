"""A bare mpi4py program: rank 1 sends one message, rank 0 prints when it has it.

The clock is the machine's monotonic one, which the starter of the program reads too.
"""

import json
import time

from mpi4py import MPI

if MPI.COMM_WORLD.rank == 1:
    MPI.COMM_WORLD.send(7, 0)
elif MPI.COMM_WORLD.rank == 0 and MPI.COMM_WORLD.recv(source=1) == 7:
    print(json.dumps({"at_s": time.monotonic()}), flush=True)
