"""Where an interruption may be raised: in user code, by the stack that leads there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from alamo_mpi.runtime.interrupter import MARK, in_user_code

RUN = "alamo_mpi.runtime.execute"
GUARD = "alamo_mpi.runtime.runners"
OURS = "alamo_mpi.core.table"


def calls(stack: list[str], marked: str = "") -> bool:
    """Ask with frames of functions in modules of these names on the stack, outermost first."""
    function: Callable[[], Any] = lambda: in_user_code(sys._getframe(1))  # noqa: E731
    for name in reversed(stack):
        space: dict[str, Any] = {"__name__": name, "function": function, MARK: name == marked}
        exec("def call():\n    return function()", space)
        function = space["call"]
    return bool(function())


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([RUN, "app"], True),
        ([RUN], True),
        ([RUN, "app", "json.decoder"], True),
        ([RUN, GUARD, "app"], True),
        ([RUN, OURS], False),
        ([RUN, "app", OURS], False),
        ([RUN, "app", OURS, "threading"], False),  # a wait of ours
        ([RUN, "app", OURS, "app"], False),  # a pickling hook: we go on behind it
        ([RUN, "app", "alamo_mpi_tools"], True),
        ([OURS, "app"], False),
    ],
)
def test_where(stack: list[str], expected: bool) -> None:
    assert calls(stack) is expected


def test_a_module_that_can_be_left_at_any_bytecode() -> None:
    assert calls([RUN, OURS, "select"], marked=OURS)
    assert not calls([RUN, OURS, "alamo_mpi.core.heap"], marked=OURS)


def test_a_thread_that_is_gone() -> None:
    assert not in_user_code(None)
