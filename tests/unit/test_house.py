"""The house rules: who may import whom, what an import starts, what the public surface is."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import alamo_mpi
from tests.support import seed_api

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "alamo_mpi"

#: Modules directly under the package -> room.  A new module must be given one.
TOP_LEVEL = {
    "errors": "errors",
    "attachment": "surface",
    "batch": "surface",
    "compiling": "surface",
    "ddict": "surface",
    "dictviews": "surface",
    "ending": "surface",
    "handle": "surface",
    "inference": "surface",
    "isolating": "surface",
    "placed": "surface",
    "process": "surface",
    "job": "surface",
    "queue": "surface",
    "retrying": "surface",
    "session": "surface",
    "skipbody": "surface",
    "startlog": "surface",
    "stopsignals": "surface",
    "submitting": "surface",
    "task": "surface",
    "__init__": "top",
    "__main__": "top",
    "application": "top",
    "batchscript": "top",
    "cli": "top",
    "commandline": "top",
    "doctorcommand": "top",
    "options": "top",
    "slurmcommand": "top",
}

#: Room -> rooms that it may import: errors <- core <- mpi <- runtime <- surface <- top.
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors", "core"},
    "mpi": {"errors", "core", "mpi"},
    "extras": {"errors", "core", "extras"},
    "runtime": {"errors", "core", "mpi", "runtime"},
    "surface": {"errors", "core", "mpi", "runtime", "extras", "surface"},
    "doctor": {"errors", "core", "mpi", "runtime", "surface", "doctor"},
    "top": {"errors", "core", "mpi", "runtime", "extras", "surface", "doctor", "top"},
}

#: Third-party package -> where it may be imported (folder or file).
THIRD_PARTY = {
    "cloudpickle": ("runtime",),
    "cupy": ("runtime/device.py",),
    "h5py": ("extras",),
    "matplotlib": ("extras",),
    "mpi4py": ("mpi",),
    "networkx": ("extras",),
    "threadpoolctl": ("runtime",),
    "numpy": ("mpi", "runtime", "extras", "ddict.py", "queue.py"),
}

#: Standard modules that would make a decision impure: clocks, threads, processes, chance, I/O.
IMPURE = {
    "asyncio",
    "concurrent",
    "ctypes",
    "datetime",
    "logging",
    "mmap",
    "multiprocessing",
    "queue",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "_thread",
}

#: Of `os`, only what treats a path as text.
PURE_OS = {
    "os.PathLike",
    "os.fsdecode",
    "os.fspath",
    "os.path",
    "os.path.join",
    "os.path.normpath",
    "os.sep",
}

MAX_LINES = 500


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources(PACKAGE)}
CORE = [name for name in sorted(MODULES) if name.startswith("alamo_mpi.core")]


def room(module: str) -> str:
    if module == "alamo_mpi":
        return "top"
    first = module.split(".")[1]
    if (PACKAGE / first).is_dir():
        return first
    assert first in TOP_LEVEL, f"{module} has no room yet: add it to TOP_LEVEL"
    return TOP_LEVEL[first]


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def walk(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    """Yield `node` and all below it, with or without what is for type checking alone."""
    yield node
    if types or not is_for_types(node):
        for child in ast.iter_child_nodes(node):
            yield from walk(child, types)


def imports(path: Path, types: bool = True) -> Iterator[str]:
    """Yield each imported module, those inside functions included."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in walk(ast.parse(path.read_text()), types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in MODULES else base


def run_fresh(code: str) -> object:
    """Run `code` in a fresh interpreter; return what it printed, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------- imports


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_arrow(module: str) -> None:
    inside = {name for name in imports(MODULES[module]) if name.split(".")[0] == "alamo_mpi"}
    wrong = {name for name in inside if room(name) not in MAY_IMPORT[room(module)]}
    assert not wrong, f"{module} (room {room(module)}) imports {sorted(wrong)}"


def test_modules_do_not_import_each_other_in_circles() -> None:
    # For type checking alone, a handle and what it makes may name each other inside their room.
    graph = {
        module: {name for name in imports(path, types=False) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_third_party_packages_stay_in_their_rooms(module: str) -> None:
    where = MODULES[module].relative_to(PACKAGE).as_posix()
    outside = {name.split(".")[0] for name in imports(MODULES[module])} - {"alamo_mpi"}
    for package in outside - sys.stdlib_module_names:
        allowed = THIRD_PARTY.get(package, ())
        assert any(where == place or where.startswith(f"{place}/") for place in allowed), (
            f"{module} imports {package}, which belongs in {allowed or 'no room'}"
        )


@pytest.mark.parametrize("module", CORE)
def test_core_is_pure(module: str) -> None:
    outside = {name.split(".")[0] for name in imports(MODULES[module])} - {"alamo_mpi"}
    assert outside <= sys.stdlib_module_names - IMPURE
    tree = ast.parse(MODULES[module].read_text())
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in attributes if name.startswith("os.")} <= PURE_OS


def test_importing_core_loads_no_mpi_no_numpy_and_starts_no_thread() -> None:
    loaded, threads = run_fresh(
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"for name in {CORE!r}: __import__(name)\n"
        "import threading\n"
        "print(json.dumps([sorted(set(sys.modules) - before), threading.active_count()]))"
    )
    unwanted = {"asyncio", "cloudpickle", "mpi4py", "multiprocessing", "networkx", "numpy"}
    assert not {name.split(".")[0] for name in loaded} & unwanted
    assert threads == 1


def test_importing_the_package_loads_no_mpi() -> None:
    loaded = run_fresh(
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "import alamo_mpi\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert "alamo_mpi" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"cloudpickle", "mpi4py", "numpy"}


# --------------------------------------------------------------------------- public names


def test_public_names_are_the_documented_ones() -> None:
    promised = {*seed_api.METHODS, *seed_api.CLASSES} - seed_api.PLANNED
    errors = set(importlib.import_module("alamo_mpi.errors").__all__)
    ours = {"__version__", "Attachment", "attach", "gpus", "init", "serve", "waiting"}
    assert set(alamo_mpi.__all__) == promised | errors | ours
    assert alamo_mpi.__all__ == sorted(alamo_mpi.__all__)
    assert len(alamo_mpi.__all__) == len(set(alamo_mpi.__all__))


@pytest.mark.parametrize("name", alamo_mpi.__all__)
def test_each_public_name_resolves_to_one_documented_object(name: str) -> None:
    value = getattr(alamo_mpi, name)
    assert name in dir(alamo_mpi)
    if not name.startswith("__"):
        assert value.__name__ == name
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(alamo_mpi, "no_such_name")  # noqa: B009 - a static name would not type-check


SEED_METHODS = [
    pytest.param(owner, method, id=f"{owner}.{method}")
    for owner, methods in seed_api.METHODS.items()
    for method in methods
    if f"{owner}.{method}" not in seed_api.PLANNED
]


@pytest.mark.parametrize(("owner", "method"), SEED_METHODS)
def test_methods_take_the_documented_arguments(owner: str, method: str) -> None:
    function = inspect.getattr_static(getattr(alamo_mpi, owner), method)
    ours = dict(list(inspect.signature(function).parameters.items())[1:])  # without self
    promised = seed_api.parameters(seed_api.METHODS[owner][method])
    assert [name for name in ours if name in promised] == list(promised)
    for name, parameter in promised.items():
        assert ours[name].default == parameter.default, f"the default of {name}"
        assert ours[name].kind in (parameter.kind, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    additions = [ours[name] for name in ours if name not in promised]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in additions)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in seed_api.PROPERTIES.items() for name in names],
)
def test_properties_are_properties(owner: str, name: str) -> None:
    assert isinstance(inspect.getattr_static(getattr(alamo_mpi, owner), name), property)


@pytest.mark.parametrize("item", sorted(seed_api.PLANNED))
def test_what_is_planned_is_absent_not_half_there(item: str) -> None:
    owner, _, name = item.partition(".")
    assert not hasattr(getattr(alamo_mpi, owner) if name else alamo_mpi, name or owner)


# --------------------------------------------------------------------------------- habits

ALL_SOURCES = sources(*(ROOT / name for name in ("alamo_mpi", "benchmarks", "examples", "tests")))


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in ALL_SOURCES}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES}
    assert not long


def called_names(path: Path) -> set[str]:
    calls = (
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    )
    return {ast.unparse(func) for func in calls}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_library_never_prints_nor_configures_logging(module: str) -> None:
    forbidden = {"logging.basicConfig", "breakpoint"}
    if room(module) != "top":
        forbidden.add("print")
    assert not called_names(MODULES[module]) & forbidden


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_their_public_functions_have_docstrings(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, definitions) and not n.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node)]
