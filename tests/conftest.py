"""Failures noted for the end of `tests/run.sh`, where a long log's reader looks first."""

from __future__ import annotations

import os

import pytest

#: Names the file that failures are added to; set by `tests/run.sh`.
_ENVIRONMENT_NAME = "ALAMO_FAILED_TESTS"
_LINES = 12
_COLUMNS = 200


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = os.environ.get(_ENVIRONMENT_NAME)
    if not report.failed or not path:
        return
    told = [line for line in report.longreprtext.splitlines() if line.startswith("E  ")]
    lines = [f"  {report.nodeid} ({report.when})", *(f"    {line[1:].strip()}" for line in told)]
    with open(path, "a") as file:
        file.writelines(f"{line[:_COLUMNS]}\n" for line in lines[: 1 + _LINES])
