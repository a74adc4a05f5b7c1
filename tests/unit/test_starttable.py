"""What a start says of what it knows; `tests/launch` has real ranks say it."""

from __future__ import annotations

import pytest

from alamo_mpi.startlog import Start, table, warnings

START = Start(("a", "a", "b"), {"a": 8, "b": 8}, ((), (), ()), 2 << 30, False, False, True, -1)


def test_nothing_to_warn_of() -> None:
    assert warnings(START) == []
    assert "note" not in table(START, [])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pool": 8 << 20}, "8 MiB a rank: half of what /dev/shm of one of 2 hosts"),
        ({"pool": 8 << 20, "pool_asked_for": True}, ""),
        ({"pinnable": 8 << 20}, "At most 8 MiB may be pinned on a"),
        ({"pinnable": 64 << 20}, ""),
    ],
)
def test_warnings(changed: dict[str, int], says: str) -> None:
    found = warnings(START._replace(**changed))
    assert bool(found) == bool(says)
    assert says in "".join(found)
    assert all(warning in table(START._replace(**changed), []) for warning in found)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "2048 MiB a rank; loads and stores on a host, operations of MPI between hosts"),
        ({"direct": False}, "operations of MPI on a host, operations of MPI between hosts"),
        ({"one_node": True}, "2048 MiB a rank; loads and stores between ranks"),
        ({"one_node": True, "direct": False}, "operations of MPI between ranks"),
        ({"hosts": ("a", "b", "c")}, "rank; operations of MPI between hosts, which without"),
        ({"ncpus": {"a": 1, "b": 1}}, "note         more ranks than processors on a (2 ranks, 1 "),
        ({"gpus": ((), ("0",), ("0",))}, "GPUs         rank 1: 0; rank 2: 0\n"),
    ],
)
def test_rows(changed: dict[str, object], says: str) -> None:
    lines = table(START._replace(**changed), [("MPI", "one")])  # type: ignore[arg-type]
    assert lines.startswith("alamo_mpi starts with 3 ranks:\n  ranks        a x ")
    assert "\n  MPI          one\n" in lines
    assert says in lines + "\n"


def test_gpus_are_shared_by_workers_of_one_host_only() -> None:
    shared = START._replace(hosts=("a", "a", "a"), gpus=((), ("0",), ("0",)))
    assert "several workers share a GPU" in table(shared, [])
    apart = START._replace(gpus=(("0",), ("0",), ("0",)))
    assert "several workers" not in table(apart, [])


def test_one_rank() -> None:
    alone = START._replace(hosts=("a",), ncpus={"a": 8}, gpus=(("0",),), one_node=True)
    assert "starts with 1 rank:" in table(alone, [])
    assert "no other rank" in table(alone, [])
    assert "rank 0: 0" in table(alone, [])
    assert "tasks run inside the program" in table(alone, [])
