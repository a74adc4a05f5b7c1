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
import threading
import weakref
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
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
        self._defining = threading.Lock()
        #: By id of the function.
        self._seen: dict[int, _Seen] = {}

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
        key = id(function)
        seen = self._seen.get(key)
        if seen is not None and seen.reference() is function and seen.unchanged():
            if not seen.number:
                seen.number = self._define(function)
            return seen.number
        frozen = _Frozen.of(function)
        if frozen is None:
            return self._define(function) if uses > 1 else TRAVELS_WITH_TASK
        # What is imported by name is short, and used again as a rule.
        number = self._define(function) if uses > 1 or frozen.importable else 0
        try:
            reference = weakref.ref(function, lambda _: self._seen.pop(key, None))
        except TypeError:
            return number or self._define(function)
        self._seen[key] = _Seen(reference, frozen, number)
        return number

    def _define(self, function: Any) -> int:
        return self.adopt(dumps(function))

    def adopt(self, pickled: bytes) -> int:
        """Return the number of a function that was pickled elsewhere; on any thread."""
        with self._defining:
            number = self._numbers.get(pickled)
            if number is None:
                number = self._numbers[pickled] = len(self.definitions)
                self.definitions.append(pickled)
            return number


class _Seen:
    """A function that was met before."""

    __slots__ = ("_frozen", "number", "reference")

    def __init__(self, reference: weakref.ref[Any], frozen: _Frozen, number: int) -> None:
        self.reference = reference
        self._frozen = frozen
        #: 0 as long as it was met once.
        self.number = number

    def unchanged(self) -> bool:
        return self._frozen.unchanged()


class _Frozen:
    """Everything that a function refers to, each thing immutable: proof that a pickle still holds.

    What can be replaced is written down by place: variables of modules by name, closure cells, and
    the parts of functions that can be assigned to.
    """

    __slots__ = ("_cells", "_functions", "_variables", "_visited", "importable")

    def __init__(self) -> None:
        self.importable = False
        self._variables: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._functions: list[tuple[FunctionType, CodeType, Any, Any]] = []
        self._visited: set[int] = set()

    @classmethod
    def of(cls, function: Any) -> _Frozen | None:
        """Return the proof for a callable; None if there is none."""
        frozen = cls()
        if isinstance(function, (FunctionType, type, BuiltinFunctionType)) and _importable(
            function
        ):
            frozen.importable = True
            return frozen
        if isinstance(function, FunctionType) and frozen._add(function):
            return frozen
        return None

    def unchanged(self) -> bool:
        """Tell whether everything is still the same; cheap, as it is asked at every start."""
        for scope, name, value in self._variables:
            if scope.get(name, _MISSING) is not value:
                return False
        for function, code, defaults, keywords in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ != keywords
            ):
                return False
        return all(cell.cell_contents is value for cell, value in self._cells)

    def _add(self, value: Any) -> bool:
        """Take in something that is referred to; false if it could change unseen."""
        if type(value) in _FROZEN:
            return True
        if type(value) is tuple:
            return all(self._add(each) for each in value)
        if isinstance(value, type):
            return _importable(value)
        return isinstance(value, FunctionType) and self._add_function(value)

    def _add_function(self, function: FunctionType) -> bool:
        if id(function) in self._visited or _importable(function):
            return True
        self._visited.add(id(function))
        keywords = function.__kwdefaults__
        self._functions.append(
            (function, function.__code__, function.__defaults__, keywords and dict(keywords))
        )
        scope = function.__globals__
        names = _names(function.__code__)
        self._variables += [(scope, name, scope.get(name, _MISSING)) for name in names]
        parts = [scope[name] for name in names if name in scope]
        parts += function.__defaults__ or ()
        parts += (keywords or {}).values()
        try:
            cells = [(cell, cell.cell_contents) for cell in function.__closure__ or ()]
        except ValueError:  # a cell that is not filled yet
            return False
        self._cells += cells
        parts += [value for _, value in cells]
        return not function.__dict__ and all(self._add(part) for part in parts)


def _importable(function: Any) -> bool:
    """Tell whether other processes find this very object by its name."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


_MISSING = object()
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
