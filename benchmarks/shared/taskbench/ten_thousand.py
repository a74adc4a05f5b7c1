"""Ten thousand tasks on all workers; rank 0 prints what it took.

The clock is the machine's monotonic one, which the starter of the program reads too.
"""

import json
import time

from alamo_mpi import Batch
from taskbench import work

COUNT = 10_000

with Batch() as batch:
    begin = time.monotonic()
    tasks = [batch.function(work.nothing, number) for number in range(COUNT)]
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == list(range(COUNT))
    seconds = time.monotonic() - begin
print(json.dumps({"tasks_s": seconds}), flush=True)
