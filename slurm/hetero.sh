#!/usr/bin/env bash
# A heterogeneous job: the manager on a small allocation, the workers on another kind of nodes.
# One program over both: rank 0 is the one task of the first component.
# Edit: these options, the folder of the environment, the program.
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --output=%x-%j.out
#SBATCH hetjob
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=3
#SBATCH --cpus-per-task=1
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate

# Only srun starts one program on all components: this needs an MPI that speaks with Slurm.
alamo-mpi run app.py
