"""``alamo-mpi slurm``: print a batch script for Slurm, to be kept, read and submitted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alamo_mpi.batchscript import JobRequest, batch_script
from alamo_mpi.commandline import split_program

__all__ = ["slurm"]

_EPILOG = """\
Anything else that sbatch takes goes through --option, such as --option=--partition=long.
  alamo-mpi slurm --nodes 4 --gpus-per-node 4 --time 1:00:00 app.py > job.sh && sbatch job.sh"""

_VALUED = (
    *("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"),
    *("--time", "--wrapper", "--option"),
)


def slurm(arguments: Sequence[str]) -> None:
    """Print a batch script as the arguments of ``alamo-mpi slurm`` say.

    Raises
    ------
    SystemExit
        With status 2, where they make no sense.
    """
    parser = _parser()
    own, program = split_program(arguments, valued=_VALUED)
    options = parser.parse_args(own)
    request = JobRequest(
        program=program,
        nodes=options.nodes,
        tasks=options.ntasks_per_node,
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=options.cpus_per_task,
        time=options.time,
        environment=os.environ.get("VIRTUAL_ENV") or sys.prefix,
        wrapper=options.wrapper,
        options=options.option,
    )
    try:
        text = batch_script(request)
    except ValueError as error:
        parser.error(str(error))
    if program[0] != "-m" and not Path(program[0]).exists():
        print(
            f"alamo-mpi slurm: there is no file {program[0]!r} in {os.getcwd()} yet.",
            file=sys.stderr,
        )
    sys.stdout.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alamo-mpi slurm",
        usage="alamo-mpi slurm [OPTION ...] (app.py | -m MODULE) [ARG ...]",
        description="Print a batch script that runs a program by `alamo-mpi run`.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="hosts (1)")
    add("--ntasks-per-node", type=int, default=4, metavar="N", help="ranks on each host (4)")
    add("--gpus-per-node", type=int, default=0, metavar="N", help="one rank a GPU, and the manager")
    add("--cpus-per-task", type=int, default=1, metavar="N", help="processors for each rank (1)")
    add("--time", default="1:00:00", metavar="T", help="limit, as Slurm writes it (1:00:00)")
    add("--wrapper", default="launch/gpu.sh", metavar="CMD", help="what gives each rank its GPU")
    add("--option", action="append", default=[], metavar="OPT", help="a further option of sbatch")
    return parser
