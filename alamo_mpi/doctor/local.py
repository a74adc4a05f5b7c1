"""What a rank sees of its host, without MPI."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from alamo_mpi.doctor.facts import HostFacts

__all__ = ["host_facts"]

_SHM = "/dev/shm"


def host_facts(name: str | None = None) -> HostFacts:
    """Return what this process sees of its host; local, some milliseconds."""
    try:
        room = os.statvfs(_SHM)
        free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    except OSError:
        free = total = 0
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
    return HostFacts(
        name or socket.gethostname(),
        len(os.sched_getaffinity(0)),
        free,
        total,
        -1 if limit == resource.RLIM_INFINITY else limit,
        folder,
        _cannot_write(folder),
        _gpus(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _cannot_write(folder: str) -> str:
    """Return why no file can be made in a folder; empty where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _gpus() -> tuple[str, ...]:
    """Return the GPUs of the host, whoever may use them; nvidia-smi knows, and the device files."""
    command = shutil.which("nvidia-smi")
    if command:
        try:
            listed = subprocess.run(
                [command, "--query-gpu=index", "--format=csv,noheader"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
            return tuple(listed.stdout.split())
        except (OSError, subprocess.SubprocessError):
            pass
    files = Path("/dev").glob("nvidia[0-9]*")
    return tuple(sorted(path.name.removeprefix("nvidia") for path in files))
