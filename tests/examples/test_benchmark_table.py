"""The benchmark's table: what is met, what is missed, and what a row without a target says."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.support.mpirun import ROOT


@pytest.fixture(scope="module")
def table() -> ModuleType:
    path = ROOT / "benchmarks" / "shared" / "taskbench" / "table.py"
    spec = importlib.util.spec_from_file_location("taskbench_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (149.0, {"at_least": 0.15}, "MISSED"),
        (150.0, {"at_least": 0.15}, "met"),
        (1500.0, {"at_most": 1.5}, "met"),
        (1501.0, {"at_most": 1.5}, "MISSED"),
        (20.0, {"at_most": 20, "on_value": True}, "met"),
        (20.1, {"at_most": 20, "on_value": True}, "MISSED"),
        (94.9, {"at_least": 95, "on_value": True}, "MISSED"),
        (1.0, {}, "-"),
    ],
)
def test_verdict(table: ModuleType, value: float, target: dict[str, float], verdict: str) -> None:
    assert table.Row("a figure", value, "tasks/s", 3, "floor", 1000.0, **target).verdict == verdict


def test_columns_line_up(table: ModuleType) -> None:
    rows = [
        table.Row("short", 0.5, "s", 1, "bare", 0.25, at_most=1.5),
        table.Row("a longer figure", 1234567.0, "tasks/s", 5, "floor", 2469134.0, at_least=0.15),
    ]
    head, _, *lines = table.render(rows).splitlines()
    end = head.index("measured") + len("measured")
    for line, value, ratio, verdict in zip(
        lines, ("0.5", "1,234,567"), ("2", "0.5"), ("MISSED", "met"), strict=True
    ):
        assert line[:end].endswith(value)
        assert ratio in line.split()
        assert line.endswith(verdict)
