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

import sys
from collections.abc import Sequence

from alamo_mpi.commandline import split_program

__all__ = ["main", "run"]

RUN = "alamo-mpi run"
OURS = ("-m", "alamo_mpi")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``alamo-mpi``; the entry point of the package."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["run"]:
        run(arguments[1:], prog=RUN)
    elif arguments[:1] == ["doctor"]:
        from alamo_mpi.doctorcommand import doctor

        doctor(arguments[1:])
    elif arguments[:1] == ["slurm"]:
        from alamo_mpi.slurmcommand import slurm

        slurm(arguments[1:])
    else:
        from alamo_mpi.options import command_parser

        command_parser().parse_args(arguments)


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
    # A rank that a launcher has started has none of our options, and parsers take long to load.
    if own or not program or prog == RUN:
        _start_if_asked(own, program, prog)
    from alamo_mpi.application import run_program

    run_program(program)


def _start_if_asked(own: list[str], program: list[str], prog: str) -> None:
    """Become the launcher if the options ask for ranks, or the allocation has them."""
    import shlex

    from alamo_mpi.options import run_parser

    parser = run_parser(prog)
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


if __name__ == "__main__":
    main()
