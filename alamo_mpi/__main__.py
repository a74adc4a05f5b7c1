"""``python -m alamo_mpi [-n N] app.py [args]``: run a program on the ranks of an MPI job."""

from alamo_mpi.cli import run

if __name__ == "__main__":
    run()
