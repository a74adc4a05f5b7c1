"""GPU arrays as values: through pinned memory, out of band, onto the reader's own GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from alamo_mpi.core.records import Record
from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime import packing, values
from tests.support import fake_cupy

LARGE = np.arange(1 << 14, dtype=np.float64).reshape(128, 128)
SAMPLES = {
    "small": np.arange(3),
    "large": LARGE,
    "fortran": np.asfortranarray(LARGE),
    "strided": LARGE[::2, 1::3],
    "empty": np.empty((0, 3), np.int8),
    "scalar": np.array(2.5),
}


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", made)
    monkeypatch.setenv("ALAMO_FAKE_GPUS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ALAMO_GPU_ARRAYS", raising=False)
    return made


def there_and_back(value: Any) -> Any:
    placed: list[Any] = []

    def place(raw: memoryview) -> int:
        placed.append(bytearray(raw))
        return len(placed) - 1

    return packing.unpack(packing.pack(value, place), placed.__getitem__)


def by_record(value: Any) -> Any:
    body, frames = values.dump_value(value)
    return values.load_value(Record(b"", body, [bytearray(frame) for frame in frames]))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("way", [there_and_back, by_record])
def test_an_array_arrives_on_the_readers_gpu(cupy: Any, name: str, way: Any) -> None:
    for wrap in (lambda x: x, lambda x: {"in": [x]}):
        back = way(wrap(cupy.asarray(SAMPLES[name])))
        back = back["in"][0] if isinstance(back, dict) else back
        assert type(back) is fake_cupy.ndarray
        assert back.dtype == SAMPLES[name].dtype
        np.testing.assert_array_equal(back._data, SAMPLES[name])
    if name == "fortran":
        assert back.flags.f_contiguous


def test_its_data_goes_out_of_band_and_through_pinned_memory(cupy: Any) -> None:
    body, frames = values.dump_value(cupy.asarray(LARGE))
    assert len(body) < 1000
    assert [frame.nbytes for frame in frames] == [LARGE.nbytes]
    assert cupy.pinned_nbytes == LARGE.nbytes
    values.load_value(Record(b"", body, [bytearray(frame) for frame in frames]))
    assert cupy.pinned_nbytes == 2 * LARGE.nbytes


def test_with_something_that_goes_by_value(cupy: Any) -> None:
    array = cupy.asarray(LARGE)
    function, back = there_and_back((lambda x: x + 1, array))
    assert function(1) == 2
    np.testing.assert_array_equal(back._data, LARGE)


@pytest.mark.parametrize("name", ["large", "fortran"])
@pytest.mark.usefixtures("cupy")
def test_without_a_gpu_numpy_on_request(
    cupy: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = cupy.asarray(SAMPLES[name])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SerializationError, match="ALAMO_GPU_ARRAYS=numpy"):
        there_and_back(array)
    monkeypatch.setenv("ALAMO_GPU_ARRAYS", "numpy")
    back = there_and_back([array])[0]
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, SAMPLES[name])
    back[:] = 0  # its own


def test_cupy_is_imported_for_gpu_arrays_only() -> None:
    code = (
        "import sys, numpy\n"
        "from alamo_mpi.runtime import packing, values\n"
        "packing.dumps([numpy.ones(5), lambda: 1]); values.dump_value({'a': numpy.ones(5)})\n"
        "assert not any(name.partition('.')[0] == 'cupy' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
