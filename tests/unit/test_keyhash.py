"""Keys as bytes: what is the same key, what is not, and that hashes spread."""

from __future__ import annotations

import collections
import enum
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alamo_mpi.core.keyhash import encode_key, hash_bytes

ROOT = Path(__file__).resolve().parents[2]


class Colour(enum.Enum):
    RED = "red"


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
keys = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=8
)


@given(keys)
def test_key_survives_and_copies_are_equal(key: object) -> None:
    import copy
    import pickle

    data, key_hash = encode_key(key)
    assert pickle.loads(data) == key
    twin = pickle.loads(pickle.dumps(copy.deepcopy(key)))
    assert encode_key(twin) == (data, key_hash)
    assert 0 <= key_hash < 1 << 64


def test_identity_inside_a_tuple_does_not_matter() -> None:
    word = "".join(["ab", "cd"])
    other = "".join(["abc", "d"])
    assert word is not other
    assert encode_key((word, word)) == encode_key((word, other))
    assert encode_key((Colour.RED, (word, 1.5))) == encode_key((Colour.RED, (other, 1.5)))


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), (0.0, -0.0), ("a", b"a"), ((1,), 1), ((1,), (True,))]
)
def test_equal_objects_with_different_pickles_are_different_keys(
    one: object, other: object
) -> None:
    for _ in range(2):  # a second time from the cache
        assert encode_key(one) != encode_key(other)


@pytest.mark.parametrize("key", [[1], {1: 2}, {1}, ([],), (1, {2})])
def test_unhashable_keys_are_refused_as_by_dict(key: object) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        encode_key(key)


def test_unpicklable_key_is_refused() -> None:
    with pytest.raises((TypeError, AttributeError, ValueError)):
        encode_key((1, sys._getframe()))


def test_same_hash_in_a_process_with_another_string_hash() -> None:
    code = (
        "from alamo_mpi.core.keyhash import encode_key;"
        "print(encode_key(('x', frozenset(['a', 'b', 'c', 'd', ('e', 1)]))))"
    )
    outputs = set()
    for seed in "0", "1", "2":
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_hashes_spread_over_shards_and_buckets() -> None:
    hashes = [encode_key(i)[1] for i in range(20_000)]
    assert len(set(hashes)) == len(hashes)
    for cell in (lambda h: h % 5, lambda h: h >> 61, lambda h: (h % 8, h >> 61)):
        counts = collections.Counter(map(cell, hashes))
        mean = len(hashes) / len(counts)
        assert max(abs(count - mean) for count in counts.values()) < 6 * mean**0.5
    assert hash_bytes(b"") != hash_bytes(b"\0")
