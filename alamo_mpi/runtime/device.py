"""GPUs of this process: found, shared among the ranks of a host, and shown to nobody else.

A rank learns which GPUs are its own before anything touches one, since CUDA reads
``CUDA_VISIBLE_DEVICES`` once.  What Slurm or the user has put there is respected: the ranks share
what it allows.  Nothing here loads a GPU library; where there is no GPU, the look costs one failed
``listdir``.

``ALAMO_FAKE_GPUS=4`` makes the host have four GPUs that are not there, to try placement out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from alamo_mpi.core.gpus import Device, Inventory, share
from alamo_mpi.core.policy import Seat
from alamo_mpi.runtime.environment import changed

__all__ = ["gpus", "inventory", "seats", "shared", "table", "visible"]

MASK = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_FAKE = "ALAMO_FAKE_GPUS"
_DRIVER = Path("/proc/driver/nvidia/gpus")
_PCI = Path("/sys/bus/pci/devices")
_NODES = Path("/sys/devices/system/node")


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, by the names of ``CUDA_VISIBLE_DEVICES``.

    Returns
    -------
    tuple of str
        In a task the GPUs of its worker, the first of which is the current device of a library
        that nobody has told otherwise.

    Notes
    -----
    Local; loads no GPU library.
    """
    return tuple(device.name for device in _devices())


def inventory() -> Inventory:
    """Return what this rank says of itself when the program starts; local."""
    devices = _devices()
    node = _node_of_cpus(os.sched_getaffinity(0)) if devices else None
    return Inventory(os.cpu_count() or 1, node, devices)


def shared(hosts: Sequence[str], told: Sequence[object]) -> tuple[tuple[str, ...], ...]:
    """Return the GPUs of each rank, from what each has said of itself; see `core.gpus.share`."""
    return share(hosts, [Inventory(*each) for each in told])  # type: ignore[misc]


def visible(names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Show this process, and what it starts, these GPUs only; without any, change nothing."""
    if not names:
        return contextlib.nullcontext()
    variables = {MASK: ",".join(names)}
    if MASK not in os.environ:
        # Numbers are those of this order, unless a mask says that somebody counts in another.
        variables[_ORDER] = "PCI_BUS_ID"
    return changed(variables)


def seats(hosts: Sequence[str], told: Sequence[object]) -> tuple[Seat, ...]:
    """Return what each rank has, by rank."""
    names = shared(hosts, told)
    usable: dict[str, dict[str, None]] = {host: {} for host in hosts}
    for host, each in zip(hosts, told, strict=True):
        usable[host].update(dict.fromkeys(d.name for d in Inventory(*each).devices))  # type: ignore[misc]
    return tuple(
        Seat(host, Inventory(*each).ncpus, own, tuple(usable[host]))  # type: ignore[misc]
        for host, each, own in zip(hosts, told, names, strict=True)
    )


def table(seats: Sequence[Seat], ranks: Sequence[int]) -> str:
    """Return a line for each of some ranks: where it is, and which GPUs it has."""
    rows = []
    for rank in ranks:
        own = ", ".join(seats[rank].gpus) or "none"
        rows.append(f"rank {rank}: host {seats[rank].host}, GPUs {own}")
    return "\n".join(rows)


def _devices() -> tuple[Device, ...]:
    found = _installed()
    mask = os.environ.get(MASK)
    if mask is None:
        return found
    nodes = {device.name: device.node for device in found}
    names: list[str] = []
    for name in mask.split(","):
        # As CUDA does it: what follows something invalid is not visible.
        if not name.strip() or name.strip() in ("-1", "NoDevFiles"):
            break
        names.append(name.strip())
    return tuple(Device(name, nodes.get(name)) for name in names) if found else ()


def _installed() -> tuple[Device, ...]:
    """Return the GPUs of this host, in the order of the PCI bus."""
    fake = os.environ.get(_FAKE, "")
    if fake:
        return tuple(Device(str(number), None) for number in range(int(fake)))
    try:
        buses = sorted(os.listdir(_DRIVER))
    except OSError:
        return ()
    return tuple(Device(str(number), _node_of(bus)) for number, bus in enumerate(buses))


def _node_of(bus: str) -> int | None:
    """Return the NUMA node of a PCI device, None where the kernel does not know."""
    with contextlib.suppress(OSError, ValueError):
        node = int((_PCI / bus.lower() / "numa_node").read_text())
        return node if node >= 0 else None
    return None


def _node_of_cpus(cpus: set[int]) -> int | None:
    """Return the NUMA node that holds all these CPUs."""
    with contextlib.suppress(OSError, ValueError):
        for entry in _NODES.glob("node[0-9]*"):
            if cpus <= _numbers((entry / "cpulist").read_text()):
                return int(entry.name.removeprefix("node"))
    return None


def _numbers(text: str) -> set[int]:
    """Parse a list such as 0-3,8-11."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
