"""Everything that Python can call is a task: by name, by value, from the main program."""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alamo_mpi import Batch, SerializationError

FACTOR = 3


def scale(x: int) -> int:
    return FACTOR * x


def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def count_up(n: int) -> Iterator[int]:
    yield from range(n)


class Adder:
    offset = 100

    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, x: int) -> int:
        return self.start + x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder) and self.start == other.start

    __hash__ = None  # type: ignore[assignment]

    def add(self, x: int) -> int:
        return self.start + x

    @classmethod
    def from_class(cls, x: int) -> int:
        return cls.offset + x

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x


KINDS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "module level": (scale, (14,), 42),
    "recursive": (fibonacci, (12,), 144),
    "lambda": (lambda x, y: x * y, (6, 7), 42),
    "bound method": (Adder(40).add, (2,), 42),
    "class method": (Adder.from_class, (2,), 102),
    "static method": (Adder.twice, (21,), 42),
    "method of a builtin": ([1, 2, 3].count, (2,), 1),
    "partial": (functools.partial(int, base=2), ("101010",), 42),
    "partial of a lambda": (functools.partial(lambda x, y: x - y, y=1), (43,), 42),
    "builtin": (pow, (2, 10), 1024),
    "function of C": (math.gcd, (84, 126), 42),
    "callable object": (Adder(40), (2,), 42),
    "class": (Adder, (42,), Adder(42)),
    "builtin class": (complex, (1, 2), 1 + 2j),
    "operator": (operator.itemgetter(1), ("abc",), "b"),
    "nothing": (lambda: None, (), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_functions(batch: Batch, kind: str) -> None:
    function, args, expected = KINDS[kind]
    # Twice each way: what was sent before is not sent again.
    singles = [batch.function(function, *args) for _ in range(2)]
    assert [task.run() for task in singles] == [expected, expected]
    listed = [batch.function(function, *args) for _ in range(2)]
    batch.compile(listed).run()
    assert [task.result.get() for task in listed] == [expected, expected]


def test_closure_has_its_variables_as_they_are_at_the_start(batch: Batch) -> None:
    factor = 2

    def by_factor(x: int) -> int:
        return factor * x

    results = []
    for value in (2, 3, 3, 5):
        factor = value
        results.append(batch.function(by_factor, 10).run())
    assert results == [20, 30, 30, 50]


def test_closure_over_what_can_change_inside(batch: Batch) -> None:
    seen: list[int] = []

    def total() -> int:
        return sum(seen)

    results = []
    for number in (1, 2, 3):
        seen.append(number)
        results.append(batch.function(total).run())
    assert results == [1, 3, 6]


def test_what_a_closure_changes_on_a_worker_stays_there(batch: Batch) -> None:
    counts = {"calls": 0}

    def count() -> int:
        counts["calls"] += 1
        return counts["calls"]

    tasks = [batch.function(count) for _ in range(3)]
    for task in tasks:
        task.start()
    assert [task.result.get() for task in tasks] == [1, 1, 1]
    assert counts == {"calls": 0}


def test_method_of_an_object_that_changes(batch: Batch) -> None:
    adder = Adder(1)
    first = batch.function(adder.add, 1)
    first.start()
    adder.start = 100
    second = batch.function(adder.add, 1)
    assert (first.result.get(), second.run()) == (2, 101)


def test_nested_functions_and_recursion_by_value(batch: Batch) -> None:
    def outer(n: int) -> list[int]:
        def factorial(k: int) -> int:
            return 1 if k < 2 else k * factorial(k - 1)

        return [factorial(k) for k in range(n)]

    assert batch.function(outer, 6).run() == [1, 1, 2, 6, 24, 120]


def test_mutual_recursion_by_value(batch: Batch) -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert batch.function(even, 10).run() is True
    assert batch.function(odd, 10).run() is False


@pytest.fixture
def in_main() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Define something in the program's ``__main__``, where no worker can import it from."""
    main = vars(sys.modules["__main__"])
    before = dict(main)

    def define(source: str) -> dict[str, Any]:
        exec(source, main)
        return main

    yield define
    for name in set(main) - set(before):
        del main[name]


MAIN = """
BASE = 40
def helper(x):
    return BASE + x
def call_helper(x):
    return helper(x)
class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)
class Trouble(Exception):
    pass
def raise_trouble(text):
    raise Trouble(text)
"""


def test_functions_of_the_main_program(
    batch: Batch, in_main: Callable[[str], dict[str, Any]]
) -> None:
    main = in_main(MAIN)
    assert main["helper"].__module__ == "__main__"
    for _ in range(3):
        assert batch.function(main["call_helper"], 2).run() == 42
    main["BASE"] = 50
    assert batch.function(main["call_helper"], 2).run() == 52


def test_classes_of_the_main_program(
    batch: Batch, in_main: Callable[[str], dict[str, Any]]
) -> None:
    main = in_main(MAIN)
    point = main["Point"](1)
    moved = batch.function(point.moved, 2).run()
    assert (type(moved), moved.x) == (main["Point"], 3)
    with pytest.raises(main["Trouble"], match="mind the gap"):
        batch.function(main["raise_trouble"], "mind the gap").run()


def test_generator_results_do_not_travel(batch: Batch) -> None:
    task = batch.function(count_up, 3)
    task.start()
    with pytest.raises(SerializationError, match="generator") as caught:
        task.result.get()
    assert isinstance(caught.value.__cause__, Exception)
    assert batch.function(lambda: list(count_up(3))).run() == [0, 1, 2]


def test_what_cannot_be_called(batch: Batch) -> None:
    with pytest.raises(TypeError, match="func must be callable, not 42"):
        batch.function(42)  # type: ignore[arg-type]


def test_wrong_arguments_are_the_errors_of_the_call(batch: Batch) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        batch.function(scale, 1, 2, 3).run()


def test_many_functions_one_task_each(batch: Batch) -> None:
    tasks = [batch.function(lambda n=n: n * n) for n in range(200)]
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == [n * n for n in range(200)]
