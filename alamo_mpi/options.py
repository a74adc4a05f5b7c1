"""The options of ``alamo-mpi`` and ``python -m alamo_mpi``; loaded where there are any to read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

__all__ = ["command_parser", "run_parser"]

_DESCRIPTION = "Run a sequential-looking Python program in parallel on the ranks of an MPI job."
_EPILOG = """\
Ranks 1 to N-1 are workers; the program runs once, on rank 0. The usual start is
  mpiexec -n N python -m alamo_mpi app.py
and -n N finds the mpiexec for you. MPIEXEC in the environment overrides which one."""


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of ``alamo-mpi`` itself, which knows the names of its commands."""
    parser = argparse.ArgumentParser(prog="alamo-mpi", description=_DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help=_Version.HELP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", add_help=False, help="run a program on the ranks of an MPI job")
    commands.add_parser("doctor", add_help=False, help="say what works here, and how fast")
    commands.add_parser("slurm", add_help=False, help="print a batch script for Slurm")
    return parser


def run_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of our options before a program.

    Parameters
    ----------
    prog : str
        How the user called this, for messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [-h] [--version] [-n N [--survive] [--wrapper CMD]] "
        "(app.py | -m MODULE) [ARG ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help=_Version.HELP)
    parser.add_argument(
        "-n", dest="nranks", metavar="N", type=_count, help="start N ranks by the MPI's launcher"
    )
    parser.add_argument(
        "--survive",
        action="store_true",
        help="with -n: go on when a worker is lost (MPICH; Open MPI 5 on one host)",
    )
    parser.add_argument(
        "--wrapper",
        metavar="CMD",
        default="",
        help="with -n: what each rank is started by, such as launch/gpu.sh",
    )
    return parser


class _Version(argparse.Action):
    """Show the version and end; it is looked up only then."""

    HELP = "show program's version number and exit"

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        import alamo_mpi

        print(f"alamo_mpi {alamo_mpi.__version__}")
        parser.exit()


def _count(text: str) -> int:
    nranks = int(text)
    if nranks < 1:
        raise argparse.ArgumentTypeError("at least one rank is needed")
    return nranks
