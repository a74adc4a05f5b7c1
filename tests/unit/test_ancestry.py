"""The launcher's processes above a rank."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from alamo_mpi.runtime.ancestry import Launchers
from tests.support.until import until


def test_those_above_and_no_others(tmp_path: Path) -> None:
    """A chain of shells, two of which have the names of launchers; the lowest is the rank."""
    names = ["other", "mpiexec", "between", "hydra_pmi_proxy"]
    shell = shutil.which("sh")
    assert shell is not None
    for name in names:
        (tmp_path / name).symlink_to(shell)
    inner = f"'{sys.executable}' -S -c 'import os; print(os.getpid(), flush=True); input()'"
    for name in reversed(names):
        path = tmp_path / f"{name}.sh"
        path.write_text(f"{inner}\nexit $?\n")
        inner = f"'{tmp_path / name}' '{path}'"
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", f"{inner}; exit 5"], stdin=pipe, stdout=pipe) as top:
        assert top.stdout is not None
        launchers = Launchers(int(top.stdout.readline()))
        assert len(launchers._pidfds) == 2
        assert launchers.alive
        launchers.kill()
        assert top.stdin is not None
        top.stdin.close()  # what was below them ends
        assert top.wait(10) == 5
    # The lower one is reaped by whoever inherits it.
    until(lambda: not launchers.alive, lambda: "one lives")
