"""What a test run left behind: living processes of the run, and files in shared memory.

    marker=...                                  in the environment of everything the run starts
    before=$(python leftovers.py snapshot)
    ...
    python leftovers.py check "$marker" "$before"

A process belongs to the run when `ENVIRONMENT_NAME` in the environment that it was started with
has the run's value, or that value, a slash and more: a run inside the run.  A file in shared
memory counts when it is new, belongs to this user and no living process has it mapped or open:
files of other running programs are theirs to remove.  `check` says what it found, kills those
processes and exits 1.  Standard library, Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

ENVIRONMENT_NAME = "ALAMO_RUN_MARKER"
GRACE_S = 10.0
SHARED_MEMORY = Path("/dev/shm")
T = TypeVar("T")


def living() -> Iterator[Path]:
    """Yield the /proc folder of each process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield entry


def marked_processes(marker: str) -> dict[int, str]:
    """Return pid and command line of each living process started with `marker`."""
    wanted = f"{ENVIRONMENT_NAME}={marker}".encode()
    inner = wanted + b"/"
    found = {}
    for proc in living():
        try:
            variables = (proc / "environ").read_bytes().split(b"\0")
            if wanted not in variables and not any(v.startswith(inner) for v in variables):
                continue
            state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile, or another user's
            continue
        if state != "Z":
            found[int(proc.name)] = command.strip()
    return found


def shared_files() -> set[str]:
    """Return this user's files in shared memory."""
    names: set[str] = set()
    if not SHARED_MEMORY.is_dir():
        return names
    for entry in os.scandir(SHARED_MEMORY):
        try:
            if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                names.add(entry.path)
        except OSError:
            continue
    return names


def in_use() -> set[str]:
    """Return the shared-memory files that some living process maps or has open."""
    prefix = f"{SHARED_MEMORY}/"
    used = set()
    for proc in living():
        try:
            for line in (proc / "maps").read_text(errors="replace").splitlines():
                path = line.partition(prefix)
                if path[1]:
                    used.add(prefix + path[2].removesuffix(" (deleted)"))
            for descriptor in (proc / "fd").iterdir():
                used.add(os.readlink(descriptor))
        except OSError:
            continue
    return used


def leaked_files(before: set[str]) -> set[str]:
    """Return the shared-memory files made since `before` that nobody uses."""
    new = shared_files() - before
    return new - in_use() if new else new


def settle(find: Callable[[], T]) -> T:
    """Call `find` until it finds nothing or the grace is over; processes may be just ending."""
    deadline = time.monotonic() + GRACE_S
    while True:
        found = find()
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """Run one of the two commands of the head; returns the exit status."""
    if arguments == ["snapshot"]:
        print(json.dumps(sorted(shared_files())))
        return 0
    if len(arguments) != 3 or arguments[0] != "check":
        print(__doc__, file=sys.stderr)
        return 2
    _, marker, before = arguments
    processes = settle(lambda: marked_processes(marker))
    files = settle(lambda: leaked_files(set(json.loads(before))))
    for pid, command in sorted(processes.items()):
        print(f"still running, now killed: {pid} {command}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in sorted(files):
        print(f"left in shared memory: {path}")
    return 1 if processes or files else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
