"""The only room that imports mpi4py: communicators, point-to-point messages, start and end."""

import os

# Open MPI 5 tries UCX for one-sided memory first, and where there is no fabric for it complains on
# stderr, once a rank, before it takes what works.  It reads this when MPI is started, so it is of
# no effect in a program that has started MPI before; a setting of the user's stays.
os.environ.setdefault("OMPI_MCA_osc_ucx_verbose", "-1")
