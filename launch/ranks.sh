# shellcheck shell=bash
# Sourced by the wrappers of this folder: which rank is this process, before MPI is started?
# mpiexec's variables come first: inside a batch job it leaves Slurm's of its own daemons in place.

# global_rank, local_rank: the rank in the program, and among the ranks of this host.
global_rank() { printf '%s' "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-${SLURM_PROCID:-}}}"; }
local_rank() { printf '%s' "${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-}}}"; }

# need_rank PROGRAM: end with a sentence where no launcher has started this process.
need_rank() {
    [ -n "$(global_rank)" ] && [ -n "$(local_rank)" ] && return
    printf '%s\n' "$1: no rank is set in the environment. It goes between launcher and program:" \
        "mpiexec -n N $1 python -m alamo_mpi app.py" >&2
    exit 2
}
