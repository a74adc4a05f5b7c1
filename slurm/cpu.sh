#!/usr/bin/env bash
# One node, 4 ranks each: 3 workers and the manager.
# Edit: these options, the folder of the environment, the program.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate
alamo-mpi run app.py
