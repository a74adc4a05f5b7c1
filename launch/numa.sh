#!/usr/bin/env bash
# Bind each rank, processors and memory, to one NUMA node of its host, in turn.
#
#   mpiexec -n 9 launch/numa.sh python -m alamo_mpi app.py
#
# For tasks that use several threads or much memory.  Leave it out where the launcher binds ranks
# already (srun --cpu-bind, mpiexec --bind-to, -bind-to): the narrower of two bindings wins.
set -euo pipefail
# shellcheck source=launch/ranks.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/ranks.sh"
need_rank launch/numa.sh

nodes=(/sys/devices/system/node/node[0-9]*)
if [ "${#nodes[@]}" -lt 2 ]; then
    exec "$@" # one node: nothing to choose
fi
if ! command -v numactl >/dev/null; then
    printf '%s\n' "launch/numa.sh: numactl is not installed on $(hostname); rank $(global_rank) \
stays unbound." >&2
    exec "$@"
fi
node=$(($(local_rank) % ${#nodes[@]}))
exec numactl --cpunodebind="$node" --preferred="$node" "$@"
