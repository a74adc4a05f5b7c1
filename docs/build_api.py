"""Write docs/api.md from the docstrings of the public names.

    python docs/build_api.py            write the page
    python docs/build_api.py --check    exit 1 if the page is not what would be written

The output depends on the sources alone, not on the Python version that runs this.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"

HEAD = """\
# Reference
Made from the docstrings by `python docs/build_api.py`; edit those, not this page. All names are
imported as `from alamo_mpi import NAME`.
"""

#: Chapters in reading order; a public name in none of them fails the build.
CHAPTERS = {
    "The service": ("Batch", "Task", "AsyncDict"),
    "Data dependencies": ("DataAccess", "CommunicationObject", "CommunicationDomain"),
    "Data": ("DDict", "Queue"),
    "Placement": ("Policy", "gpus"),
    "Starting": ("init", "serve"),
    "Programs that tasks start": ("attach", "Attachment", "waiting"),
    "Errors": (
        "AlamoError",
        "TaskStateError",
        "TaskTimeoutError",
        "DeadlockError",
        "WorkerDiedError",
        "DependencyError",
        "CancelledError",
        "SerializationError",
        "StopSignal",
        "RemoteError",
        "RemoteTraceback",
        "WorkerDiedError",
        "WorkersBusyError",
        "JobError",
        "JobTimeoutError",
        "WorkerDiedError",
        "LaunchError",
        "DDictError",
        "DDictFullError",
        "DDictTimeoutError",
        "DDictFrozenError",
        "DDictDestroyedError",
        "ShardLostError",
        "QueueClosedError",
        "QueueDestroyedError",
        "QueueMemoryError",
        "GatewayError",
        "InternalError",
    ),
}

#: Dunder methods whose docstrings say something that users need.
SPECIAL = ("__enter__", "__exit__", "__setstate__", "__del__")


def annotation(value: object) -> str:
    """Write an annotation as in the source; postponed ones are strings already."""
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def parameter(p: inspect.Parameter) -> str:
    """Write one parameter as in the source."""
    stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
    typed = "" if p.annotation is p.empty else f": {annotation(p.annotation)}"
    if p.default is p.empty:
        return f"{stars}{p.name}{typed}"
    default = f"{p.default:g}" if isinstance(p.default, float) else repr(p.default)
    return f"{stars}{p.name}{typed} = {default}" if typed else f"{p.name}={default}"


def signature(name: str, function: object) -> str:
    """Write a signature, without ``self``, one parameter a line where it is long."""
    found = inspect.signature(function)  # type: ignore[arg-type]
    parts: list[str] = []
    keyword_only = False
    for p in found.parameters.values():
        if p.name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            if not any(part.startswith("*") for part in parts):
                parts.append("*")
        parts.append(parameter(p))
    returns = found.return_annotation
    arrow = "" if returns in (found.empty, "None", None) else f" -> {annotation(returns)}"
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) <= 96:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"


def markdown(docstring: str | None) -> Iterator[str]:
    """Turn numpydoc into Markdown: section titles to bold, parameters to list items."""
    lines = inspect.cleandoc(docstring or "").replace("``", "`").splitlines()
    section = ""
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if line and re.fullmatch(r"-{3,}", following) and len(following) == len(line):
            section = line
            yield from ("", f"**{section}**", "")
            index += 2
            continue
        if line.startswith(">>>"):
            yield "```pycon"
            while index < len(lines) and lines[index]:
                yield lines[index].replace("  # doctest: +SKIP", "")
                index += 1
            yield "```"
            continue
        if section in ("Parameters", "Attributes", "Returns", "Raises", "Yields") and line:
            yield f"  {line.strip()}" if line.startswith(" ") else f"- `{line}`"
        else:
            yield line
        index += 1


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the documented methods and properties that `cls` itself defines, in its order."""
    for name, value in vars(cls).items():
        public = not name.startswith("_") or (name in SPECIAL and bool(value.__doc__))
        kinds = (property, classmethod, staticmethod)
        if public and (inspect.isfunction(value) or isinstance(value, kinds)):
            yield name, value


def entry(name: str, value: object) -> Iterator[str]:
    """Write one public name."""
    yield f"### {name}"
    shown = signature(name, value) if inspect.isfunction(value) else class_line(value)
    yield from ("```python", shown, "```")
    yield from markdown(getattr(value, "__doc__", None))
    yield ""
    if not inspect.isclass(value):
        return
    for member, attribute in members(value):
        yield f"#### {name}.{member}"
        if isinstance(attribute, property):
            returns = inspect.signature(attribute.fget).return_annotation  # type: ignore[arg-type]
            yield from ("```python", f"{member}: {annotation(returns)}  # property", "```")
            yield from markdown(attribute.__doc__)
        else:
            function = getattr(attribute, "__func__", attribute)
            yield from ("```python", signature(member, function), "```")
            yield from markdown(function.__doc__)
        yield ""


def class_line(cls: object) -> str:
    """Write how a class is called; exceptions by their bases."""
    assert inspect.isclass(cls)
    if issubclass(cls, BaseException):
        return f"class {cls.__name__}({', '.join(base.__name__ for base in cls.__bases__)})"
    if inspect.isfunction(vars(cls).get("__init__")):
        return "class " + signature(cls.__name__, vars(cls)["__init__"])
    return f"class {cls.__name__}"


def build() -> str:
    """Return the page."""
    import alamo_mpi

    chaptered = {name for names in CHAPTERS.values() for name in names} | {"__version__"}
    missing = set(alamo_mpi.__all__) ^ chaptered
    if missing:
        raise SystemExit(f"docs/build_api.py: CHAPTERS and __all__ differ by {sorted(missing)}")
    lines = [HEAD]
    for chapter, names in CHAPTERS.items():
        lines.append(f"## {chapter}")
        for name in names:
            lines.extend(entry(name, getattr(alamo_mpi, name)))
    page = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page; returns the exit status."""
    page = build()
    if arguments != ["--check"]:
        PAGE.write_text(page)
        return 0
    old = PAGE.read_text() if PAGE.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(
            old.splitlines(True), page.splitlines(True), "docs/api.md", "from the docstrings"
        )
    )
    return int(page != old)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main(sys.argv[1:]))
