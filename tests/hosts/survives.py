"""A program on several hosts that loses the workers named, one after the other, and goes on."""

import os
import platform
import signal
import sys
import time

from alamo_mpi import Batch, CancelledError, DDict, Queue, ShardLostError, Task, WorkerDiedError


def rank() -> int:
    return int(os.environ.get("PMI_RANK") or os.environ["SLURM_PROCID"])


def where() -> tuple[int, str]:
    time.sleep(0.02)
    return rank(), platform.node()


def dies(victim: int) -> None:
    if rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)


def counts(store: DDict, seconds: float) -> int:
    """Read and write keys of all shards, and say how many were refused."""
    end, refused = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for key in range(40):
            try:
                store[key] = store.get(key, 0) + 1
            except ShardLostError:
                refused += 1
    return refused


def outcome(task: Task) -> object:
    try:
        return task.result.get(timeout=60)
    except (WorkerDiedError, CancelledError) as error:
        return error


def seen() -> dict[int, str]:
    tasks = [batch.function(where) for _ in range(40)]
    batch.compile(tasks).run(60)
    return dict(task.result.get() for task in tasks)


batch = Batch()
everybody = seen()
lost: set[int] = set()
for victim in map(int, sys.argv[1:]):
    store: DDict = DDict()
    store.update({key: 0 for key in range(40)})
    used: DDict = DDict()
    users = [batch.function(counts, used, 3.0) for _ in range(2)]
    for task in users:
        task.start()
    while victim not in lost:
        tasks = [batch.function(dies, victim) for _ in range(batch.num_workers)]
        for task in tasks:
            task.start()
        for task in tasks:
            error = outcome(task)
            if isinstance(error, WorkerDiedError):
                assert error.rank == victim, error
                assert error.host == everybody[victim], error
                lost.add(victim)
    ends = [outcome(task) for task in users]
    print("users", ends, flush=True)
    blamed = []
    for key in range(40):
        try:
            store[key]
        except ShardLostError as error:
            blamed.append(error.rank)
    print("lost", victim, "refused", len(blamed), flush=True)
    assert set(blamed) == {victim}, blamed
    assert len(blamed) < 40
    left = seen()
    assert left == {r: host for r, host in everybody.items() if r not in lost}, (left, lost)
queue: Queue = Queue()
queue.put("through")
assert queue.get(timeout=10) == "through"
print("hosts", *sorted(set(everybody.values())), flush=True)
batch.close()
batch.join(30)
print("RIGHT", flush=True)
