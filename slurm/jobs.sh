#!/usr/bin/env bash
# MPI programs inside tasks: each takes some of this job's workers at once.
#
# 2 nodes, 8 ranks each: 15 workers and the manager. In app.py,
#   solve = batch.job("./solver", ["in.dat"], num_procs=4)
# runs a program with an MPI_COMM_WORLD of 4, beside two more of that size, and beside functions on
# the workers that are left. One that crashes, aborts or hangs (timeout=) costs itself. A program
# that is built with another MPI than mpi4py's, or needs Slurm's binding, runs as a step of this
# Slurm job: policy=Policy(launch="srun").
# Edit: these options, the folder of the environment, the program.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate
alamo-mpi run app.py
