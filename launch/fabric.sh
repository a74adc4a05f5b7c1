#!/usr/bin/env bash
# Name the network that MPI is to use, where it does not find the right one by itself.
#
#   mpiexec -n 8 launch/fabric.sh tcp python -m alamo_mpi app.py
#
#   tcp   Ethernet without RDMA: UCX of MPICH and the BTLs of Open MPI, never libfabric's tcp,
#         where a small Put may return before it is complete
#   ucx   InfiniBand, RoCE: UCX for messages and for one-sided memory
#   cxi   Slingshot: libfabric's cxi; atomics stay with the network card
#
# What is set already is left alone.  Between the launcher and the program, so that each rank's
# host sets its own; it starts no MPI itself and can be combined with gpu.sh and numa.sh.
set -euo pipefail

give() { # NAME VALUE
    [ -n "${!1:-}" ] || export "$1=$2"
}

case ${1:-} in
tcp)
    give MPIR_CVAR_CH4_NETMOD ucx
    give UCX_TLS tcp,sm,self
    give OMPI_MCA_pml ob1
    give OMPI_MCA_btl tcp,sm,self
    give OMPI_MCA_osc ^ucx
    ;;
ucx)
    give MPIR_CVAR_CH4_NETMOD ucx
    give OMPI_MCA_pml ucx
    give OMPI_MCA_osc ucx
    ;;
cxi)
    give MPIR_CVAR_CH4_NETMOD ofi
    give MPIR_CVAR_CH4_OFI_ENABLE_INJECT 0
    give FI_PROVIDER cxi
    give OMPI_MCA_pml cm
    give OMPI_MCA_mtl ofi
    give ALAMO_DISABLE_SHM_ACCUMULATE 1
    ;;
*)
    printf '%s\n' "launch/fabric.sh: '${1:-}' is no fabric; there are: tcp ucx cxi." \
        "mpiexec -n N launch/fabric.sh tcp python -m alamo_mpi app.py" >&2
    exit 2
    ;;
esac
shift
exec "$@"
