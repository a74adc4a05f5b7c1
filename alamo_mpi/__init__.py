"""Sequential-looking Python programs, run in parallel on any machine that has MPI.

The public names live here and are imported on first use (PEP 562), so that ``import alamo_mpi``
is quick and starts no MPI.  Rooms, from the inside out: `errors`, `core` (decisions), `mpi`
(communication), `runtime` (manager and workers), `batch`, `task` and `session` (what users hold).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alamo_mpi.attachment import Attachment, attach
    from alamo_mpi.batch import Batch
    from alamo_mpi.core.access import CommunicationDomain, CommunicationObject, DataAccess
    from alamo_mpi.core.policy import Policy
    from alamo_mpi.ddict import DDict
    from alamo_mpi.errors import (
        AlamoError,
        CancelledError,
        DDictDestroyedError,
        DDictError,
        DDictFrozenError,
        DDictFullError,
        DDictTimeoutError,
        DeadlockError,
        DependencyError,
        GatewayError,
        InternalError,
        JobError,
        JobTimeoutError,
        LaunchError,
        QueueClosedError,
        QueueDestroyedError,
        QueueMemoryError,
        RemoteError,
        RemoteTraceback,
        SerializationError,
        ShardLostError,
        StopSignal,
        TaskStateError,
        TaskTimeoutError,
        WorkerDiedError,
        WorkersBusyError,
    )
    from alamo_mpi.handle import AsyncDict
    from alamo_mpi.queue import Queue
    from alamo_mpi.runtime.device import gpus
    from alamo_mpi.runtime.turn import waiting
    from alamo_mpi.session import init, serve
    from alamo_mpi.task import Task

    __version__: str

__all__ = [
    "AlamoError",
    "AsyncDict",
    "Attachment",
    "Batch",
    "CancelledError",
    "CommunicationDomain",
    "CommunicationObject",
    "DDict",
    "DDictDestroyedError",
    "DDictError",
    "DDictFrozenError",
    "DDictFullError",
    "DDictTimeoutError",
    "DataAccess",
    "DeadlockError",
    "DependencyError",
    "GatewayError",
    "InternalError",
    "JobError",
    "JobTimeoutError",
    "LaunchError",
    "Policy",
    "Queue",
    "QueueClosedError",
    "QueueDestroyedError",
    "QueueMemoryError",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "ShardLostError",
    "StopSignal",
    "Task",
    "TaskStateError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "WorkersBusyError",
    "__version__",
    "attach",
    "gpus",
    "init",
    "serve",
    "waiting",
]

_HOMES = {
    "AsyncDict": "handle",
    "Attachment": "attachment",
    "Batch": "batch",
    "CommunicationDomain": "core.access",
    "CommunicationObject": "core.access",
    "DDict": "ddict",
    "DataAccess": "core.access",
    "Policy": "core.policy",
    "Queue": "queue",
    "Task": "task",
    "attach": "attachment",
    "gpus": "runtime.device",
    "init": "session",
    "serve": "session",
    "waiting": "runtime.turn",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object
    if name == "__version__":
        value = _version()
    else:
        home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
        value = getattr(home, name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alamo-mpi")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
