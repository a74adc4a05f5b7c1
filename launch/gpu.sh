#!/usr/bin/env bash
# One GPU for each worker: show each rank one GPU of its host, and rank 0, the manager, none.
#
#   srun --mpi=pmi2 -n 5 launch/gpu.sh python -m alamo_mpi app.py       4 GPUs, 5 ranks
#   alamo-mpi run --wrapper launch/gpu.sh -n 5 app.py
#
# The GPUs are those of CUDA_VISIBLE_DEVICES, which Slurm sets, else all that nvidia-smi lists.
# Ranks must fill the hosts in order, the first host one rank more than it has GPUs: slurm/gpu.sh.
set -euo pipefail
# shellcheck source=launch/ranks.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/ranks.sh"
need_rank launch/gpu.sh

if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi

rank=$(global_rank)
worker=$(local_rank)
# On the first host the manager is local rank 0; rank and local rank are the same only there.
[ "$rank" != "$worker" ] || worker=$((worker - 1))
if [ "$worker" -ge "${#gpus[@]}" ]; then
    printf '%s\n' "launch/gpu.sh: rank $rank is worker $worker (from 0) of $(hostname), which has \
${#gpus[@]} GPUs: start fewer ranks, or ask for more GPUs." >&2
    exit 1
fi
export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=
[ "$worker" -lt 0 ] || CUDA_VISIBLE_DEVICES=${gpus[worker]}
exec "$@"
