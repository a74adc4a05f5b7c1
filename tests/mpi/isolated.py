"""What the tests of isolated tasks share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import alamo_mpi
from alamo_mpi import RemoteTraceback, WorkerDiedError
from tests.mpi.gates import LIMIT_S

#: A time-out of a task that would run on.
SOON_S = 0.3
LONG_S = 4 * LIMIT_S


def square(x: int) -> int:
    return x * x


def pids() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_gone(pid: int) -> bool:
    """Tell whether no process, not even a zombie, has this number."""
    return not Path(f"/proc/{pid}").exists()


def died(task: alamo_mpi.Task) -> WorkerDiedError:
    task.start()
    with pytest.raises(WorkerDiedError) as caught:
        task.result.get(timeout=LIMIT_S)
    error = caught.value
    assert error.uid == task.uid
    assert error.rank is not None
    assert error.host == alamo_mpi.init().world.hosts[error.rank]
    assert error.rank is not None
    assert error.pid is not None
    assert is_gone(error.pid)
    assert isinstance(error.__cause__, RemoteTraceback)
    return error
