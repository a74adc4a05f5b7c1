"""Print which GPU each rank sees: rank 0's, and those of the workers' hosts."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter

from alamo_mpi import Batch


def visible(_: int) -> tuple[str, str]:
    """Return host and GPUs of the worker that runs this."""
    time.sleep(0.05)
    return socket.gethostname(), os.environ["CUDA_VISIBLE_DEVICES"]


print("manager sees:", repr(os.environ["CUDA_VISIBLE_DEVICES"]))
with Batch() as batch:
    tasks = [batch.function(visible, number) for number in range(80)]
    batch.compile(tasks).run()
    seen = Counter(task.result.get() for task in tasks)
    print("workers:", batch.num_workers)
    for host, gpu in sorted(seen):
        print("worker sees:", host, gpu)
