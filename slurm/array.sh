#!/usr/bin/env bash
# Independent batches: each element of the array is a program of its own, with its own ranks.
# Edit: these options, the folder of the environment, the program.
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --time=1:00:00
#SBATCH --output=%x-%A-%a.out
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate

# The program gets the element's number as its argument; it is also in SLURM_ARRAY_TASK_ID.
alamo-mpi run app.py "$SLURM_ARRAY_TASK_ID"
