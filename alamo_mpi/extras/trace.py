"""Task records as events of the Trace Event Format, which the Perfetto UI opens.

Hosts are processes, ranks are threads, tasks are complete events (``"ph": "X"``).  Times are
microseconds since the first task was submitted; the format has no absolute times, so the epoch
is kept beside the events.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from alamo_mpi.core.record import TaskRecord

__all__ = ["trace_lines"]

Event = dict[str, Any]

#: The process that stands for the batch; hosts follow.  Small numbers are left out, because the
#: thread whose number is its process's would count as the main thread, and 0 as the idle one.
_BATCH_PID = 1_000_000
_NOT_RUN_TID = 1
#: Threads of one rank are this far apart: tasks that overlap without nesting need more than one.
_LANES = 100


def trace_lines(records: Sequence[TaskRecord]) -> Iterator[str]:
    """Yield the text of a trace, one event a line.

    Parameters
    ----------
    records : sequence of TaskRecord
        In any order.

    Yields
    ------
    str
        Pieces of one JSON object, whose ``traceEvents`` are in the order of time for each thread.
    """
    epoch = min((record.submitted for record in records), default=0.0)
    other = {"epoch_s": epoch, "tasks": len(records)}
    yield f'{{"displayTimeUnit": "ns", "otherData": {json.dumps(other)}, "traceEvents": [\n'
    separator = ""
    for event in _events(records, epoch):
        yield f"{separator}{json.dumps(event)}"
        separator = ",\n"
    yield "\n]}\n"


def _events(records: Sequence[TaskRecord], epoch: float) -> Iterator[Event]:
    yield from _process(_BATCH_PID, "batch", 0)
    yield from _ready_counter(records, epoch)
    not_run = [record for record in records if record.rank < 0]
    if not_run:
        yield _metadata("thread_name", _BATCH_PID, _NOT_RUN_TID, name="tasks that did not run")
        for record in sorted(not_run, key=lambda record: record.ended):
            yield {
                "name": record.name,
                "cat": record.status,
                "ph": "i",
                "s": "t",
                "ts": _microseconds(record.ended - epoch),
                "pid": _BATCH_PID,
                "tid": _NOT_RUN_TID,
                "args": {"uid": record.uid, "status": record.status},
            }
    by_place: defaultdict[tuple[str, int], list[TaskRecord]] = defaultdict(list)
    for record in records:
        if record.rank >= 0:
            by_place[record.host, record.rank].append(record)
    hosts: dict[str, int] = {}
    for host, rank in sorted(by_place, key=lambda place: place[1]):
        if host not in hosts:
            hosts[host] = _BATCH_PID + 1 + len(hosts)
            yield from _process(hosts[host], host, len(hosts))
        yield from _rank_events(by_place[host, rank], hosts[host], rank, epoch)


def _rank_events(records: list[TaskRecord], pid: int, rank: int, epoch: float) -> Iterator[Event]:
    lanes: list[list[TaskRecord]] = []
    for lane, record in _in_lanes(records):
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(record)
    for lane, within in enumerate(lanes):
        tid = (rank + 1) * _LANES + lane
        name = f"rank {rank}" if lane == 0 else f"rank {rank}, overlapping ({lane})"
        yield _metadata("thread_name", pid, tid, name=name)
        yield _metadata("thread_sort_index", pid, tid, sort_index=tid)
        for record in within:
            yield _task(record, pid, tid, epoch)


def _task(record: TaskRecord, pid: int, tid: int, epoch: float) -> Event:
    start = _microseconds(record.started - epoch)
    return {
        "name": record.name,
        "cat": record.status,
        "ph": "X",
        "ts": start,
        # From the rounded start, so that a task never reaches into the next one.
        "dur": max(0.0, round(_microseconds(record.ended - epoch) - start, 3)),
        "pid": pid,
        "tid": tid,
        "args": {
            "uid": record.uid,
            "status": record.status,
            "attempt": record.attempt,
            "queue_wait_s": round(max(0.0, record.started - record.ready), 9),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        },
    }


def _in_lanes(records: list[TaskRecord]) -> Iterator[tuple[int, TaskRecord]]:
    """Yield each task with a thread on which it follows or nests in what is already there."""
    open_until: list[list[float]] = []
    for record in sorted(records, key=lambda record: (record.started, -record.ended)):
        lane = next(i for i in count() if _fits(open_until, i, record))
        open_until[lane].append(record.ended)
        yield min(lane, _LANES - 1), record


def _fits(open_until: list[list[float]], lane: int, record: TaskRecord) -> bool:
    """Tell whether a task starts after, or ends within, what is open on a thread."""
    if lane == len(open_until):
        open_until.append([])
    ends = open_until[lane]
    while ends and ends[-1] <= record.started:
        ends.pop()
    return not ends or record.ended <= ends[-1]


def _ready_counter(records: Sequence[TaskRecord], epoch: float) -> Iterator[Event]:
    """Yield how many tasks are ready and wait for a worker, whenever that number changes."""
    changes: defaultdict[float, int] = defaultdict(int)
    for record in records:
        if record.rank >= 0:
            changes[_microseconds(record.ready - epoch)] += 1
            changes[_microseconds(max(record.ready, record.started) - epoch)] -= 1
    waiting = 0
    for moment in sorted(changes):
        if changes[moment]:
            waiting += changes[moment]
            yield {
                "name": "ready, waiting for a worker",
                "ph": "C",
                "ts": moment,
                "pid": _BATCH_PID,
                "tid": 0,
                "args": {"tasks": waiting},
            }


def _process(pid: int, name: str, position: int) -> Iterator[Event]:
    yield _metadata("process_name", pid, 0, name=name)
    yield _metadata("process_sort_index", pid, 0, sort_index=position)


def _metadata(kind: str, pid: int, tid: int, **args: object) -> Event:
    return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def _microseconds(seconds: float) -> float:
    """Return seconds as microseconds, to the nanosecond, as the format has them."""
    return round(seconds * 1e6, 3)
