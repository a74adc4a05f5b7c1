"""Values of a `DDict` and items of a `Queue` as bytes and buffers, and back; keys likewise.

What other processes can import is pickled by reference with plain pickle, anything else by value
(`runtime.packing`).  Large buffers of pickle protocol 5, such as the data of numpy arrays, stay out
of the pickle and are copied once, from where they are into the memory pool.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from typing import Any

import cloudpickle

from alamo_mpi.core.items import RAW, Item
from alamo_mpi.core.keyhash import Encoded, encode_key, encode_scalar
from alamo_mpi.core.records import Record
from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime import packing

__all__ = ["dump_item", "dump_value", "encode", "load_item", "load_key", "load_value"]

#: Known everywhere: plain pickle, without a look at what is inside.
_PLAIN = packing.ATOMS | {bytes, bytearray}


def _dump_key(key: object) -> bytes:
    try:
        stream = io.BytesIO()
        pickler = packing._ByReference(stream, 5)
        pickler.fast = True
        pickler.dump(key)
    except Exception:
        # Something of the main program, by value.  Functions refer to themselves, so references
        # must stay; equal ones still come out equal in processes that got them alike.
        try:
            return bytes(cloudpickle.dumps(key, 5))
        except Exception as error:
            raise SerializationError(
                f"a key of type {type(key).__qualname__} cannot be pickled: "
                f"{type(error).__name__}: {error}"
            ) from error
    return stream.getvalue()


def encode(key: object) -> Encoded:
    """Return a key's bytes and hash; see `core.keyhash.encode_key`."""
    if type(key) is int:
        return encode_scalar(key)
    return encode_key(key, _dump_key)


def load_key(data: bytes) -> Any:
    """Rebuild a key."""
    return packing.loads(data)


def dump_value(value: object) -> tuple[bytes, list[memoryview]]:
    """Return a value's pickle and the large buffers that it refers to.

    Raises
    ------
    SerializationError
    """
    kind = type(value)
    if kind in _PLAIN:
        return pickle.dumps(value, 5), []
    frames: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < packing.LARGE_NBYTES:
            return True
        frames.append(raw)
        return False

    numpy = sys.modules.get("numpy")  # who has an array has imported it
    if numpy and kind is numpy.ndarray and not value.dtype.hasobject:  # type: ignore[attr-defined]
        return pickle.dumps(value, 5, buffer_callback=keep_in_band), frames
    return packing.dumps(value, keep_in_band, frames.clear), frames


def load_value(record: Record) -> Any:
    """Rebuild a value; its buffers are private and writable.

    Raises
    ------
    SerializationError
        For example when this process cannot import the value's class.
    """
    try:
        return pickle.loads(record.body, buffers=record.frames)
    except Exception as error:
        raise SerializationError(
            f"a value cannot be rebuilt here: {type(error).__name__}: {error}"
        ) from error


def dump_item(value: object) -> Item:
    """Return an object as an item of a queue; large ``bytes`` are not copied.

    Raises
    ------
    SerializationError
    """
    kind = type(value)
    if kind is bytes and len(value) >= packing.LARGE_NBYTES:  # type: ignore[arg-type]
        return Item(b"", (memoryview(value),), RAW)  # type: ignore[arg-type]
    if kind in _PLAIN:
        return Item(pickle.dumps(value, 5))
    body, frames = dump_value(value)
    return Item(body, frames)


def load_item(item: Item) -> Any:
    """Rebuild an object; its buffers are private and writable.

    Raises
    ------
    SerializationError
        For example when this process cannot import the object's class.
    """
    body, frames, kind = item
    if kind == RAW:
        return body
    try:
        return pickle.loads(body, buffers=frames)
    except Exception as error:
        raise SerializationError(
            f"an item of type {_type_name(bytes(body))} was taken from the queue and cannot be "
            f"rebuilt here: {type(error).__name__}: {error}"
        ) from error


def _type_name(data: bytes) -> str:
    """Return the name of the first class or function that a pickle refers to."""
    names: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STACK_GLOBAL":
                return ".".join(names[-2:])
            if opcode.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if isinstance(argument, str):
                names.append(argument)
    except Exception:
        return "unknown"  # the pickle itself is broken
    return "unknown"
