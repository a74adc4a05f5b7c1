"""The record of tasks: rows, busy time, the table and the trace, each read back."""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections import defaultdict
from typing import Any

import pytest

from alamo_mpi.core.record import TaskRecord
from alamo_mpi.extras.telemetry import Telemetry

EPOCH = 1_700_000_000.25


def record(
    uid: int,
    started: float,
    ended: float,
    *,
    rank: int = 1,
    host: str = "node1",
    ready: float = 0.0,
    status: str = "done",
    name: str = "work",
) -> TaskRecord:
    """Return a record whose times are given in seconds since EPOCH."""
    times = (EPOCH, EPOCH + ready, EPOCH + started, EPOCH + ended)
    return TaskRecord(uid, name, *times, rank, host, 100 + uid, 8, status)


#: Two hosts, three ranks; task 3 runs nested in task 2; task 5 was never run.
RECORDS = [
    record(1, 0.5, 1.0),
    record(2, 1.0, 3.0, ready=1.0, name='say "hi", bye'),
    record(3, 1.5, 2.0, ready=1.25, name="inner\nline"),
    record(4, 0.5, 0.75, rank=3, host="node2", status="failed", name="\u4efb\u52a1"),
    record(5, 2.0, 2.0, rank=-1, host="", status="skipped"),
    record(6, 0.0, 4.0, rank=2),
]


def trace(telemetry: Telemetry, path: Any) -> dict[str, Any]:
    telemetry.write(path)
    loaded = json.loads(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def events(data: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [event for event in data["traceEvents"] if event["ph"] == phase]


def test_rows_are_the_records():
    rows = Telemetry(iter(RECORDS)).rows()
    assert [TaskRecord(**row) for row in rows] == RECORDS
    assert list(rows[0]) == list(TaskRecord._fields)
    assert len(Telemetry(RECORDS)) == 6


def test_busy_counts_nested_tasks_once_and_no_task_that_did_not_run():
    assert Telemetry(RECORDS).busy() == {1: 2.5, 2: 4.0, 3: 0.25}
    assert Telemetry([]).busy() == {}


def test_a_table_is_read_back_exactly(tmp_path):
    chance = random.Random(0)
    records = [
        *RECORDS,
        *(record(uid, chance.random(), 1 + chance.random()) for uid in range(10, 60)),
    ]
    Telemetry(records).write(tmp_path / "a.CSV")
    loaded = Telemetry.load(tmp_path / "a.CSV")
    assert [TaskRecord(**row) for row in loaded.rows()] == records
    assert type(loaded.rows()[0]["uid"]) is int
    with (tmp_path / "a.CSV").open(newline="") as file:
        assert next(csv.reader(file)) == list(TaskRecord._fields)


def test_an_empty_record_can_be_written_and_read(tmp_path):
    Telemetry([]).write(str(tmp_path / "a.csv"))
    assert Telemetry.load(str(tmp_path / "a.csv")).rows() == []
    data = trace(Telemetry([]), tmp_path / "a.json")
    assert not events(data, "X")


def test_every_event_has_the_fields_of_the_format(tmp_path):
    data = trace(Telemetry(RECORDS), tmp_path / "a.json")
    assert data["displayTimeUnit"] in ("ms", "ns")
    for event in data["traceEvents"]:
        assert event["ph"] in "XMCi"
        assert event["name"]
        assert isinstance(event["ts"], int | float)
        assert event["ts"] >= 0
        assert type(event["pid"]) is type(event["tid"]) is int
        assert ("dur" in event) == (event["ph"] == "X")
        assert event["ph"] != "i" or event["s"] in "gpt"
        assert event["ph"] != "C" or all(type(v) is int for v in event["args"].values())


def test_tasks_are_complete_events_in_microseconds(tmp_path):
    data = trace(Telemetry(RECORDS), tmp_path / "a.json")
    assert data["otherData"]["epoch_s"] == EPOCH
    found = {event["args"]["uid"]: event for event in events(data, "X")}
    assert sorted(found) == [1, 2, 3, 4, 6]
    event = found[3]
    assert (event["name"], event["cat"]) == ("inner\nline", "done")
    assert (event["ts"], event["dur"]) == (1_500_000, 500_000)
    assert event["args"] == {
        "uid": 3,
        "status": "done",
        "attempt": 1,
        "queue_wait_s": 0.25,
        "bytes_in": 103,
        "bytes_out": 8,
    }
    (skipped,) = events(data, "i")
    assert skipped["args"] == {"uid": 5, "status": "skipped"}


def test_hosts_are_processes_and_ranks_are_threads_by_name(tmp_path):
    data = trace(Telemetry(RECORDS), tmp_path / "a.json")
    names = events(data, "M")
    host = {e["pid"]: e["args"]["name"] for e in names if e["name"] == "process_name"}
    thread = {(e["pid"], e["tid"]): e["args"]["name"] for e in names if e["name"] == "thread_name"}
    assert sorted(host.values()) == ["batch", "node1", "node2"]
    for event in events(data, "X"):
        task = next(task for task in RECORDS if task.uid == event["args"]["uid"])
        assert host[event["pid"]] == task.host
        assert thread[event["pid"], event["tid"]] == f"rank {task.rank}"
        # Equal numbers would mean a main thread, and 0 the idle one.
        assert event["tid"] not in (0, event["pid"])


def test_the_counter_follows_tasks_that_are_ready_but_wait(tmp_path):
    data = trace(Telemetry(RECORDS), tmp_path / "a.json")
    counts = [(event["ts"], event["args"]["tasks"]) for event in events(data, "C")]
    assert counts == [(0, 2), (500_000, 0), (1_250_000, 1), (1_500_000, 0)]


def test_the_counter_never_goes_below_zero_and_ends_at_zero(tmp_path):
    chance = random.Random(1)
    records = []
    for uid in range(300):
        ready = chance.random()
        # By another host's clock a task may start a little before it was ready.
        started = ready + chance.random() - 0.05
        records.append(record(uid, started, started + 0.1, ready=ready, rank=uid))
    data = trace(Telemetry(records), tmp_path / "a.json")
    counts = [event["args"]["tasks"] for event in events(data, "C")]
    assert min(counts) == 0
    assert counts[-1] == 0
    assert max(counts) > 10
    assert all(event["args"]["queue_wait_s"] >= 0 for event in events(data, "X"))


@pytest.mark.parametrize("seed", range(5))
def test_events_of_one_thread_follow_each_other_or_nest(seed, tmp_path):
    """The format does not allow two complete events of a thread to overlap in part."""
    chance = random.Random(seed)
    records = []
    for uid in range(60):
        started = chance.random()
        records.append(record(uid, started, started + chance.random() / 8))
    data = trace(Telemetry(records), tmp_path / "a.json")
    threads = defaultdict(list)
    for event in events(data, "X"):
        threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert sum(map(len, threads.values())) == 60
    assert len(threads) > 1
    for spans in threads.values():
        assert spans == sorted(spans, key=lambda span: span[0])
        for (a, b), (c, d) in itertools.combinations(spans, 2):
            assert b <= c + 1e-3 or d <= b + 1e-3, ((a, b), (c, d))


def test_tasks_without_a_pause_stay_on_one_thread(tmp_path):
    """Rounding to the format's unit must not make neighbours overlap."""
    edges = [0.1 * i / 3 for i in range(200)]
    records = [record(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    data = trace(Telemetry(records), tmp_path / "a.json")
    assert len({event["tid"] for event in events(data, "X")}) == 1
    ends = [(event["ts"], round(event["ts"] + event["dur"], 3)) for event in events(data, "X")]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ends))


@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv.gz"])
def test_an_unknown_ending_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match=r"must end with \.json .* or \.csv"):
        Telemetry(RECORDS).write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Telemetry(RECORDS).write(tmp_path / "nowhere" / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table of telemetry"),
        ("a,b\n1,2\n", "header is 'a,b'"),
        ("{HEADER}\n1,2\n", "line 2: 2 columns, expected 12"),
        ("{HEADER}\n1,f,0,0,0,x,1,h,0,0,done,1\n", "line 2: could not convert"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text.replace("{HEADER}", ",".join(TaskRecord._fields)))
    with pytest.raises(ValueError, match=message):
        Telemetry.load(path)
