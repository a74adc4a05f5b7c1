"""Run the user's program as ``__main__`` on rank 0, while the other ranks serve.

What Python does for ``python app.py`` and ``python -m module`` is done again here: a fresh
``__main__`` module, ``sys.argv`` and ``sys.path[0]``.  The last two are set on every rank before it
serves, so that workers import modules from beside the program.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pkgutil
import sys
import types
from collections.abc import Sequence

from alamo_mpi import session
from alamo_mpi.ending import interactive, status_of
from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.lastwords import refuse

__all__ = ["run_program"]

STATUS_NO_PROGRAM = 2


class _NoProgram(Exception):  # noqa: N818 - an answer to the user, no failure of ours
    """The program is not there; the message is for the user."""


def run_program(program: Sequence[str]) -> None:
    """Run ``[file, *args]`` or ``["-m", module, *args]`` on rank 0; collective over COMM_WORLD.

    Parameters
    ----------
    program : sequence of str
        As on the command line of Python.

    Raises
    ------
    SystemExit
        When the program exits or fails, and on every rank but 0.

    Notes
    -----
    Returns on rank 0 when the program has come to its end.  A program that is missing is told
    once, by rank 0.
    """
    is_module = program[0] == "-m"
    name, args = (program[1], program[2:]) if is_module else (program[0], program[1:])
    if not is_module:
        _set_path(name)
    sys.argv[:] = ["-m" if is_module else name, *args]
    try:
        ours = session.init()
    except LaunchError as error:
        refuse(error)
    try:
        code, module = _load_module(name) if is_module else _load_file(name)
    except _NoProgram as missing:
        print(f"alamo_mpi: {missing}", file=sys.stderr)
        sys.exit(STATUS_NO_PROGRAM)
    except BaseException as error:
        return _fail(error)
    sys.modules["__main__"] = module
    try:
        exec(code, module.__dict__)
    except SystemExit as leaving:
        ours.status = status_of(leaving)
        raise
    except BaseException as error:
        _fail(error)


def _fail(error: BaseException) -> None:
    """Do what the interpreter does with an unhandled error, our frames left out of the picture."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    sys.excepthook(type(error), error, trace)
    if not interactive():
        sys.exit(status_of(error))


def _set_path(name: str) -> None:
    """Make ``sys.path[0]`` what Python makes it for a script, a directory or a zip file."""
    if getattr(sys.flags, "safe_path", False):
        return
    is_script = _importer(name) is None
    folder = os.path.dirname(os.path.realpath(name)) if is_script else name
    sys.path[0] = os.path.abspath(folder)


def _importer(name: str) -> object:
    """Return what imports from `name`, a directory or a zip file; None for a script."""
    return pkgutil.get_importer(name) if os.path.isdir(name) or name.endswith(_ARCHIVES) else None


_ARCHIVES = (".zip", ".pyz")


def _load_file(name: str) -> tuple[types.CodeType, types.ModuleType]:
    """Return the code of a script, a directory or a zip file, and its fresh ``__main__``."""
    path = os.path.abspath(name)
    if not os.path.exists(path):
        raise _NoProgram(f"there is no file {name!r} in {os.getcwd()}: nothing was run.")
    if _importer(name) is not None:
        spec = importlib.machinery.PathFinder.find_spec("__main__", [name])
        if spec is None:
            raise _NoProgram(f"{name!r} has no __main__.py: nothing was run.")
        return _from_spec(spec)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise _NoProgram(f"{name!r} cannot be read ({error.strerror}): nothing was run.") from None
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    vars(module).update(__builtins__=__builtins__, __cached__=None, __annotations__={})
    return compile(source, path, "exec", dont_inherit=True), module


def _load_module(name: str) -> tuple[types.CodeType, types.ModuleType]:
    """Return the code of a module, or of a package's ``__main__``, and its fresh ``__main__``."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # The parent package is missing, or it imports something that is.
        raise _NoProgram(f"no module {name!r} ({error}): nothing was run.") from None
    except ValueError as error:
        raise _NoProgram(f"{name!r} is no module that can be run ({error}).") from None
    if spec is None:
        raise _NoProgram(f"there is no module {name!r}: nothing was run.")
    return _from_spec(spec)


def _from_spec(
    spec: importlib.machinery.ModuleSpec,
) -> tuple[types.CodeType, types.ModuleType]:
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else get_code(spec.name)
    if not isinstance(code, types.CodeType):
        raise _NoProgram(f"{spec.name!r} has no Python code to run.")
    module = types.ModuleType("__main__")
    module.__spec__ = spec
    module.__file__ = spec.origin
    module.__loader__ = spec.loader
    module.__package__ = spec.parent
    vars(module).update(__builtins__=__builtins__, __cached__=spec.cached, __annotations__={})
    if spec.origin is not None and sys.argv[0] == "-m":
        sys.argv[0] = spec.origin
    return code, module
