"""Find the ``mpiexec`` that belongs to the MPI library which mpi4py loads, and start N ranks.

A launcher of another MPI does not fail: it starts N programs of one rank each.  So every candidate
is asked for its version, and a program that was started that way is refused (`check_singleton`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi.allocation import allocation_of, offered_interfaces, srun_for
from alamo_mpi.mpi.announced import SURVIVE, ranks_of_launcher
from alamo_mpi.mpi.asking import answer_of
from alamo_mpi.mpi.library import family_of_library, loaded_library
from alamo_mpi.mpi.supervise import kills_at_once, supervise

__all__ = [
    "Launcher",
    "check_singleton",
    "exec_ranks",
    "find_launcher",
    "launch_command",
    "misfit",
    "surviving_command",
]

#: By family: what its launcher prints for ``--version``.
_SAYS = {
    "Open MPI": re.compile(r"Open MPI|OpenRTE|PRRTE"),
    "Cray MPICH": re.compile(r"PALS|CRAY MPICH"),
    "Intel MPI": re.compile(r"Intel\(R\) MPI"),
    "MPICH": re.compile(r"HYDRA|MPICH|mpich"),
}

#: Stands in front of each rank of MPICH that the others can do without.
_SHIELD = (sys.executable, "-I", "-S", str(Path(__file__).with_name("shield.py")))

_NAMES = ("mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.mpich", "mpiexec.openmpi")


class Launcher:
    """The command that starts ranks of one MPI library.

    Attributes
    ----------
    command : tuple of str
        The program and options that come before ``-n``.
    family : str
        ``"MPICH"``, ``"Open MPI"``, ``"Intel MPI"``, ``"Cray MPICH"``, or ``""`` where it is not
        known.
    """

    def __init__(self, command: Sequence[str], family: str) -> None:
        self.command = tuple(command)
        self.family = family

    def argv(self, nranks: int, program: Sequence[str], *, oversubscribe: bool = True) -> list[str]:
        """Return the command line that runs `program` on `nranks` ranks."""
        return [*self.command, *self._options(oversubscribe), "-n", str(nranks), *program]

    def surviving_argv(self, nranks: int, program: Sequence[str]) -> list[str]:
        """Return the command line of ranks that go on when one of them is lost.

        Raises
        ------
        LaunchError
            Where this MPI has none.
        """
        if self.family == "Open MPI":
            options = ["--with-ft", "ulfm", "-x", SURVIVE]
            return [*self.command, *self._options(True), *options, "-n", str(nranks), *program]
        if self.family == "MPICH":
            return self.argv(nranks, [*_SHIELD, *program])
        raise LaunchError(
            f"--survive needs MPICH or Open MPI 5: whether ranks of {self.family or 'this MPI'} "
            "can go on when one is lost is not known. Install one of those "
            "(pip install 'alamo-mpi[mpich]'), or leave --survive out."
        )

    def job_argv(self, hosts: Sequence[str], program: Sequence[str], forward: str) -> list[str]:
        """Return the command line that runs `program` beside the ranks of this program.

        Parameters
        ----------
        hosts
            Host name of each rank, those of one host one after the other.
        program
            Command line of each rank.
        forward
            A variable of the environment that each rank must have.
        """
        counts: dict[str, int] = {}
        for host in hosts:
            counts[host] = counts.get(host, 0) + 1
        options: list[str] = []
        if len(counts) > 1:
            places = ",".join(f"{host}:{count}" for host, count in counts.items())
            options += ["--host" if self.family == "Open MPI" else "-hosts", places]
        if self.family == "Open MPI":
            # Its default is one core each, counted anew by every launcher on the host.
            options += ["--bind-to", "none", "-x", forward]
        command = [*self.command, *self._options(True), *options]
        return [*command, "-n", str(len(hosts)), *program]

    def _options(self, oversubscribe: bool) -> list[str]:
        if self.family != "Open MPI":
            return []
        # More ranks than cores are as welcome as they are to MPICH.
        options = ["--oversubscribe"] if oversubscribe else []
        if os.geteuid() == 0:
            options.append("--allow-run-as-root")
        return options


def find_launcher(environ: Mapping[str, str] | None = None) -> Launcher:
    """Return the launcher that belongs to the MPI library of mpi4py; starts no MPI here.

    Parameters
    ----------
    environ : mapping, optional
        ``os.environ`` by default.  ``MPIEXEC`` in it (a command, options allowed) is taken
        without a question.

    Raises
    ------
    LaunchError
        When mpi4py finds no library, or none of the candidates belongs to it.

    Notes
    -----
    Looks in ``MPIEXEC``, beside this Python, beside the library, and on ``PATH``.  Each candidate
    costs a process of some milliseconds.
    """
    environ = os.environ if environ is None else environ
    family, library = loaded_library()
    override = shlex.split(environ.get("MPIEXEC", ""))
    if override:
        return Launcher(override, family)
    return _own_launcher(family, library, environ)


def _own_launcher(family: str, library: str, environ: Mapping[str, str]) -> Launcher:
    seen: list[str] = []
    for path in _candidates(library, environ.get("PATH", os.defpath)):
        found = _family_of_command(path)
        if found == family:
            return Launcher([path], family)
        seen.append(f"{path} ({found or 'unknown'})")
    raise LaunchError(
        f"No launcher was found for {family or 'the MPI'} of {library or 'mpi4py'}. Looked at: "
        f"{', '.join(seen) or 'nothing'}. Set MPIEXEC to the command that starts MPI programs "
        "here (as in MPIEXEC='srun --mpi=pmi2'), or start the program by it yourself: "
        "mpiexec -n N python -m alamo_mpi app.py"
    )


def launch_command(
    nranks: int, program: Sequence[str], environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return the command line that runs `program` on `nranks` ranks, here and now.

    Inside a Slurm allocation that is ``srun`` where this Slurm and the MPI have a language in
    common, so that Slurm sees the ranks, binds them and ends them; else, and with ``MPIEXEC`` set,
    the launcher of `find_launcher`.

    Raises
    ------
    LaunchError
        When there is no launcher, or the allocation cannot have that many ranks.
    """
    environ = os.environ if environ is None else environ
    allocation = allocation_of(environ)
    if allocation is not None and not environ.get("MPIEXEC"):
        family, _ = loaded_library()
        command = srun_for(family, offered_interfaces(environ), allocation, nranks)
        if command is not None:
            return [*command, *program]
    launcher = find_launcher(environ)
    # Open MPI fills the first host with all ranks when it may oversubscribe.
    fits = allocation is not None and nranks <= (allocation.nranks or 0)
    return launcher.argv(nranks, program, oversubscribe=not fits)


def surviving_command(nranks: int, program: Sequence[str]) -> list[str]:
    """Return the command line of ranks that go on when one of them is lost, here and now.

    As `launch_command`; Open MPI's ranks do so under its own launcher alone.

    Raises
    ------
    LaunchError
    """
    allocation = allocation_of(os.environ)
    if allocation is not None and not os.environ.get("MPIEXEC"):
        family, _ = loaded_library()
        if family == "MPICH":
            offered = offered_interfaces(os.environ)
            command = srun_for(family, offered, allocation, nranks, survive=True)
            if command is not None:
                return [*command, *_SHIELD, *program]
    return find_launcher().surviving_argv(nranks, program)


def exec_ranks(nranks: int, program: Sequence[str], *, survive: bool = False) -> NoReturn:
    """Become the launcher that runs `program` on `nranks` ranks, or stay in front of it.

    With `survive`, such that the others go on when one is lost.

    Raises
    ------
    LaunchError
        When there is no launcher, or this process is a rank already.
    """
    if (started := ranks_of_launcher(os.environ)) is not None:
        raise LaunchError(
            f"-n {nranks} starts a launcher, but this process was started by one already "
            f"({started[0]}={started[1]}): leave -n to the outer command."
        )
    argv = surviving_command(nranks, program) if survive else launch_command(nranks, program)
    if survive:
        os.environ[SURVIVE] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if kills_at_once(family_of_library(), argv[0]):
            supervise(argv)
        os.execvp(argv[0], argv)
    except OSError as error:
        raise LaunchError(f"The launcher {argv[0]} cannot be started: {error.strerror}.") from error


def check_singleton(size: int) -> None:
    """Refuse to be one of N programs of one rank, which a launcher of another MPI starts; local.

    Raises
    ------
    LaunchError
        When the launcher announced more than one rank, and the world has one.
    """
    started = ranks_of_launcher(os.environ)
    if size > 1 or started is None or started[1] <= 1:
        return
    raise misfit()


def misfit() -> LaunchError:
    """Return the error that says that this launcher is not this MPI's, and which command is."""
    name, nranks = ranks_of_launcher(os.environ) or ("no announced size", 1)
    try:
        advice = shlex.join(launch_command(nranks, ["python", "-m", "alamo_mpi", "app.py"]))
    except LaunchError as error:
        advice = str(error)
    family, library = loaded_library()
    return LaunchError(
        f"{nranks} separate programs of one rank were started instead of one program of {nranks} "
        f"ranks ({name}={nranks}): the launcher does not belong to "
        f"{family or 'the MPI'} ({library or 'library unknown'}), which mpi4py has loaded. "
        f"Use: {advice}"
    )


def _candidates(library: str, path: str) -> Iterator[str]:
    """Yield launchers in order of trust, each file once."""
    folders = [os.path.join(sys.prefix, "bin")]
    if library:
        # /prefix/lib/libmpi.so, and Debian's /usr/lib/<triplet>/libmpi.so
        folders += [str(parent / "bin") for parent in Path(library).parents[1:4]]
        folders += [str(parent / "bin") for parent in Path(library).resolve().parents[1:4]]
    seen = set()
    for folder in [*folders, *path.split(os.pathsep)]:
        for name in _NAMES:
            found = shutil.which(name, path=folder) if folder else None
            if found and found not in seen:
                seen.add(found)
                yield found


def _family_of_command(path: str) -> str:
    text = answer_of(path, "--version")
    return next((name for name, says in _SAYS.items() if says.search(text)), "")
