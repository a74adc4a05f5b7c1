"""What a program that starts has found and picked, in one line of its log; the doctor's short form.

All of it is known by then, so the line costs some 3 ms, and nothing where nobody reads it (level
INFO of the logger ``alamo_mpi.startline``).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from alamo_mpi.core.launch import choose_launch
from alamo_mpi.mpi.announced import ranks_of_launcher
from alamo_mpi.mpi.probe import library_facts
from alamo_mpi.runtime.backoff import longest_nap_s
from alamo_mpi.runtime.device import shared

if TYPE_CHECKING:
    from alamo_mpi.mpi.world import World
    from alamo_mpi.runtime.pool import Pool

__all__ = ["log_start", "start_line"]

logger = logging.getLogger(__name__)


def log_start(world: World, pool: Pool) -> None:
    """Log the line; local, on rank 0."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", start_line(world, pool))


def start_line(world: World, pool: Pool) -> str:
    """Return the line: ranks, launcher, MPI, threads, memory pool, how jobs start, GPUs; local."""
    library = library_facts()
    launcher = ranks_of_launcher(os.environ)
    import shutil  # loaded where the line is wanted

    in_slurm = "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None
    nap_ms = longest_nap_s(world.one_node) * 1e3
    parts = [
        f"{world.size} rank{'s' * (world.size > 1)} on {_counted(world.hosts)}",
        "no launcher" if launcher is None else f"launcher told {launcher[0]}={launcher[1]}",
        f"{library.version}, mpi4py {library.mpi4py}, {library.thread_level}",
        f"memory pool {pool.window.nbytes >> 20} MiB a rank, "
        + ("shared by all" if world.one_node else "between hosts served by their ranks"),
        f"idle ranks look each {nap_ms:g} ms",
        f"jobs by {choose_launch(library.family, in_slurm=in_slurm)}",
        _gpus(world),
    ]
    return "alamo_mpi starts: " + "; ".join(parts) + "."


def _counted(hosts: tuple[str, ...]) -> str:
    return ", ".join(f"{host} x {hosts.count(host)}" for host in dict.fromkeys(hosts))


def _gpus(world: World) -> str:
    first = min(1, world.size - 1)  # rank 0 has tasks only where it is alone
    own = enumerate(shared(world.hosts, world.told))
    with_gpus = [
        f"rank {rank}: {','.join(names)}" for rank, names in own if names and rank >= first
    ]
    return f"GPUs of {', '.join(with_gpus)}" if with_gpus else "no GPUs"
