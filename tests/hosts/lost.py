"""A program that loses the rank of this number, and says where that is."""

import os
import platform
import signal
import sys
import time

from alamo_mpi import Batch


def dies(victim: int) -> None:
    """Kill this rank, if it is the one."""
    if int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]) == victim:
        time.sleep(1)  # the others have begun by then, and are named
        print("victim", platform.node(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


batch = Batch()
for _ in range(batch.num_workers):
    batch.function(dies, int(sys.argv[1])).start()
if sys.argv[1] == "0":
    dies(0)
batch.close()
batch.join()
