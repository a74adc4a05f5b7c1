"""The only room that imports mpi4py: communicators, point-to-point messages, start and end."""

import os

from alamo_mpi.mpi.cards import has_card

# Open MPI reads these when MPI is started, so they are of no effect in a program that has started
# MPI before; a setting of the user's stays.
#
# Open MPI 5 tries UCX for one-sided memory first, and where there is no fabric for it complains on
# stderr, once a rank, before it takes what works.
os.environ.setdefault("OMPI_MCA_osc_ucx_verbose", "-1")
# It asks libfabric for a fabric, too, and a provider of libfabric's waits a second for Ethernet
# cards that tell it no speed: 1.0 s of each start, measured with 5.0.11.  Over TCP Open MPI's own
# transport is the one to have, so libfabric is asked only where there is a card for it.
if not has_card():
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")
