"""Which GPUs of its host each rank gets; every rank computes the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Device", "Inventory", "Means", "share"]


class Device(NamedTuple):
    """One GPU: its name as in ``CUDA_VISIBLE_DEVICES``, and its NUMA node if that is known."""

    name: str
    node: int | None


class Inventory(NamedTuple):
    """What a rank says of itself when the program starts."""

    #: Number of CPUs of its host.
    ncpus: int
    #: The NUMA node of the CPUs that it is bound to; None if unknown, or if they are of several.
    node: int | None
    #: What it may use, as a mask of the user or of Slurm allows.
    devices: tuple[Device, ...]


class Means(NamedTuple):
    """What one worker has."""

    host: str
    #: Number of CPUs of its host.
    ncpus: int
    #: Its own GPUs, and those of its host that the program may use; by their names.
    gpus: tuple[str, ...]
    host_gpus: tuple[str, ...]


def share(hosts: Sequence[str], inventories: Sequence[Inventory]) -> tuple[tuple[str, ...], ...]:
    """Return the names of the GPUs that each rank gets.

    Parameters
    ----------
    hosts, inventories
        By rank.

    Notes
    -----
    Ranks of one host that may use the same GPUs share them evenly: each gets a block of its own, or
    where there are more ranks than GPUs, neighbours have one together.  Both are taken by NUMA
    node, so that a rank gets what is near it.  Rank 0 runs no tasks where there are others: it
    gets what it may use, and that is not taken from them.
    """
    given = [tuple(device.name for device in each.devices) for each in inventories]
    groups: dict[tuple[str, tuple[Device, ...]], list[int]] = {}
    for rank, (host, inventory) in enumerate(zip(hosts, inventories, strict=True)):
        if inventory.devices and (rank or len(hosts) == 1):
            groups.setdefault((host, inventory.devices), []).append(rank)
    for (_, devices), ranks in groups.items():
        near = sorted(ranks, key=lambda rank: _last_if_unknown(inventories[rank].node))
        ordered = sorted(devices, key=lambda device: _last_if_unknown(device.node))
        for at, rank in enumerate(near):
            first = at * len(ordered) // len(near)
            stop = max((at + 1) * len(ordered) // len(near), first + 1)
            given[rank] = tuple(device.name for device in ordered[first:stop])
    return tuple(given)


def _last_if_unknown(node: int | None) -> float:
    return float("inf") if node is None else node
