"""Whether launcher and MPI library belong together, found out before MPI is started.

Most misfits start N programs of one rank each, which `launcher.check_singleton` refuses once MPI
runs.  A library of MPICH's family under a launcher that speaks only PMIx (Open MPI's, or ``srun
--mpi=pmix``) does not get so far: ``MPI_Init`` aborts, in words for MPI's authors.  So there the
library is asked for its name first.
"""

from __future__ import annotations

import os
import sys

__all__ = ["check_fit"]


def check_fit() -> None:
    """Refuse a launcher that this MPI library cannot be started by; local, may start MPI.

    Raises
    ------
    LaunchError
        The launcher speaks PMIx alone, and the library does not.

    Notes
    -----
    Does nothing where MPI has been imported, where mpi4py was told not to start it, and under
    launchers that speak PMI.
    """
    speaks_only_pmix = "PMIX_RANK" in os.environ and "PMI_RANK" not in os.environ
    if not speaks_only_pmix or "mpi4py.MPI" in sys.modules:
        return
    import mpi4py

    wish = mpi4py.rc.initialize
    if wish is False:
        return
    mpi4py.rc.initialize = False
    if mpi4py.rc.finalize is None:
        mpi4py.rc.finalize = True  # it would follow `initialize`
    from mpi4py import MPI

    mpi4py.rc.initialize = wish
    if "MPICH" in MPI.Get_library_version() or "Intel" in MPI.Get_library_version():
        from alamo_mpi.mpi.launcher import misfit

        raise misfit()
    _start_as_mpi4py_does()


def _start_as_mpi4py_does() -> None:
    import mpi4py
    from mpi4py import MPI

    if mpi4py.rc.threads is False:
        MPI.Init()
    else:
        MPI.Init_thread(getattr(MPI, f"THREAD_{mpi4py.rc.thread_level}".upper()))
