"""Fixtures for tests on rank 0, the other ranks being workers; nothing may be left after a test."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import alamo_mpi
from alamo_mpi import Batch
from alamo_mpi.runtime.manager import Manager
from tests.mpi.gates import LIMIT_S, Gate

#: Threads of the package that stay.
_OURS = {"alamo-driver", "alamo-interrupter", "alamo-runner"}
#: Of the connection of an isolated task's process, which stays for the next task.
_OF_CONNECTIONS = "alamo-gateway-"

_failed = pytest.StashKey[bool]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is there for good out of the collections after each test: it is most of it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session")
def manager() -> Manager:
    return alamo_mpi.init().manager


@pytest.fixture(scope="session")
def nworkers() -> int:
    """Number of workers in the program; in a world of one rank that rank is the worker."""
    return max(alamo_mpi.init().world.size - 1, 1)


@pytest.fixture(scope="session")
def alone() -> bool:
    """Whether the world has one rank, which runs the tasks itself."""
    return alamo_mpi.init().world.size == 1


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, manager: Manager) -> Iterator[None]:
    threads = set(threading.enumerate())
    yield
    gc.collect()  # exceptions of a test hold its frames, and these its tasks and batches
    clean = manager.drive(lambda: not _left(manager), 10.0)
    left = _left(manager)
    for live in manager.roster.batches:
        manager.terminate(live)
    failed = request.node.stash.get(_failed, False)
    assert clean or failed, f"the test has left {', '.join(left)}"
    more = {t.name for t in set(threading.enumerate()) - threads if t.is_alive()}
    more = {name for name in more if not name.startswith(_OF_CONNECTIONS)}
    assert failed or more <= _OURS, f"threads were left: {more}"


def _left(manager: Manager) -> list[str]:
    """Return what the manager still has to do or keeps for nobody."""
    ledger = manager._ledger
    blobs = ledger._blobs
    found = {
        "batches that hold workers": manager.roster.batches,
        "unfinished tasks": ledger.submissions or ledger._live_of,
        "values under way": manager._fetches,
        "callbacks": ledger.callbacks.due,
        "batches that nobody holds": manager.lives.abandoned,
        "values that nobody holds": ledger._unreachable,
        "clients on other ranks": manager.desk.clients,
        "buffers in use": len(blobs) > len(blobs._idle),
        "waits of tasks": len(manager.desk.circles._waits),
        "messages under way": not manager._transport.quiet,
    }
    return [what for what, there in found.items() if there]


@pytest.fixture
def batch(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Batch]:
    """A batch with all workers."""
    batch = Batch()
    yield batch
    _end(request, batch)


@pytest.fixture
def one(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Batch]:
    """A batch with one worker, whose tasks are isolated."""
    batch = Batch(1, isolate=True)
    yield batch
    _end(request, batch)


@pytest.fixture
def recorded(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Batch]:
    """A batch with all workers that records its tasks."""
    batch = Batch(enable_telem=True)
    yield batch
    _end(request, batch)


def _end(request: pytest.FixtureRequest, batch: Batch) -> None:
    if request.node.stash.get(_failed, False):
        batch.terminate()
        return
    batch.close()
    try:
        batch.join(LIMIT_S)
    except TimeoutError:
        batch.terminate()
        raise


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that is opened after the test at the latest."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()


@pytest.fixture
def big_memory(nworkers: int) -> None:
    """Skip where a buffer of 2.5 GiB has no room for its copies; they are held by two ranks."""
    if nworkers > 1:
        pytest.skip("the run on one or two ranks does it")
    need_kib = 14 << 20
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if available < need_kib:
        pytest.skip(f"needs {need_kib >> 20} GiB of memory; {available >> 20} GiB are free")
