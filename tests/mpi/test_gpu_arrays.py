"""cupy arrays as arguments, results and values of a dictionary, on real GPUs."""

from __future__ import annotations

from typing import Any

import pytest

import alamo_mpi
from alamo_mpi import Batch, DDict

pytestmark = pytest.mark.gpu


@pytest.fixture
def cupy() -> Any:
    if not alamo_mpi.gpus():
        pytest.skip("this host has no GPU, or its mask hides it")
    return pytest.importorskip("cupy", exc_type=ImportError)


def doubled(array: Any) -> Any:
    import cupy

    assert isinstance(array, cupy.ndarray)
    return array * 2


def test_arguments_and_results(batch: Batch, cupy: Any) -> None:
    array = cupy.arange(1 << 20, dtype=cupy.float32).reshape(1024, 1024)
    first = batch.function(doubled, array)
    second = batch.function(doubled, first)
    batch.compile([first, second]).run()
    assert isinstance(second.result.get(), cupy.ndarray)
    assert bool((second.result.get() == 4 * array).all())


def test_values_of_a_dictionary(batch: Batch, cupy: Any) -> None:
    with DDict() as stored:
        stored["a"] = cupy.arange(1 << 20)
        assert bool((stored["a"] == cupy.arange(1 << 20)).all())
