"""Durations: one running estimate per function."""

from __future__ import annotations

import pytest

from alamo_mpi.core.estimate import Durations


def test_nothing_is_known_before_the_first_measurement() -> None:
    durations = Durations()
    assert durations.of(3) is None
    durations.observe(3, 1, 0.5)
    assert (durations.of(3), durations.of(4)) == (0.5, None)


def test_the_measurement_covers_all_tasks_of_a_message() -> None:
    durations = Durations()
    durations.observe(1, 100, 0.2)
    assert durations.of(1) == pytest.approx(2e-3)


def test_a_slow_first_run_is_soon_forgotten() -> None:
    """An import in the first call: a second once, a millisecond from then on."""
    durations = Durations()
    durations.observe(1, 1, 1.0)
    for _ in range(15):
        durations.observe(1, 8, 8e-3)
    assert durations.of(1) == pytest.approx(1e-3, rel=0.1)


def test_the_estimate_stays_between_what_was_measured() -> None:
    durations = Durations()
    durations.observe(1, 1, 1e-3)
    durations.observe(1, 1, 3e-3)
    seconds = durations.of(1)
    assert seconds is not None
    assert 1e-3 < seconds < 3e-3


def test_no_task_is_thought_to_take_no_time() -> None:
    """A clock that did not move between two readings must not make a chunk endless."""
    durations = Durations()
    durations.observe(1, 10, 0.0)
    seconds = durations.of(1)
    assert seconds is not None
    assert seconds > 0
