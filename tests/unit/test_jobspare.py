"""A worker's wrapper as the worker sees it."""

from __future__ import annotations

import os
import signal

from alamo_mpi.runtime.jobspare import Spare


def test_one_that_goes_before_it_is_told_is_cleared_away() -> None:
    """It says so, is never over, and can be ended again: the worker that has it goes on."""
    spare = Spare()
    os.kill(spare.pid, signal.SIGKILL)
    os.waitid(os.P_PID, spare.pid, os.WEXITED | os.WNOWAIT)
    assert not spare.stand_for(0, {})
    assert not spare.is_over()
    spare.end()


def test_one_that_waits_ends_when_it_is_told_to() -> None:
    spare = Spare()
    spare.end()
    assert not spare.is_over()
