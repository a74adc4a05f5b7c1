"""The command line: ``alamo-mpi run``, and ``python -m alamo_mpi``, which is the same.

    alamo-mpi run [-n N] app.py [args ...]
    alamo-mpi run [-n N] -m package.module [args ...]

Without ``-n`` the ranks are those that a launcher has started, or one.  With it, this process
becomes the launcher of the MPI that mpi4py loads, and starts itself N times without it.  In a Slurm
allocation ``alamo-mpi run`` takes N from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main", "run"]

RUN = "alamo-mpi run"

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
    if arguments[:1] == ["run"]:
        run(arguments[1:], prog=RUN)
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
    own, program = _split(arguments)
    parser = _run_parser(prog)
    options = parser.parse_args(own)
    if not program:
        parser.error("which program? Name a file, or -m and a module.")
    nranks = options.nranks
    if nranks is None and prog == RUN:
        nranks = _ranks_of_allocation()
    if nranks is not None:
        _start_ranks(nranks, program)
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


def _start_ranks(nranks: int, program: Sequence[str]) -> None:
    from alamo_mpi.errors import LaunchError
    from alamo_mpi.mpi.lastwords import refuse
    from alamo_mpi.mpi.launcher import exec_ranks

    try:
        exec_ranks(nranks, [*_interpreter(), "-m", "alamo_mpi", *program])
    except LaunchError as error:
        refuse(error)


def _interpreter() -> list[str]:
    """Return this Python with the options it was given, such as ``-X dev`` or ``-W error``."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    return [sys.executable, *_args_from_interpreter_flags()]


def _run_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [-h] [--version] [-n N] (app.py | -m MODULE) [ARG ...]",
        description=_description(),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument(
        "-n", dest="nranks", metavar="N", type=_count, help="start N ranks by the MPI's launcher"
    )
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part our options from the program: a file, or ``-m``, and all that follows."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--":
            return list(arguments[:index]), list(arguments[index + 1 :])
        if word.startswith("-m") or not word.startswith("-"):
            break
        index += 2 if word == "-n" else 1
    own, program = list(arguments[:index]), list(arguments[index:])
    if program and program[0].startswith("-m"):
        module = [program[0][2:], *program[1:]] if len(program[0]) > 2 else program[1:]
        program = ["-m", *module] if module else []
    return own, program


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
