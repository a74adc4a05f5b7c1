"""Which MPI library mpi4py loads.

Apart from `alamo_mpi.mpi.launcher`, which every rank would else import and never use.
"""

from __future__ import annotations

import re
from pathlib import Path

from alamo_mpi.errors import LaunchError

__all__ = ["family_of_library", "loaded_library"]

_CALLS_ITSELF = {
    "Open MPI": re.compile(r"Open MPI"),
    "Cray MPICH": re.compile(r"CRAY MPICH"),
    "Intel MPI": re.compile(r"Intel\(R\) MPI"),
    "MPICH": re.compile(r"MPICH|MVAPICH"),
}


def family_of_library() -> str:
    """Return the family of the MPI library of mpi4py, as in `Launcher.family`; starts no MPI."""
    return loaded_library()[0]


def loaded_library() -> tuple[str, str]:
    """Return family and path of the MPI library of mpi4py, loading it without MPI_Init."""
    import mpi4py

    mpi4py.rc.initialize = False  # of no effect where MPI runs already
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"mpi4py finds no MPI library ({error}). Install one: pip install 'alamo-mpi[mpich]'"
        ) from error
    version = MPI.Get_library_version()
    family = next((name for name, own in _CALLS_ITSELF.items() if own.search(version)), "")
    return family, _library_path()


def _library_path() -> str:
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"/\S*/libmpi(?:ch)?(?:_abi)?\.so[.\d]*$", maps, re.MULTILINE)
    return found.group() if found else ""
