"""What a program that starts has found and picked: a table in rank 0's log, and warnings.

All of it is known by then, so nothing is measured or sent for it.  The table is made where somebody
reads it (level INFO of the logger ``alamo_mpi.startlog``, some 3 ms); the warnings cost some
microseconds.  ``ALAMO_LOG=info`` asks for the log from outside of the program: under ``python -m
alamo_mpi`` a program's own ``logging.basicConfig`` comes after the start.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.cards import INFINIBAND, has_card

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World
    from alamo_mpi.runtime.pool import Pool

__all__ = ["ENOUGH_TO_PIN", "SETTING", "Start", "listen", "log_start", "table", "warnings"]

SETTING = "ALAMO_LOG"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
#: Bytes that a network card with RDMA wants to pin.
ENOUGH_TO_PIN = 64 << 20
#: A pool below this was made small by the room in /dev/shm.
_SMALL_POOL = 32 << 20

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """What is known of a start; plain values.

    Attributes
    ----------
    hosts : tuple of str
        Host by rank.
    ncpus : dict of str to int
        Processors of each host.
    gpus : tuple of tuple of str
        The GPUs of each rank.
    pool : int
        Bytes of the memory pool, each rank.
    pool_asked_for : bool
        Whether somebody has set its size.
    one_node, direct : bool
        Whether all ranks share memory; whether another rank's is reached by loads and stores.
    pinnable : int
        Bytes that rank 0 may pin for a network card that is there; -1 for no card, or no limit.
    """

    hosts: tuple[str, ...]
    ncpus: dict[str, int]
    gpus: tuple[tuple[str, ...], ...]
    pool: int
    pool_asked_for: bool
    one_node: bool
    direct: bool
    pinnable: int


def listen(rank: int) -> None:
    """Write the package's log to stderr, if ``ALAMO_LOG`` names a level; local.

    Raises
    ------
    LaunchError
        It is set to something else.
    """
    level = os.environ.get(SETTING, "").upper()
    if not level:
        return
    if level not in _LEVELS:
        raise LaunchError(f"{SETTING}={level!r}: it must be one of {', '.join(_LEVELS)}.")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"rank {rank}: %(levelname)s: %(name)s: %(message)s"))
    # From when the program has set up its own logging on, that tells everything.
    handler.addFilter(lambda record: not logging.root.handlers)
    package = logging.getLogger(__package__)
    package.addHandler(handler)
    package.setLevel(level)


def log_start(world: World, pool: Pool) -> None:
    """Log warnings and the table; local, on rank 0."""
    start = _known(world, pool)
    for warning in warnings(start):
        logger.warning("%s", warning)
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", table(start, _rows_of_libraries(world)))


def warnings(start: Start) -> list[str]:
    """Return what costs a program that does not know of it, a sentence or two each.  Pure."""
    found = []
    if start.pool < _SMALL_POOL and not start.pool_asked_for:
        found.append(
            f"The memory pool of DDict and Queue has {_mib(start.pool)} a rank: half of what "
            f"/dev/shm of {_somewhere(start)} has free is no more. Make it larger (mount -o "
            "remount,size=..., docker --shm-size), or say by ALAMO_POOL_BYTES that it is enough."
        )
    if 0 <= start.pinnable < ENOUGH_TO_PIN:
        found.append(
            f"At most {_mib(start.pinnable)} may be pinned on {start.hosts[0]}, so that MPI cannot "
            "use its RDMA card well: ulimit -l unlimited; under Slurm "
            "PropagateResourceLimitsExcept=MEMLOCK."
        )
    return found


def table(start: Start, libraries: list[tuple[str, str]]) -> str:
    """Return the table: what was found and picked, a row each.  Pure."""
    size = len(start.hosts)
    rows = [
        ("ranks", ", ".join(f"{host} x {start.hosts.count(host)}" for host in start.ncpus)),
        *libraries,
        ("memory pool", f"{_mib(start.pool)} a rank; {_reached(start)}"),
        ("GPUs", _gpus(start)),
        *(("note", note) for note in _notes(start)),
        *(("warning", warning) for warning in warnings(start)),
    ]
    width = max(len(name) for name, _ in rows)
    head = f"alamo_mpi starts with {size} rank{'s' * (size > 1)}:"
    return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _reached(start: Start) -> str:
    """Return how ranks reach each other's memory."""
    if len(start.hosts) == 1:
        return "no other rank"
    on_host = "loads and stores" if start.direct else "operations of MPI"
    if start.one_node:
        return f"{on_host} between ranks"
    alone = len(set(start.hosts)) == len(start.hosts)
    within = "" if alone else f"{on_host} on a host, "
    far = "operations of MPI between hosts, which without RDMA wait until the target looks"
    return within + far


def _gpus(start: Start) -> str:
    # Rank 0 has tasks only where it is alone.
    first = min(1, len(start.hosts) - 1)
    own = [
        f"rank {rank}: {', '.join(names)}"
        for rank, names in enumerate(start.gpus)
        if names and rank >= first
    ]
    return "; ".join(own) or "none"


def _notes(start: Start) -> list[str]:
    """Return what was found and may be as it should be."""
    notes = []
    if len(start.hosts) == 1:
        notes.append("one rank: tasks run inside the program, one at a time")
    crowded = [
        f"{host} ({start.hosts.count(host)} ranks, {ncpus} processors)"
        for host, ncpus in start.ncpus.items()
        if start.hosts.count(host) > ncpus
    ]
    if crowded:
        notes.append(f"more ranks than processors on {', '.join(crowded)}: they take turns")
    workers = list(zip(start.hosts, start.gpus, strict=True))[1:]
    owned = [(host, name) for host, names in workers for name in names]
    if len(owned) > len(set(owned)):
        notes.append("several workers share a GPU")
    return notes


def _mib(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB"


def _somewhere(start: Start) -> str:
    hosts = list(start.ncpus)
    return hosts[0] if len(hosts) == 1 else f"one of {len(hosts)} hosts"


def _known(world: World, pool: Pool) -> Start:
    from alamo_mpi.core.gpus import Inventory
    from alamo_mpi.runtime.device import shared
    from alamo_mpi.runtime.home import SETTING as POOL_SETTING

    window = pool.window
    told = [Inventory(*each) for each in world.told]  # type: ignore[misc]
    return Start(
        world.hosts,
        {host: each.ncpus for host, each in zip(world.hosts, told, strict=True)},
        shared(world.hosts, world.told),
        window.nbytes,
        bool(os.environ.get(POOL_SETTING)),
        world.one_node,
        any(window.direct[rank] for rank in range(1, world.size)),
        -1 if world.one_node else _pinnable(),
    )


def _pinnable() -> int:
    if not has_card(INFINIBAND):
        return -1
    import resource  # where there is a card

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return -1 if limit == resource.RLIM_INFINITY else limit


def _rows_of_libraries(world: World) -> list[tuple[str, str]]:
    """Return who has started this, by what, and how idle ranks wait and jobs start; local."""
    import shutil  # these are loaded where the table is wanted

    from alamo_mpi.core.launch import choose_launch
    from alamo_mpi.mpi.announced import ranks_of_launcher
    from alamo_mpi.mpi.probe import library_facts
    from alamo_mpi.runtime.backoff import longest_nap_s

    library = library_facts()
    launcher = ranks_of_launcher(os.environ)
    nap_ms = longest_nap_s(world.one_node) * 1e3
    in_slurm = "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None
    return [
        ("launcher", "none" if launcher is None else f"it told {launcher[0]}={launcher[1]}"),
        ("MPI", f"{library.version}, mpi4py {library.mpi4py}, {library.thread_level}"),
        ("idle ranks", f"look each {nap_ms:g} ms, or are woken on their host"),
        ("jobs", f"started by {choose_launch(library.family, in_slurm=in_slurm)}"),
    ]
