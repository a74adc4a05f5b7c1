"""Values to payloads and back (`core.messages` says what a payload is).

Plain pickle comes first, since it is ten times faster than cloudpickle; what lives in ``__main__``
or inside a function goes by value with cloudpickle, since no worker could import it.  Buffers of
pickle protocol 5, such as the data of numpy arrays, leave the pickle when they are large.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any

from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime.device import is_gpu_array, reduced

__all__ = [
    "ATOMS",
    "LARGE_NBYTES",
    "dumps",
    "is_atomic",
    "loads",
    "nbytes_of",
    "pack",
    "private",
    "unpack",
]

#: Types of which a value travels as it is: immutable, known everywhere, and cheap to pickle.
ATOMS = frozenset({type(None), bool, int, float, complex, str})
#: A buffer of this size or more travels out of band; a smaller one is cheaper inside the pickle.
LARGE_NBYTES = 1 << 14

#: What stands for a buffer in a payload: a buffer, or the name of a blob; None keeps it in band.
Place = Callable[[memoryview], "int | pickle.PickleBuffer | None"]


class _ByValueError(Exception):
    """Met something that plain pickle would store as a name that no other process knows."""


class _ByReference(pickle.Pickler):
    """Plain pickle, which refuses names that other processes cannot import."""

    def reducer_override(self, obj: Any) -> Any:
        # The C pickler asks for classes and functions, and for objects it has no short cut for.
        if is_gpu_array(obj):
            return reduced(obj)
        if isinstance(obj, (type, FunctionType)) and (
            obj.__module__ == "__main__" or "<" in obj.__qualname__
        ):
            raise _ByValueError
        return NotImplemented


def is_atomic(values: tuple[Any, ...]) -> bool:
    """Tell whether a tuple holds atoms only, and so travels as it is."""
    return all(type(value) in ATOMS for value in values)


def dumps(
    value: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    restart: Callable[[], Any] | None = None,
) -> bytes:
    """Pickle by reference where possible, by value where not.

    Parameters
    ----------
    value
        Anything picklable.
    buffer_callback
        As in `pickle.Pickler`: called with each buffer; a true answer keeps it in band.
    restart
        Called when pickling by reference has failed, perhaps half-way, and starts again by value.

    Raises
    ------
    SerializationError
        Naming the type, with the pickler's error as cause.
    """
    file = io.BytesIO()
    try:
        _ByReference(file, 5, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()
    except RecursionError as error:
        raise _refused(value, error) from error
    except Exception:
        file = io.BytesIO()
        if restart is not None:
            restart()
    try:
        _by_value()(file, 5, buffer_callback=buffer_callback).dump(value)
    except Exception as error:
        raise _refused(value, error) from error
    return file.getvalue()


@functools.cache
def _by_value() -> Any:
    """Return cloudpickle's pickler, which knows GPU arrays too."""
    import cloudpickle  # here, since many programs start faster without

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if is_gpu_array(obj):
                return reduced(obj)
            return super().reducer_override(obj)

    return ByValue


def _refused(value: Any, error: Exception) -> SerializationError:
    kind = type(value)
    return SerializationError(
        f"an object of type {kind.__module__}.{kind.__qualname__} cannot be pickled: "
        f"{type(error).__name__}: {error}"
    )


def loads(data: Any, buffers: Any = ()) -> Any:
    """Rebuild a value.

    Raises
    ------
    SerializationError
        With the cause: most often a module that this process cannot import.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as error:
        raise SerializationError(
            f"a value cannot be rebuilt here: {type(error).__name__}: {error}"
        ) from error


def pack(value: Any, place: Place) -> Any:
    """Turn a value into a payload.

    Parameters
    ----------
    value
        Anything picklable.
    place
        Called with each large buffer as a flat memoryview; returns what stands for it in the
        payload, or None to leave it in the pickle.

    Returns
    -------
    payload
        An atom, ``bytes``, or a list of the pickle and its buffers.

    Raises
    ------
    SerializationError
        If the value cannot be pickled.
    """
    if type(value) in ATOMS:
        return value
    placed: list[Any] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE_NBYTES:
            return True
        stand_in = place(raw)
        if stand_in is None:
            return True
        placed.append(stand_in)
        return False

    data = dumps(value, keep_in_band, placed.clear)
    return [data, *placed] if placed else data


def unpack(payload: Any, find: Callable[[int], Any]) -> Any:
    """Turn a payload into the value.

    Parameters
    ----------
    payload
        As made by `pack`.
    find
        Gives the buffer for the name of a blob.

    Raises
    ------
    SerializationError
        If the value cannot be rebuilt here.
    """
    if type(payload) is bytes:
        return loads(payload)
    if type(payload) is list:
        buffers = [find(each) if type(each) is int else each for each in payload[1:]]
        return loads(payload[0], buffers)
    return payload


def private(payload: Any) -> Any:
    """Copy the buffers of a result's payload: what is unpacked from it may be changed."""
    if type(payload) is not list:
        return payload
    return [payload[0], *(bytearray(buffer) for buffer in payload[1:])]


def nbytes_of(payload: Any) -> int:
    """Return the size of a payload; blobs count as nothing, atoms as 8 bytes."""
    if type(payload) is bytes:
        return len(payload)
    if type(payload) is list:
        return len(payload[0]) + sum(
            memoryview(each).nbytes for each in payload[1:] if type(each) is not int
        )
    return 8
