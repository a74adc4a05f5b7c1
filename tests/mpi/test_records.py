"""What is left to look at: telemetry rows and traces, and pictures of the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alamo_mpi import Batch, TaskStateError
from tests.mpi.gates import Gate, pass_and_call


def square(x: int) -> int:
    return x * x


def ones(n: int) -> Any:
    return np.ones(n)


def fail() -> None:
    raise ValueError("on purpose")


def rows_by_uid(batch: Batch) -> dict[Any, dict[str, Any]]:
    rows = batch.telemetry().rows()
    by_uid: dict[Any, dict[str, Any]] = {row["uid"]: row for row in rows}
    assert len(by_uid) == len(rows)
    return by_uid


def test_one_row_for_each_task(recorded: Batch) -> None:
    first = recorded.function(square, 3)
    chain = [first, recorded.function(square, first), recorded.function(ones, 100_000)]
    bad = recorded.function(fail)
    skipped = recorded.function(square, bad)
    compiled = recorded.compile([*chain, bad, skipped])
    compiled.start()
    compiled.wait()
    single = recorded.function(square, 4)
    single.run()
    recorded.close()
    recorded.join()
    rows = rows_by_uid(recorded)
    assert set(rows) == {task.uid for task in [*chain, bad, skipped, single]}
    for row in rows.values():
        assert row["submitted"] <= row["ready"] <= row["started"] <= row["ended"]
    for task, status in [(first, "done"), (bad, "failed"), (skipped, "skipped"), (single, "done")]:
        assert rows[task.uid]["status"] == status
    assert rows[first.uid]["name"] == "square"
    assert rows[first.uid]["rank"] in recorded._live.ranks
    assert rows[first.uid]["host"] == recorded._manager.hosts[rows[first.uid]["rank"]]
    assert rows[skipped.uid]["rank"] == -1
    assert rows[chain[1].uid]["started"] >= rows[first.uid]["ended"]
    assert rows[chain[2].uid]["bytes_out"] >= 800_000
    assert set(recorded.telemetry().busy()) <= set(recorded._live.ranks)


def test_times_of_a_task_that_waits(recorded: Batch, gate: Gate) -> None:
    slow = recorded.function(pass_and_call, gate, square, 3)
    after = recorded.function(square, slow)
    recorded.compile([slow, after]).start()
    gate.arrived()
    gate.open()
    assert after.result.get() == 81
    recorded.close()
    recorded.join()
    rows = rows_by_uid(recorded)
    busy = recorded.telemetry().busy()
    lasted = rows[slow.uid]["ended"] - rows[slow.uid]["started"]
    assert lasted > 0
    assert busy[rows[slow.uid]["rank"]] >= lasted * 0.99


def test_tasks_that_were_cancelled(recorded: Batch, gate: Gate) -> None:
    slow = recorded.function(pass_and_call, gate, square, 3)
    slow.start()
    gate.arrived()
    never = recorded.function(square, slow)
    never.start()
    gate.open()
    recorded.terminate()
    slow.wait()
    never.wait()
    assert set(rows_by_uid(recorded)) == {slow.uid, never.uid}


def test_thousands_of_rows_and_a_trace(recorded: Batch, tmp_path: Path) -> None:
    tasks = [recorded.function(square, i) for i in range(2000)]
    recorded.compile(tasks).run()
    recorded.close()
    recorded.join()
    telemetry = recorded.telemetry()
    assert sorted(row["uid"] for row in telemetry.rows()) == [task.uid for task in tasks]
    telemetry.write(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(tasks)
    assert all(event["dur"] >= 0 for event in complete)


def test_nothing_is_recorded_unless_asked_for(batch: Batch) -> None:
    batch.function(square, 3).run()
    with pytest.raises(TaskStateError, match="create the Batch with enable_telem=True"):
        batch.telemetry()


FORMATS = [".dot", ".json", ".graphml", ".svg", ".png"]


@pytest.mark.parametrize("ending", FORMATS)
def test_the_graph_before_and_after_it_ran(batch: Batch, tmp_path: Path, ending: str) -> None:
    if ending in (".svg", ".png"):
        pytest.importorskip("matplotlib")
    first = batch.function(square, 3, writes=batch.write(tmp_path, "a"))
    bad = batch.function(fail, reads=batch.read(tmp_path, "a"), writes=batch.write(tmp_path, "b"))
    skipped = batch.function(square, 4, reads=batch.read(tmp_path, "b"))
    compiled = batch.compile([first, bad, skipped])
    before, after = tmp_path / f"before{ending}", tmp_path / f"after{ending}"
    compiled.dump_dag(str(before))
    compiled.start()
    compiled.wait()
    compiled.dump_dag(after)
    assert before.stat().st_size > 0
    assert after.read_bytes() != before.read_bytes()
    if ending in (".dot", ".json", ".graphml"):
        text = after.read_text()
        assert all(word in text for word in ("square", "fail", "RAW", "done", "skipped"))
        assert "skipped" not in before.read_text()


def test_graphs_that_cannot_be_drawn(batch: Batch, tmp_path: Path) -> None:
    task = batch.function(square, 3)
    with pytest.raises(TaskStateError, match="is a single task and has no dependency graph"):
        task.dump_dag(tmp_path / "dag.png")
    compiled = batch.compile([task])
    with pytest.raises(ValueError, match="xyz"):
        compiled.dump_dag(tmp_path / "dag.xyz")
    with pytest.raises(OSError, match="missing"):
        compiled.dump_dag(tmp_path / "missing" / "dag.dot")
    compiled.run()
