"""Functions on rank 0: each that is used again gets a number and travels once to each worker.

A function that can be imported is pickled by name, once.  One that cannot (a lambda, a closure,
anything in ``__main__``) is pickled by value, with the variables it refers to as they are when a
task that calls it is *started*.  To pickle it at every start would cost more than many tasks; so
its pickle is kept as long as everything it refers to is provably the same: immutable values,
modules, classes and functions, compared by identity.  Where that cannot be known (it refers to a
list, say, or is a method of some object), it is pickled anew at every start.

A function met for the first time travels with its task; only the second use makes it numbered.
So a hundred thousand lambdas, one a task, leave nothing behind.
"""

from __future__ import annotations

import sys
import weakref
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from alamo_mpi.runtime.packing import dumps

__all__ = ["TRAVELS_WITH_TASK", "FunctionTable", "name_of"]

#: The number of "a function that travels as the first item of its task's payload".
TRAVELS_WITH_TASK = 0

_FROZEN = (type(None), bool, int, float, complex, str, bytes, ModuleType, BuiltinFunctionType)


def name_of(function: Any) -> str:
    """Return a short name for messages and pictures."""
    name = getattr(function, "__name__", None)
    if name is None and hasattr(function, "func"):  # functools.partial
        return name_of(function.func)
    return name if isinstance(name, str) else type(function).__name__


class FunctionTable:
    """The numbered functions of one program.

    Attributes
    ----------
    definitions : list of bytes
        Pickle of each function by number; number 0 is `TRAVELS_WITH_TASK`.
    """

    def __init__(self) -> None:
        self.definitions: list[bytes] = [b""]
        self._numbers: dict[bytes, int] = {}
        #: id -> (weak reference, what it refers to, number or 0 when seen once).
        self._seen: dict[int, tuple[weakref.ref[Any], list[Any], int]] = {}

    def number(self, function: Any, uses: int = 1) -> int:
        """Return the function's number, or `TRAVELS_WITH_TASK`.

        Parameters
        ----------
        function
            Any callable.
        uses
            Number of tasks that are being started with it.

        Raises
        ------
        SerializationError
            If it cannot be pickled.
        """
        if not isinstance(function, (FunctionType, type, BuiltinFunctionType)):
            return self._define(function) if uses > 1 else TRAVELS_WITH_TASK
        if _importable(function):
            refers: list[Any] | None = []
        elif isinstance(function, FunctionType):
            refers = _references(function)
        else:
            refers = None
        if refers is None:
            return self._define(function) if uses > 1 else TRAVELS_WITH_TASK
        return self._remembered(function, refers, uses)

    def _remembered(self, function: Any, refers: list[Any], uses: int) -> int:
        key = id(function)
        known = self._seen.get(key)
        again = False
        if known is not None and known[0]() is function and _same(known[1], refers):
            if known[2]:
                return known[2]
            again = True
        # What is imported by name is used again as a rule, and short.
        number = self._define(function) if again or uses > 1 or not refers else 0
        try:
            reference = weakref.ref(function, lambda _: self._seen.pop(key, None))
        except TypeError:
            return number or self._define(function)
        self._seen[key] = (reference, refers, number)
        return number

    def _define(self, function: Any) -> int:
        pickled = dumps(function)
        number = self._numbers.get(pickled)
        if number is None:
            number = self._numbers[pickled] = len(self.definitions)
            self.definitions.append(pickled)
        return number


def _importable(function: Any) -> bool:
    """Tell whether other processes find this very object by its name."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _references(function: FunctionType) -> list[Any] | None:
    """List everything a function by value refers to, None if some of it could change unseen."""
    found: list[Any] = []
    return found if _collect(function, found, set()) else None


def _collect(value: Any, found: list[Any], visited: set[int]) -> bool:
    if type(value) in _FROZEN:
        found.append(value)
        return True
    if type(value) is tuple:
        return all(_collect(each, found, visited) for each in value)
    if isinstance(value, type):
        found.append(value)
        return _importable(value)
    if not isinstance(value, FunctionType):
        return False
    if id(value) in visited:
        return True
    visited.add(id(value))
    found.append(value.__code__)
    if _importable(value):
        return True
    if value.__dict__:
        return False
    names = _names(value.__code__)
    scope = value.__globals__
    found.extend(names)
    parts: list[Any] = [scope[name] for name in names if name in scope]
    parts.extend(value.__defaults__ or ())
    for name, default in (value.__kwdefaults__ or {}).items():
        parts.extend((name, default))
    try:
        parts.extend(cell.cell_contents for cell in value.__closure__ or ())
    except ValueError:  # a cell that is not filled yet
        return False
    return all(_collect(part, found, visited) for part in parts)


_NAMES: weakref.WeakKeyDictionary[CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def _names(code: CodeType) -> tuple[str, ...]:
    """Names that a code object, or one inside it, may look up among the globals."""
    names = _NAMES.get(code)
    if names is None:
        collected = set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                collected.update(_names(constant))
        names = _NAMES[code] = tuple(sorted(sys.intern(name) for name in collected))
    return names
