"""Whether a task is isolated: the task's word, the batch's, the environment's."""

from __future__ import annotations

from typing import Any

import pytest

from alamo_mpi.isolating import VARIABLE, default_isolation, isolates


@pytest.mark.parametrize(("said", "means"), [("", False), ("0", False), ("1", True), (" 1 ", True)])
def test_the_environment(monkeypatch: pytest.MonkeyPatch, said: str, means: bool) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert default_isolation() is means
    monkeypatch.delenv(VARIABLE)
    assert default_isolation() is False


@pytest.mark.parametrize("said", ["yes", "true", "2", "-1"])
def test_nonsense_in_the_environment(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(ValueError, match=f"ALAMO_ISOLATE='{said}': set it to 1 .* or to 0"):
        default_isolation()


@pytest.mark.parametrize("default", [True, False])
def test_who_says_something_is_heard(default: bool) -> None:
    assert isolates(True, default) is True
    assert isolates(False, default) is False
    assert isolates(None, default) is default


@pytest.mark.parametrize("said", [0, 1, "yes", [True]])
def test_no_bool(said: Any) -> None:
    with pytest.raises(TypeError, match="isolate must be True, False or None"):
        isolates(said, False)
