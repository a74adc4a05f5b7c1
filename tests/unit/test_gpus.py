"""GPUs: found without a GPU library, shared among the ranks of a host, shown to a worker only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alamo_mpi.core.gpus import Device, Inventory, share
from alamo_mpi.runtime import device


def rank(*names: str, node: int | None = None, nodes: tuple[int | None, ...] = ()) -> Inventory:
    known = nodes or (None,) * len(names)
    return Inventory(8, node, tuple(map(Device, names, known)))


FOUR = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("nworkers", "shares"),
    [
        (1, ["0123"]),
        (2, ["01", "23"]),
        (3, ["0", "1", "23"]),
        (4, ["0", "1", "2", "3"]),
        (6, ["0", "0", "1", "2", "2", "3"]),
        (8, ["0", "0", "1", "1", "2", "2", "3", "3"]),
    ],
)
def test_workers_of_a_host_share_evenly(nworkers: int, shares: list[str]) -> None:
    given = share(["n1"] * (nworkers + 1), [rank(*FOUR)] * (nworkers + 1))
    assert given == (FOUR, *(tuple(each) for each in shares))


def test_a_rank_alone_has_all() -> None:
    assert share(["n1"], [rank(*FOUR)]) == (FOUR,)


def test_each_host_by_itself() -> None:
    ranks = [rank(), rank("0"), rank("0", "1"), rank("0", "1"), rank()]
    given = share(["n1", "n1", "n2", "n2", "n3"], ranks)
    assert given == ((), ("0",), ("0",), ("1",), ())


def test_ranks_that_see_different_gpus_keep_what_they_see() -> None:
    """As under ``srun --gpus-per-task=1``."""
    ranks = [rank("0"), rank("0"), rank("1"), rank("2"), rank("2")]
    assert share(["n1"] * 5, ranks) == (("0",), ("0",), ("1",), ("2",), ("2",))


def test_near_gpus_first() -> None:
    """Ranks 1 and 2 are bound to node 1, rank 3 and 4 to node 0; so are GPUs 0, 1 and 2, 3."""
    nodes = (1, 1, 0, 0)
    ranks = [rank(*FOUR, nodes=nodes, node=node) for node in (None, 1, 1, 0, 0)]
    assert share(["n1"] * 5, ranks)[1:] == (("0",), ("1",), ("2",), ("3",))
    swapped = [rank(*FOUR, nodes=nodes, node=node) for node in (None, 0, 1, 0, 1)]
    assert share(["n1"] * 5, swapped)[1:] == (("2",), ("0",), ("3",), ("1",))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two GPUs on two NUMA nodes, as the kernel would show it."""
    for bus, node in ("0000:0A:00.0", "1"), ("0000:3b:00.0", "0"):
        (tmp_path / "driver" / bus).mkdir(parents=True)
        (tmp_path / "pci" / bus.lower()).mkdir(parents=True)
        (tmp_path / "pci" / bus.lower() / "numa_node").write_text(f"{node}\n")
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(device, "_PCI", tmp_path / "pci")
    monkeypatch.setattr(device, "_NODES", tmp_path / "nodes")
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ALAMO_FAKE_GPUS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("host")
def test_gpus_are_numbered_along_the_bus_with_their_numa_nodes() -> None:
    assert device.inventory().devices == (Device("0", 1), Device("1", 0))
    assert device.gpus() == ("0", "1")


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        *[("1", ("1",)), ("1,0", ("1", "0")), (" 0 , 1", ("0", "1")), ("", ()), ("-1", ())],
        *[("NoDevFiles", ()), ("0,-1,1", ("0",)), ("GPU-5fd4,MIG-2", ("GPU-5fd4", "MIG-2"))],
    ],
)
@pytest.mark.usefixtures("host")
def test_a_mask_is_respected(
    mask: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert device.gpus() == names


def test_a_rank_that_is_bound_to_a_node_says_so(host: Path) -> None:
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    for node, listed in ("0", "100-107,200"), ("3", f"90-95,{cpus}"):
        (host / "nodes" / f"node{node}").mkdir(parents=True)
        (host / "nodes" / f"node{node}" / "cpulist").write_text(listed + "\n")
    assert device.inventory().node == 3


def test_no_gpu_is_no_trouble(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_DRIVER", host / "nothing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # left over from somewhere
    assert device.inventory() == Inventory(os.cpu_count() or 1, None, ())
    with device.visible(()):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_what_is_shown_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("ALAMO_FAKE_GPUS", "4")
    with device.visible(("2", "3")):
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert device.gpus() == ("2", "3")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert device.gpus() == FOUR


def test_seats_know_what_is_on_their_host() -> None:
    means = device.means(["n1", "n1", "n2"], [rank("0", "1"), rank("0", "1"), rank()])
    assert [each.gpus for each in means] == [("0", "1"), ("0", "1"), ()]
    assert [each.host_gpus for each in means] == [("0", "1"), ("0", "1"), ()]
    wanted = "rank 1: host n1, GPUs 0, 1\nrank 2: host n2, GPUs none"
    assert device.table(means, (1, 2)) == wanted
