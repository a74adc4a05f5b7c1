"""The callable of a job on its way: pickled and unpickled once, where nobody can tell."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from alamo_mpi.errors import SerializationError
from alamo_mpi.runtime.jobcall import JobCall, Terms
from alamo_mpi.runtime.jobtarget import packed
from alamo_mpi.runtime.packing import loads


def adds(offset: int) -> Callable[[int], int]:
    return lambda number: number + offset


def appends(to: list[int]) -> Callable[[int], list[int]]:
    def append(number: int) -> list[int]:
        to.append(number)
        return to

    return append


def test_what_stays_the_same_is_pickled_and_unpickled_once_from_the_second_time_on() -> None:
    function = adds(3)
    first, second, third = packed(function), packed(function), packed(function)
    assert not first.lasting
    assert second.lasting
    assert third.pickled is second.pickled
    assert second.unpacked() is third.unpacked()
    assert third.unpacked()(4) == first.unpacked()(4) == 7


def test_what_could_change_is_a_new_object_each_time() -> None:
    changing: list[int] = []
    function = appends(changing)
    for _ in range(3):
        came = packed(function)
        assert not came.lasting
        assert came.unpacked()(1) == came.unpacked()(1) == [1]
    changing.append(5)
    assert packed(function).unpacked()(1) == [5, 1]


def test_what_was_changed_in_between_goes_as_it_is_now() -> None:
    function: Any = adds(3)
    packed(function), packed(function)
    function.__defaults__ = (9,)
    assert packed(function).unpacked()() == 12


def test_an_importable_one_is_what_was_imported() -> None:
    for _ in range(2):
        assert packed(len).unpacked() is len


def test_one_that_cannot_travel_says_so() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        packed(lambda: lock)


@pytest.mark.parametrize("target", ["echo", adds(2)])
def test_a_call_is_handed_on_as_it_has_come(target: Any) -> None:
    call = JobCall(target, Terms(7, None, {}, "ranks", None, check=False, limits=None))
    arrived = loads(pickle.dumps(call, 5))
    again = loads(pickle.dumps(arrived, 5))
    for each in (arrived, again):
        assert each._terms == call._terms
        assert each.__name__ == call.__name__
    assert arrived._came is None or again._came == arrived._came
