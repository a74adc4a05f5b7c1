"""The ways to start the wrappers of a job's ranks; `core.launch` names them."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from alamo_mpi.core.jobmessages import Enlist, SpawnTurn
from alamo_mpi.core.launch import choose_launch, scrubbed
from alamo_mpi.core.pmi import shared_memory
from alamo_mpi.mpi.launcher import Launcher, find_launcher
from alamo_mpi.mpi.library import family_of_library
from alamo_mpi.mpi.spawning import check_spawn, spawn
from alamo_mpi.runtime import jobwrapper
from alamo_mpi.runtime.jobhub import Hub
from alamo_mpi.runtime.jobsite import JobSite
from alamo_mpi.runtime.jobspare import WRAPPER

__all__ = ["START_S", "JobLauncher", "launcher_of"]

#: Seconds that a launcher has to end when its ranks have, and when it is asked to.
_LEAVE_S = 2.0
_TAIL_NBYTES = 2000
#: Seconds that Spawn has to return when the job is over.
START_S = 20.0
#: The rank that gives turns.
MANAGER = 0


class JobLauncher(Protocol):
    """Starts the wrappers of one job."""

    #: Who serves PMI to the programs, as `runtime.jobhub.Hub` takes it.
    mode: str
    #: After `close`, what it said itself.
    said: str

    @property
    def finished(self) -> bool:
        """Whether it can do without the hub, once no rank runs any more."""

    def start(self, hub: Hub, gang: Sequence[int], hosts: Sequence[str]) -> None:
        """Start a wrapper for each rank, that connects to the hub."""

    def problem(self) -> str | None:
        """Return what went wrong, if anything has."""

    def close(self) -> None:
        """End whatever was started apart from the wrappers."""


def launcher_of(launch: str, site: JobSite, job: int) -> JobLauncher:
    """Return the launcher of a job that this worker leads.

    Parameters
    ----------
    launch
        One of `core.launch.LAUNCHES`, but not ``"ranks"``.
    site, job
        Where it is led, and its number.
    """
    if launch == "auto":
        in_slurm = "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None
        launch = choose_launch(family_of_library(), in_slurm=in_slurm)
    if launch == "spawn":
        check_spawn()
        return _Spawn(site, job)
    if launch == "mpiexec":
        return _Command(_mpiexec, "watch" if family_of_library() == "MPICH" else "none")
    if launch == "srun":
        return _Command(_srun, "none")
    return _Children(site, job)


class _Children:
    """Each worker of the gang starts its wrapper; the hub serves PMI-1."""

    mode = "pmi"
    said = ""
    finished = True

    def __init__(self, site: JobSite, job: int) -> None:
        self._site = site
        self._job = job

    def start(self, hub: Hub, gang: Sequence[int], hosts: Sequence[str]) -> None:
        address, shared = {jobwrapper.ADDRESS: hub.told}, shared_memory(hub.space)
        for rank, worker in enumerate(gang):
            self._site.tell(worker, Enlist(self._job, rank, address, "", "", shared))

    def problem(self) -> str | None:
        return None

    def close(self) -> None:
        pass


class _Spawn:
    """Comm.Spawn starts the wrappers; hydra serves their programs' PMI, through them.

    Spawn blocks until all programs are in MPI, and they get there by the hub: so it has a thread
    of its own, which the hub waits for.
    """

    mode = "relay"
    said = ""

    def __init__(self, site: JobSite, job: int) -> None:
        self._site = site
        self._job = job
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="alamo-spawn", daemon=True)
        self._argv: list[str] = []
        self._hosts: Sequence[str] = ()

    def start(self, hub: Hub, gang: Sequence[int], hosts: Sequence[str]) -> None:
        # Spawned processes have the launcher's environment, and any user sees an argument: so
        # where the hub is they read in a file, which one worker of each host writes.
        path = os.path.join(tempfile.gettempdir(), f"alamo-job-{secrets.token_hex(8)}")
        for host in dict.fromkeys(hosts):
            worker = gang[list(hosts).index(host)]
            self._site.tell(worker, Enlist(self._job, -1, {}, path, hub.told, ()))
        self._argv, self._hosts = [*WRAPPER, "-", path], hosts
        self._ask(wanted=True)
        self._thread.start()

    def _ask(self, *, wanted: bool) -> None:
        if self._site.world.size > 1:
            self._site.send(MANAGER, SpawnTurn(self._job, wanted))
        elif wanted:  # nobody else is there, and this thread would have to answer
            self._site.turn.set()

    def _run(self) -> None:
        try:
            while not self._site.turn.wait(0.1):
                if self._ended:
                    return
            spawn(self._site.world, self._argv, self._hosts)
        except BaseException as error:  # told by problem()
            self._error = error
        finally:
            self._site.turn.clear()
            self._ask(wanted=False)

    def problem(self) -> str | None:
        return None if self._error is None else f"could not be started: {self._error}"

    @property
    def finished(self) -> bool:
        self._ended = True
        return not self._thread.is_alive()

    def close(self) -> None:
        if self._thread.is_alive():
            self._site.give_up(
                f"Comm.Spawn has not returned on rank {self._site.world.rank} within {START_S:g} "
                "s after its job had ended, and blocks MPI there: the program ends. Use another "
                "launch than 'spawn'."
            )


class _Command:
    """Another launcher starts the wrappers, and serves the programs' PMI or PMIx."""

    finished = True

    def __init__(self, argv_of: Callable[[Sequence[str]], list[str]], mode: str) -> None:
        self.mode = mode
        self.said = ""
        self._argv_of = argv_of
        self._process: subprocess.Popen[bytes] | None = None
        #: What it says itself; the programs' output does not go through it.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def start(self, hub: Hub, gang: Sequence[int], hosts: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            self._argv_of(hosts),
            env={**scrubbed(os.environ), jobwrapper.ADDRESS: hub.told},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            start_new_session=True,
        )

    def problem(self) -> str | None:
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return None
        return f"could not be started: {self._process.args[0]!r} ended with {status}"  # type: ignore[index]

    def close(self) -> None:
        process = self._process
        if process is not None:
            try:
                process.wait(_LEAVE_S)  # the wrappers have gone, so it goes too
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    process.wait(_LEAVE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._file.seek(max(self._file.seek(0, os.SEEK_END) - _TAIL_NBYTES, 0))
        self.said = self._file.read().decode(errors="replace").strip()
        self._file.close()


@functools.cache
def _launcher() -> Launcher:
    return find_launcher()


def _mpiexec(hosts: Sequence[str]) -> list[str]:
    return _launcher().job_argv(hosts, [*WRAPPER, "-"], jobwrapper.ADDRESS)


def _srun(hosts: Sequence[str]) -> list[str]:
    """Return the command of a job step on these hosts, beside the step that we are in."""
    names = list(dict.fromkeys(hosts))
    per_node = {list(hosts).count(name) for name in names}
    pmi = "pmix" if family_of_library() == "Open MPI" else "pmi2"
    command = ["srun", "--overlap", "--exact", f"--mpi={pmi}", "--kill-on-bad-exit=1", "--wait=1"]
    command += ["-n", str(len(hosts)), "-N", str(len(names)), "-w", ",".join(names)]
    if len(per_node) == 1:
        command.append(f"--ntasks-per-node={per_node.pop()}")
    return [*command, *WRAPPER, "-"]
