"""The smallest program with a batch: rank 0 prints when it has the result of one task.

The clock is the machine's monotonic one, which the starter of the program reads too.
"""

import json
import time

from alamo_mpi import Batch
from taskbench import work

batch = Batch()
if batch.function(work.nothing, 7).run() == 7:
    print(json.dumps({"at_s": time.monotonic()}), flush=True)
batch.close()
batch.join()
