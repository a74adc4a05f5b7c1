"""A program that goes on while a host is taken from it, with a rank of a job, and ends well."""

import os
import platform
import sys
import time
from pathlib import Path

from alamo_mpi import Batch, DDict, Policy, WorkerDiedError


def where(seconds: float) -> str:
    time.sleep(seconds)
    return platform.node()


batch = Batch()
store: DDict = DDict()
store.update({key: key for key in range(100)})
tasks = [batch.function(where, 0.02) for _ in range(60)]
batch.compile(tasks).run(60)
hosts = {task.result.get() for task in tasks}
width = min(3, batch.num_workers)
# The words at the end are what its processes are found by.
program = ("-c", "touch $0; sleep 600", f"{sys.argv[1]}.job")
job = batch.job("sh", program, width, policy=Policy(placement="spread", launch="pmi"))
job.start()
while not Path(f"{sys.argv[1]}.job").exists():
    time.sleep(0.01)
waiting = [batch.function(where, 600) for _ in range(batch.num_workers - width)]
for task in waiting:
    task.start()
Path(sys.argv[1]).touch()
began = time.monotonic()
lost = set()
while not lost or len(lost) < int(sys.argv[2]):
    for task in (job, *waiting):
        try:
            task.result.get(timeout=0.05)
        except WorkerDiedError as error:
            lost.add((error.rank, error.host))
        except TimeoutError:
            pass
print("lost", *sorted(lost), "after", round(time.monotonic() - began, 1), flush=True)
batch.cancel_all()
tasks = [batch.function(where, 0.02) for _ in range(60)]
batch.compile(tasks).run(60)
left = {task.result.get() for task in tasks}
assert left == hosts - {host for _, host in lost}, (left, hosts, lost)
new: DDict = DDict()
new.update({key: key for key in range(100)})
assert len(new) == 100
batch.close()
batch.join(30)
print("RIGHT on", os.uname().nodename, *sorted(left), flush=True)
