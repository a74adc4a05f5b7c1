"""Policies: checked when made, and held against what the workers have."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from alamo_mpi import Policy
from alamo_mpi.core.gpus import Means
from alamo_mpi.core.policy import eligible

SEATS = {
    1: Means("n1.site", 8, ("0",), ("0", "1")),
    2: Means("n1.site", 8, ("1",), ("0", "1")),
    3: Means("n2.site", 4, (), ()),
    4: Means("n3.site", 4, ("0", "1"), ("0", "1")),
}


@pytest.mark.parametrize(
    ("wanted", "ranks"),
    [
        ({}, None),
        ({"threads": 3, "placement": "packed", "launch": "spawn"}, None),
        ({"host": "n2.site"}, {3}),
        ({"host": "n1"}, {1, 2}),
        ({"cpu_affinity": [0, 3]}, None),
        ({"cpu_affinity": [7]}, {1, 2}),
        ({"gpus": 1}, {1, 2, 4}),
        ({"gpus": 2}, {4}),
        ({"gpu_affinity": [0]}, {1, 4}),
        ({"gpu_affinity": ["0", 1]}, {4}),
        ({"gpus": 1, "host": "n1"}, {1, 2}),
    ],
)
def test_who_can_honour_it(wanted: dict[str, Any], ranks: set[int] | None) -> None:
    assert eligible(Policy(**wanted), SEATS, masks=False) == ranks


def test_a_program_can_be_shown_any_gpu_of_its_host() -> None:
    assert eligible(Policy(gpu_affinity=[0, 1]), SEATS, masks=True) == {1, 2, 4}


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"host": "n4"}, "host 'n4': its workers are on n1.site, n2.site, n3.site"),
        ({"cpu_affinity": [8]}, "a CPU 8: the CPUs of its hosts are 0 to 7"),
        ({"gpus": 3}, "3 GPUs: its workers have 2 at most"),
        ({"gpus": 1, "host": "n2"}, "1 GPUs: its workers have 0 at most"),
        ({"gpu_affinity": [5]}, "the GPUs 5: there are 0, 1 on its hosts"),
        ({"gpu_affinity": [0], "host": "n2"}, "the GPUs 0: there are none on its hosts"),
    ],
)
def test_what_nobody_can_honour_is_refused(wanted: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^No worker of this batch has {text}"):
        eligible(Policy(**wanted), SEATS, masks=False)


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ({"host": 5}, TypeError, "name of a host"),
        ({"host": ""}, TypeError, "name of a host"),
        ({"placement": "here"}, ValueError, "'spread' or 'packed'"),
        ({"launch": "ssh"}, ValueError, "one of auto"),
        ({"gpus": 0}, ValueError, "gpus must be 1 or more"),
        ({"gpus": "1"}, TypeError, "gpus must be an integer"),
        ({"threads": 0}, ValueError, "threads must be 1 or more"),
        ({"cpu_affinity": []}, ValueError, "at least one"),
        ({"cpu_affinity": [-1]}, ValueError, "from 0 on"),
        ({"cpu_affinity": 3}, TypeError, "list of numbers"),
        ({"cpu_affinity": "03"}, TypeError, "list of numbers"),
        ({"gpu_affinity": "0"}, TypeError, "list of GPUs"),
        ({"gpu_affinity": []}, ValueError, "one GPU at least"),
        ({"gpus": 1, "gpu_affinity": [0]}, ValueError, "give one"),
    ],
)
def test_what_can_be_honoured_nowhere(
    wanted: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Policy(**wanted)


def test_a_policy_is_a_value() -> None:
    policy = Policy(cpu_affinity=iter([3, 1, 3]), gpu_affinity=[1, "1", 0])
    assert policy == Policy(cpu_affinity=(1, 3), gpu_affinity=("1", "0"))
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert len({policy, Policy(cpu_affinity=(1, 3), gpu_affinity=("1", "0"))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.host = "n1"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Policy("n1")  # type: ignore[misc]
