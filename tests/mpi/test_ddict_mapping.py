"""`DDict` is a mapping: CPython's own conformance tests, and what a mapping's user expects."""

from __future__ import annotations

import collections
import enum
import pickle
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test import mapping_tests

from alamo_mpi import DDict, SerializationError


class TestCPythonMapping(mapping_tests.TestMappingProtocol):
    """CPython's tests of a mutable mapping."""

    type2test = DDict

    def test_constructor(self) -> None:
        # A DDict takes its options by keyword, so initial keys cannot be given that way.
        assert self._empty_mapping() is not self._empty_mapping()
        assert self.type2test({"x": 1, "y": 2}) == {"x": 1, "y": 2}

    def test_setdefault(self) -> None:
        # CPython's test also changes the list that was returned; values of a DDict are copies.
        mapping_tests.BasicTestMappingProtocol.test_setdefault(self)
        d = self._empty_mapping()
        assert d.setdefault("key0") is None
        assert d.setdefault("key0", []) is None
        assert d.setdefault("key", [3]) == [3]
        assert d.setdefault("key", [4]) == [3]
        assert d["key"] == [3]
        with pytest.raises(TypeError):
            d.setdefault()


@pytest.fixture
def d() -> Iterator[DDict[Any, Any]]:
    with DDict() as mapping:
        yield mapping


class Colour(enum.Enum):
    RED = 1


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


def test_is_a_mutable_mapping(d: DDict[Any, Any]) -> None:
    assert isinstance(d, MutableMapping)
    assert isinstance(d, Mapping)
    assert not d
    with pytest.raises(TypeError, match="unhashable"):
        hash(d)


def test_missing_keys_raise_as_in_a_dict(d: DDict[Any, Any]) -> None:
    for call in (lambda: d["no"], lambda: d.pop("no"), lambda: d.__delitem__("no")):
        with pytest.raises(KeyError) as info:
            call()
        assert info.value.args == ("no",)
    assert d.get("no") is None
    assert d.get("no", 5) == 5
    assert d.pop("no", 6) == 6
    assert "no" not in d
    with pytest.raises(KeyError):
        d.popitem()


def test_unhashable_and_unpicklable(d: DDict[Any, Any]) -> None:
    for call in (lambda: d[[1]], lambda: d.get({}), lambda: [] in d, lambda: d.pop(set())):
        with pytest.raises(TypeError, match="unhashable"):
            call()
    d["k"] = 1
    with pytest.raises(SerializationError, match="generator"):
        d["k"] = (i for i in range(3))
    with pytest.raises(SerializationError, match="key"):
        d[(i for i in range(3))] = 1
    assert dict(d) == {"k": 1}


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        10**30,
        1.5,
        float("inf"),
        True,
        None,
        "",
        "x" * 5000,
        b"\0",
        (),
        (1, ("a", "a")),
        frozenset("abc"),
        Colour.RED,
        Point(1, 2),
        int,
        np.int64(3),
        lambda: 1,
    ],
    ids=repr,
)
def test_keys_of_all_kinds(d: DDict[Any, Any], key: Any) -> None:
    d[key] = "value"
    assert d[key] == "value"
    assert len(d) == 1
    (back,) = d
    if not callable(key):
        assert back == key
    assert type(back) is type(key)
    assert d.pop(key) == "value"
    assert key not in d


def test_keys_are_the_same_if_their_pickles_are(d: DDict[Any, Any]) -> None:
    d[1], d[1.0], d[True] = "int", "float", "bool"
    assert len(d) == 3
    assert (d[1], d[1.0], d[True]) == ("int", "float", "bool")
    word = "".join(["t", "ile"])
    d[word, word] = 1
    assert d["tile", "tile"] == 1


def test_values_are_copies(d: DDict[Any, Any]) -> None:
    value = [1, 2]
    d["k"] = value
    value.append(3)
    assert d["k"] == [1, 2]
    read = d["k"]
    read.append(4)
    assert d["k"] == [1, 2]


@pytest.mark.parametrize("dtype", ["u1", "f8", "c16", "M8[s]", "U7", "O"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (200, 301)])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_arrays(d: DDict[Any, Any], dtype: str, shape: tuple[int, ...], order: str) -> None:
    array = np.zeros(shape, dtype)
    if array.size:
        array.flat[0] = array.flat[-1] = np.ones(1, dtype)[0]
    if order == "F":
        array = np.asfortranarray(array)
    elif order == "strided" and array.ndim:
        array = array[::2]
    d["a"] = array
    back = d["a"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert back.flags.writeable
    if back.size:
        back.flat[0] = back.flat[-1]
    np.testing.assert_array_equal(d["a"], array)


def test_buffers_inside_other_values(d: DDict[Any, Any]) -> None:
    value = {"a": np.arange(100_000), "b": [np.ones(50_000), b"x" * 100_000], "c": Point(1, 2)}
    d["k"] = value
    back = d["k"]
    np.testing.assert_array_equal(back["a"], value["a"])
    np.testing.assert_array_equal(back["b"][0], value["b"][0])  # type: ignore[index]
    assert back["b"][1] == value["b"][1]  # type: ignore[index]
    assert back["c"] == Point(1, 2)


def test_a_buffer_given_back_is_not_used_while_it_is_seen(d: DDict[Any, Any]) -> None:
    """Reads of equal size use memory again, but never that of an array somebody still has."""
    for i in range(4):
        d[i] = np.full(1 << 20, i, "u1")
    kept = [d[i] for i in range(4)]
    slices = [d[i][10:20] for i in range(4)]
    for _ in range(3):
        for i in range(4):
            assert (d[i] == i).all()
    assert all((array == i).all() for i, array in enumerate(kept))
    assert all((part == i).all() for i, part in enumerate(slices))


def test_classes_and_functions_of_the_main_program(d: DDict[Any, Any]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class Local:\n    x = 5\n    def f(self):\n        return self.x + 1", namespace)
    d["class"] = namespace["Local"]
    d["object"] = namespace["Local"]()
    d["function"] = lambda x: x * 2
    assert d["class"]().f() == 6
    assert d["object"].f() == 6
    assert d["function"](4) == 8


def test_value_that_the_reader_cannot_import(d: DDict[Any, Any]) -> None:
    import sys
    import types

    module = types.ModuleType("passing_module")
    exec("class Thing:\n    pass", module.__dict__)
    sys.modules["passing_module"] = module
    try:
        d["thing"] = module.Thing()
        d["other"] = 1
    finally:
        del sys.modules["passing_module"]
    with pytest.raises(SerializationError, match="passing_module"):
        d["thing"]
    assert d["other"] == 1
    assert set(d) == {"thing", "other"}
    d["thing"] = 2
    assert d["thing"] == 2


def test_views_are_lazy_and_complete(d: DDict[Any, Any]) -> None:
    keys, values, items = d.keys(), d.values(), d.items()
    d.update({i: i * i for i in range(500)})
    assert sorted(keys) == list(range(500))
    assert sorted(values) == [i * i for i in range(500)]
    assert sorted(items) == [(i, i * i) for i in range(500)]
    assert len(keys) == len(values) == len(items) == 500
    assert 7 in keys
    assert (7, 49) in items
    assert (7, 50) not in items
    assert 49 in values
    assert keys & {1, 2, 1000} == {1, 2}


def test_operators_and_copies(d: DDict[Any, Any]) -> None:
    d.update(a=1, b=2)
    twin = pickle.loads(pickle.dumps(d))
    twin["c"] = 3
    assert d["c"] == 3
    assert twin == d == {"a": 1, "b": 2, "c": 3}
    with d.copy() as copy:
        copy["a"] = 100
        assert d["a"] == 1
        copy |= {"z": 1}
        assert copy == {"a": 100, "b": 2, "c": 3, "z": 1}
    with d | {"q": 5} as union:
        assert union == {"a": 1, "b": 2, "c": 3, "q": 5}
    with DDict.fromkeys("xy", 0) as made:
        assert made == {"x": 0, "y": 0}
    assert d != {"a": 1}
    assert "DDict" in repr(d)


def test_iteration_goes_on_while_it_deletes_and_inserts(d: DDict[Any, Any]) -> None:
    d.update({i: 0 for i in range(300)})
    seen = []
    for key in d:
        seen.append(key)
        del d[key]
        d["other", key] = 1
    assert sorted(key for key in seen if isinstance(key, int)) == list(range(300))
    assert not any(isinstance(key, int) for key in d)


def test_many_keys(d: DDict[Any, Any]) -> None:
    for i in range(5000):
        d[i] = i
    assert len(d) == 5000
    assert all(d[i] == i for i in range(0, 5000, 7))
    for i in range(0, 5000, 2):
        del d[i]
    assert len(d) == 2500
    assert sorted(d) == list(range(1, 5000, 2))
    d.clear()
    assert len(d) == 0
    assert list(d) == []


class AgainstADict(RuleBasedStateMachine):
    """Any sequence of operations answers as a dict with the same keys would."""

    keys = st.one_of(st.integers(0, 5), st.sampled_from(["a", "b", ("a", 1)]))
    values = st.one_of(
        st.integers(), st.text(max_size=5), st.sampled_from([0, 3000, 40_000]).map(bytes)
    )

    @initialize()
    def start(self) -> None:
        self.real: DDict[Any, Any] = DDict()
        self.model: dict[Any, Any] = {}

    def both(self, name: str, *args: Any) -> None:
        outcomes = []
        for mapping in (self.model, self.real):
            try:
                outcomes.append(getattr(mapping, name)(*args))
            except (KeyError, TypeError) as error:
                outcomes.append((type(error), error.args))
        assert outcomes[0] == outcomes[1]

    @rule(key=keys, value=values)
    def store(self, key: Any, value: Any) -> None:
        self.both("__setitem__", key, value)

    @rule(key=keys)
    def look(self, key: Any) -> None:
        self.both("__getitem__", key)
        self.both("__contains__", key)
        self.both("get", key)

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        self.both("__delitem__", key)

    @rule(key=keys, value=values)
    def pop_or(self, key: Any, value: Any) -> None:
        self.both("pop", key, value)

    @rule(key=keys, value=values)
    def default(self, key: Any, value: Any) -> None:
        self.both("setdefault", key, value)

    @rule(content=st.dictionaries(keys, values, max_size=8))
    def update(self, content: dict[Any, Any]) -> None:
        self.both("update", content)

    @rule()
    def clear(self) -> None:
        self.both("clear")

    @rule()
    def pop_some(self) -> None:
        if self.model:
            key, value = self.real.popitem()
            assert self.model.pop(key) == value

    @rule()
    def reattach(self) -> None:
        self.real = pickle.loads(pickle.dumps(self.real))

    @invariant()
    def same(self) -> None:
        if hasattr(self, "real"):
            assert self.real == self.model
            assert len(self.real) == len(self.model)
            assert set(self.real) == set(self.model)

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.real.destroy()


AgainstADict.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True
)
TestAgainstADict = AgainstADict.TestCase
