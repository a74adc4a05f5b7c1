#!/usr/bin/env bash
# One node, 4 GPUs each: 4 workers with a GPU, and the manager.
# Edit: these options, the folder of the environment, the program.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=5
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate

# One rank a GPU on each host, and one more, the manager, on the first.
hosts=$(mktemp)
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames | awk -v gpus="$SLURM_GPUS_ON_NODE" \
    'NR == 1 { print } { for (i = 0; i < gpus; i++) print }' >"$hosts"
export SLURM_HOSTFILE=$hosts SLURM_DISTRIBUTION=arbitrary
alamo-mpi run -n "$(wc -l <"$hosts")" --wrapper launch/gpu.sh app.py
