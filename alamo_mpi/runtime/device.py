"""GPUs of this process: found, shared among the ranks of a host, and shown to nobody else.

A rank learns which GPUs are its own before anything touches one, since CUDA reads
``CUDA_VISIBLE_DEVICES`` once.  What Slurm or the user has put there is respected: the ranks share
what it allows.  Only a GPU array that is pickled or unpickled makes this import cupy; where there
is no GPU, the look for it costs one failed ``listdir``.

``ALAMO_FAKE_GPUS=4`` makes the host have four GPUs that are not there, to try placement out.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alamo_mpi.core.gpus import Device, Inventory, Means, share
from alamo_mpi.runtime.environment import changed

__all__ = [
    "gpus",
    "inventory",
    "is_gpu_array",
    "means",
    "rebuilt",
    "reduced",
    "shared",
    "table",
    "tell_gpus",
    "visible",
]

MASK = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_FAKE = "ALAMO_FAKE_GPUS"
_WITHOUT = "ALAMO_GPU_ARRAYS"
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
    return changed(mask(names)) if names else contextlib.nullcontext()


def mask(names: Sequence[str]) -> dict[str, str]:
    """Return the variables that show a process these GPUs only."""
    variables = {MASK: ",".join(names)}
    if MASK not in os.environ:
        # Numbers are those of this order, unless a mask says that somebody counts in another.
        variables[_ORDER] = "PCI_BUS_ID"
    return variables


def means(hosts: Sequence[str], told: Sequence[object]) -> tuple[Means, ...]:
    """Return what each rank has, by rank."""
    names = shared(hosts, told)
    usable: dict[str, dict[str, None]] = {host: {} for host in hosts}
    for host, each in zip(hosts, told, strict=True):
        usable[host].update(dict.fromkeys(d.name for d in Inventory(*each).devices))  # type: ignore[misc]
    return tuple(
        Means(host, Inventory(*each).ncpus, own, tuple(usable[host]))  # type: ignore[misc]
        for host, each, own in zip(hosts, told, names, strict=True)
    )


def tell_gpus(logger: str, means: Sequence[Means], ranks: Sequence[int]) -> None:
    """Log who has which GPUs, if anybody has any; local."""
    if any(each.gpus for each in means):
        logging.getLogger(logger).info("GPUs:\n%s", table(means, ranks))


def table(means: Sequence[Means], ranks: Sequence[int]) -> str:
    """Return a line for each of some ranks: where it is, and which GPUs it has."""
    rows = []
    for rank in ranks:
        own = ", ".join(means[rank].gpus) or "none"
        rows.append(f"rank {rank}: host {means[rank].host}, GPUs {own}")
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


# Arrays -------------------------------------------------------------------------------------------


def is_gpu_array(value: object) -> bool:
    """Tell whether something is a cupy array, without importing cupy: who has one has done that."""
    kind = type(value)
    return kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "cupy"


def reduced(array: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return how a pickle describes a GPU array: its bytes on the host, and `rebuilt`.

    The copy comes through pinned memory, which the GPU writes at the full speed of its bus; the
    pickler then takes it out of band, like the data of any numpy array.
    """
    import cupy

    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    source = array.T if fortran else cupy.ascontiguousarray(array)
    host = _pinned(cupy, source.shape, source.dtype)
    source.get(out=host)
    return rebuilt, (host, fortran)


def rebuilt(host: Any, fortran: bool) -> Any:
    """Return the array on this process's first GPU; without one as a numpy array, if asked for.

    Raises
    ------
    RuntimeError
        There is no GPU, and nobody has asked for numpy.
    """
    if not gpus():
        if os.environ.get(_WITHOUT) != "numpy":
            raise RuntimeError(
                f"a GPU array cannot arrive in a process without a GPU: return cupy.asnumpy(...) "
                f"from the task, or set {_WITHOUT}=numpy to have numpy arrays in its place"
            )
        return host.T if fortran else host
    import cupy

    staged = _pinned(cupy, host.shape, host.dtype)
    staged[...] = host
    array = cupy.empty(host.shape, host.dtype)
    array.set(staged)
    cupy.cuda.get_current_stream().synchronize()  # the pinned memory goes back to its pool
    return array.T if fortran else array


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a numpy array in page-locked memory, from a pool."""
    import numpy as np

    count = int(np.prod(shape))
    if not count:
        return np.empty(shape, dtype)
    memory = cupy.cuda.alloc_pinned_memory(count * dtype.itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)
