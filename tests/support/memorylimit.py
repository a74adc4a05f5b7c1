"""A limit of memory that the kernel keeps by killing: a control group of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.until import until

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextmanager
def limited_group(nbytes: int) -> Iterator[Path]:
    """Make a control group with so much memory, and no swap; skips where that cannot be done.

    Yields
    ------
    Path
        The file that a process writes its number to, to be in it, and with it all that it starts.
    """
    group = _made(f"alamo-{os.getpid()}")
    try:
        if (group / "memory.max").exists():
            (group / "memory.max").write_text(str(nbytes))
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.limit_in_bytes").write_text(str(nbytes))
            (group / "memory.swappiness").write_text("0")
        yield group / "cgroup.procs"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), lambda: "processes are left in it")
        group.rmdir()


def _made(name: str) -> Path:
    own = dict(
        (controllers, path)
        for _, controllers, path in (
            line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()
        )
    )
    if "memory" in own and (_V1 / own["memory"][1:]).is_dir():
        return _tried(_V1 / own["memory"][1:] / name, "memory.limit_in_bytes")
    if "" not in own or not (_V2 / "cgroup.controllers").exists():
        pytest.skip("no control groups with a memory controller are mounted in /sys/fs/cgroup")
    # Beside one's own group, not in it: one with processes gives its children no controllers.
    return _tried(_V2 / Path(own[""]).parent.as_posix()[1:] / name, "memory.max")


def _tried(group: Path, limit: str) -> Path:
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    if not os.access(group / limit, os.W_OK):
        group.rmdir()
        pytest.skip(f"a control group has no {limit} here that can be written")
    return group
