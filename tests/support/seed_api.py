"""The API that the package promises, as data: classes, methods, arguments, defaults.

Each signature is written as it stands in the API's document, without ``self``.  Where the package
deliberately differs, `DEVIATIONS` says so; `PLANNED` names what is announced and not there yet.
"""

from __future__ import annotations

import inspect

DEFAULT_TIMEOUT_S = 1e9

#: Class -> method -> parameters as in the document.
METHODS: dict[str, dict[str, str]] = {
    "Batch": {
        "__init__": "num_workers=None, log_level=30, enable_telem=False",
        "__del__": "",
        "__setstate__": "state",
        "read": "obj, *channels",
        "write": "obj, *channels",
        "close": "",
        "join": "timeout=1e9",
        "terminate": "",
        "function": ("func, *args, callback_func=None, callback_args=(), reads=None, writes=None"),
        "process": (
            "args, bufsize=-1, executable=None, stdin=None, stdout=None, stderr=None, "
            "preexec_fn=None, close_fds=True, shell=False, cwd=None, env=None, "
            "universal_newlines=None, startupinfo=None, creationflags=0, restore_signals=True, "
            "start_new_session=False, pass_fds=(), group=None, extra_groups=None, user=None, "
            "umask=-1, encoding=None, errors=None, text=None, pipesize=-1, process_group=None, "
            "callback_func=None, callback_args=(), reads=None, writes=None"
        ),
        "job": (
            "target, args=(), num_procs=1, cwd=None, env=None, policy=None, callback_func=None, "
            "callback_args=(), reads=None, writes=None"
        ),
        "compile": "tasks_to_compile, callback_func=None, callback_args=()",
    },
    "Task": {
        "__init__": (
            "batch, callback_func=None, callback_args=(), reads=None, writes=None, compiled=False"
        ),
        "read": "obj, *channels",
        "write": "obj, *channels",
        "start": "",
        "wait": "timeout=1e9",
        "run": "timeout=1e9",
        "dump_dag": "file_name",
    },
    "AsyncDict": {"get": "tuid=None, timeout=None"},
}

#: Class -> properties.
PROPERTIES: dict[str, tuple[str, ...]] = {"Task": ("uid", "result", "stdout", "stderr")}

#: Classes without documented methods.
CLASSES: tuple[str, ...] = (
    "CommunicationDomain",
    "CommunicationObject",
    "DDict",
    "DataAccess",
    "Policy",
    "Queue",
)

#: Announced; absent until it works.
PLANNED: frozenset[str] = frozenset({"Batch.__setstate__", "Batch.job", "Batch.process", "Policy"})

#: Parameter -> how the package differs from the document, and why.
DEVIATIONS: dict[str, str] = {
    "Batch.__init__.num_workers": (
        "None instead of cpu_count(): the program's workers are its ranks, whose number the "
        "launcher decides; None takes every one that no other live Batch holds"
    ),
}


def parameters(text: str) -> dict[str, inspect.Parameter]:
    """Parse one signature of `METHODS`."""
    return dict(inspect.signature(eval(f"lambda {text}: None")).parameters)


def items() -> list[str]:
    """Every class, method and property, as ``Class`` or ``Class.name``, sorted."""
    names = {*METHODS, *CLASSES}
    for table in (METHODS, PROPERTIES):
        names.update(f"{owner}.{name}" for owner, members in table.items() for name in members)
    return sorted(names)
