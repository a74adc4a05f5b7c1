"""The command line: ``alamo-mpi run``, and ``python -m alamo_mpi``, which is the same.

    alamo-mpi run [-n N] app.py [args ...]
    alamo-mpi run [-n N] -m package.module [args ...]
    alamo-mpi doctor [-n N] [--json]
    alamo-mpi slurm [--nodes N] [--gpus-per-node G] [--time T] ... app.py [args ...]

Without ``-n`` the ranks are those that a launcher has started, or one.  With it, this process
becomes the launcher of the MPI that mpi4py loads, and starts itself N times without it.  In a Slurm
allocation ``alamo-mpi run`` takes N from it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from alamo_mpi.commandline import split_program

__all__ = ["main", "run"]

RUN = "alamo-mpi run"
OURS = ("-m", "alamo_mpi")

_EPILOG = """\
Ranks 1 to N-1 are workers; the program runs once, on rank 0. The usual start is
  mpiexec -n N python -m alamo_mpi app.py
and -n N finds the mpiexec for you. MPIEXEC in the environment overrides which one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``alamo-mpi``; the entry point of the package."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="alamo-mpi", description=_description())
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", add_help=False, help="run a program on the ranks of an MPI job")
    commands.add_parser("doctor", add_help=False, help="say what works here, and how fast")
    commands.add_parser("slurm", add_help=False, help="print a batch script for Slurm")
    if arguments[:1] == ["run"]:
        run(arguments[1:], prog=RUN)
    elif arguments[:1] == ["doctor"]:
        from alamo_mpi.doctorcommand import doctor

        doctor(arguments[1:])
    elif arguments[:1] == ["slurm"]:
        from alamo_mpi.slurmcommand import slurm

        slurm(arguments[1:])
    else:
        parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None, *, prog: str = "python -m alamo_mpi") -> None:
    """Run a program on rank 0 of this job, or start a launcher first.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.
    prog : str
        How the user called this, for messages.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    own, program = split_program(arguments, valued=("-n", "--wrapper"))
    parser = _run_parser(prog)
    options = parser.parse_args(own)
    if not program:
        parser.error("which program? Name a file, or -m and a module.")
    nranks = options.nranks
    if nranks is None and prog == RUN:
        nranks = _ranks_of_allocation()
    if options.survive and nranks is None:
        parser.error("--survive needs -n N: it is said to the launcher that is started.")
    if nranks is not None:
        _start_ranks(
            nranks,
            options.survive,
            [*shlex.split(options.wrapper), *_interpreter(), *OURS, *program],
        )
    from alamo_mpi.application import run_program

    run_program(program)


def _ranks_of_allocation() -> int | None:
    """Return how many ranks the Slurm job around us was made for; None where it has none to start.

    Only ``alamo-mpi run`` asks: ``python -m alamo_mpi`` is what launchers start, also those that
    do not announce themselves.
    """
    import os

    from alamo_mpi.mpi.allocation import allocation_of
    from alamo_mpi.mpi.announced import ranks_of_launcher

    allocation = allocation_of(os.environ)
    if allocation is None or ranks_of_launcher(os.environ) is not None:
        return None
    return allocation.nranks


def _start_ranks(nranks: int, survive: bool, command: Sequence[str]) -> None:
    from alamo_mpi.errors import LaunchError
    from alamo_mpi.mpi.lastwords import refuse
    from alamo_mpi.mpi.launcher import exec_ranks

    try:
        exec_ranks(nranks, command, survive=survive)
    except LaunchError as error:
        refuse(error)


def _interpreter() -> list[str]:
    """Return this Python with the options it was given, such as ``-X dev`` or ``-W error``."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    return [sys.executable, *_args_from_interpreter_flags()]


def _run_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [-h] [--version] [-n N [--survive] [--wrapper CMD]] "
        "(app.py | -m MODULE) [ARG ...]",
        description=_description(),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "-n", dest="nranks", metavar="N", type=_count, help="start N ranks by the MPI's launcher"
    )
    parser.add_argument(
        "--survive",
        action="store_true",
        help="with -n: go on when a worker is lost (Open MPI 5, one host)",
    )
    parser.add_argument(
        "--wrapper",
        metavar="CMD",
        default="",
        help="with -n: what each rank is started by, such as launch/gpu.sh",
    )
    return parser


def _count(text: str) -> int:
    nranks = int(text)
    if nranks < 1:
        raise argparse.ArgumentTypeError("at least one rank is needed")
    return nranks


def _description() -> str:
    return "Run a sequential-looking Python program in parallel on the ranks of an MPI job."


def _version() -> str:
    import alamo_mpi

    return f"alamo_mpi {alamo_mpi.__version__}"


if __name__ == "__main__":
    main()
