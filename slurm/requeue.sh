#!/usr/bin/env bash
# Stop cleanly before the time limit or when preempted, and go on in a new run of the same job.
#
# Slurm warns this script some time before the limit (up to a minute earlier than asked for). The
# program then gets what Ctrl-C would give it: a KeyboardInterrupt on rank 0, where it saves what it
# has and ends. The job is queued again under the same number; the program sees by its files, or by
# SLURM_RESTART_COUNT, that it is not the first run. A program that comes to its end is not
# queued again.
# A preempted program gets SIGTERM, which is a StopSignal on rank 0: at the beginning of the
# partition's GraceTime where it has one, else KillWait before Slurm kills it, as with
# `scontrol requeue`. Slurm takes a program that stops within GraceTime for one that has ended, so
# this script queues the job again.
# Edit: these options, the folder of the environment, the program.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate

stopping=
# shellcheck disable=SC2329 # called by the trap
stop() {
    stopping=yes
    # To the ranks, not to srun, which would take it as a question.
    scancel --signal=INT "$SLURM_JOB_ID"
}
trap stop USR1

# In the background: a trap of bash runs while it waits, not while a program does.
alamo-mpi run app.py &
status=0
wait "$!" || status=$?
if [ -n "$stopping" ]; then
    wait "$!" || true # the trap ended the first one
    echo "Stopped before the time limit; job $SLURM_JOB_ID is queued again."
    scontrol requeue "$SLURM_JOB_ID"
elif [ "$status" != 0 ] && [[ $(scontrol show job "$SLURM_JOB_ID") == *" PreemptTime="[0-9]* ]]; then
    echo "Stopped to make way; job $SLURM_JOB_ID is queued again."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
