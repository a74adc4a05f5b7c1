"""What a start says in its log, by real ranks."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mpirun import Started, launcher, mpirun

pytestmark = pytest.mark.slow

PLAIN = "import alamo_mpi\nalamo_mpi.init()\n"
LISTENS = "import logging\nlogging.basicConfig(level=logging.INFO)\n"


def written(folder: Path, text: str) -> str:
    path = folder / "app.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("way", ["program", "variable", "both"])
def test_the_log_says_what_was_found(tmp_path: Path, way: str) -> None:
    """At level INFO, and once: launcher, MPI, threads, memory, modes and GPUs."""
    app = written(tmp_path, PLAIN if way == "variable" else LISTENS + PLAIN)
    env = {"ALAMO_FAKE_GPUS": "2"} | ({} if way == "program" else {"ALAMO_LOG": "info"})
    run = mpirun(3, ["-m", "alamo_mpi", app] if way == "variable" else [app], env=env)
    run.check_clean()
    assert run.rc == 0, str(run)
    assert run.stderr.count("alamo_mpi starts with 3 ranks:\n") == 1, str(run)
    family = launcher().family
    told = "PMI_SIZE=3" if family == "MPICH" else "OMPI_COMM_WORLD_SIZE=3"
    for found in (
        f" x 3\n  launcher     it told {told}\n",
        f"  MPI          {family}",
        "MPI_THREAD_MULTIPLE\n",
        f"MiB a rank; {'loads and stores' if family == 'MPICH' else 'operations of MPI'} between",
        "  idle ranks   look each 10 ms",
        f"  jobs         started by {'pmi' if family == 'MPICH' else 'mpiexec'}\n",
        "  GPUs         rank 1: 0; rank 2: 1\n",
    ):
        assert found in run.stderr, str(run)


def test_blocks_of_a_host_program_tell_it_once(tmp_path: Path) -> None:
    """In the host's own log."""
    text = (
        "from mpi4py import MPI\nimport alamo_mpi\n"
        "for _ in range(3):\n"
        "    with alamo_mpi.serve(MPI.COMM_WORLD):\n"
        "        assert alamo_mpi.Batch().function(pow, 2, 5).run() == 32\n"
    )
    run = mpirun(3, [written(tmp_path, LISTENS + text)])
    run.check_clean()
    assert run.rc == 0, str(run)
    assert run.stderr.count("alamo_mpi starts with 3 ranks:\n") == 1, str(run)


def test_a_level_that_is_none(tmp_path: Path) -> None:
    run = mpirun(3, ["-m", "alamo_mpi", written(tmp_path, PLAIN)], env={"ALAMO_LOG": "loud"})
    run.check_clean()
    assert run.rc != 0
    assert run.stderr.count("ALAMO_LOG='LOUD': it must be one of DEBUG, INFO") == 1, str(run)


def test_the_log_says_nothing_unasked(tmp_path: Path) -> None:
    """And of what the log needs, workers have nothing loaded."""
    text = (
        "import sys, alamo_mpi\n"
        "def loaded(): return 'alamo_mpi.startlog' in sys.modules\n"
        "with alamo_mpi.Batch() as batch: print(batch.function(loaded).run())\n"
    )
    run = mpirun(3, [written(tmp_path, text)])
    run.check_clean()
    assert (run.rc, run.stderr, run.stdout) == (0, "", "False\n"), str(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="a /dev/shm of one's own needs root")
def test_a_small_shm_is_warned_of(tmp_path: Path) -> None:
    """Unasked, and once: what it means, and what to do."""
    mount = ["unshare", "-m", "--propagation", "private", "mount", "-t", "tmpfs"]
    tried = subprocess.run([*mount, "tmpfs", "/mnt"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"a /dev/shm of one's own cannot be mounted here: {tried.stderr.strip()}")
    command = launcher().argv(3, [sys.executable, written(tmp_path, PLAIN)])
    script = f"mount -t tmpfs -o size=150m tmpfs /dev/shm && exec {shlex.join(command)}"
    with Started([*mount[:4], "sh", "-c", script], timeout_s=60) as started:
        run = started.finish()
    run.check_clean()
    assert run.rc == 0, str(run)
    assert run.stderr.count("The memory pool of DDict and Queue has ") == 1, str(run)
    assert "remount,size=" in run.stderr
