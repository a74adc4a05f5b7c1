"""``alamo-mpi doctor``: examine the ranks that a launcher has started, or those that -n starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["doctor"]

_EPILOG = """\
Start it as you start your program, with its modules, its hosts and its number of ranks:
  mpiexec -n 4 alamo-mpi doctor        srun --mpi=pmi2 -n 4 alamo-mpi doctor
The exit status is 1 where something is broken. It takes some seconds, and no probe that hangs
keeps it for longer than a minute."""


def doctor(arguments: Sequence[str]) -> None:
    """Run the examination and print its report; collective over the ranks of a launcher.

    Raises
    ------
    SystemExit
        With status 1 where something is broken.
    """
    options = _parser().parse_args(arguments)
    if options.nranks is not None:
        _start(options.nranks, options.json)
    from alamo_mpi.doctor.examine import examine
    from alamo_mpi.doctor.report import Finding, as_json, as_text, status_of_findings

    def tell(findings: list[Finding]) -> None:
        sys.stdout.write((as_json if options.json else as_text)(findings))

    findings = examine(tell)
    if findings:
        tell(findings)
        sys.stdout.flush()
        sys.exit(status_of_findings(findings))


def _start(nranks: int, json: bool) -> None:
    from alamo_mpi.errors import LaunchError
    from alamo_mpi.mpi.lastwords import refuse
    from alamo_mpi.mpi.launcher import exec_ranks

    words = ["-m", "alamo_mpi.cli", "doctor", *(["--json"] if json else [])]
    try:
        exec_ranks(nranks, [sys.executable, *words])
    except LaunchError as error:
        refuse(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alamo-mpi doctor",
        description="Say what works here and how fast: MPI, launcher, memory, GPUs, clocks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-n", dest="nranks", metavar="N", type=int, help="start N ranks by the MPI's launcher"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser
