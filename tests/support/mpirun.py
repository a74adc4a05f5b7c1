"""Run programs under the environment's MPI launcher, hard-bounded, and see what they leave behind.

Every process of a run carries an environment variable of its own, so that it is found again in
``/proc`` wherever its launcher put it (hydra gives each rank a session of its own, Slurm and ssh
another parent).  Past its time limit a run first shows the Python stacks of all of its processes,
on its stderr, and is then killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from alamo_mpi.mpi.launcher import Launcher, find_launcher
from tests.support import leftovers

ROOT = Path(__file__).resolve().parents[2]
_SITE = Path(__file__).resolve().parent / "site"
#: Variables by which a launcher tells a process that it is a rank.
_RANK_VARIABLES = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "HYDI", "HYDRA_", "MPI_LOCAL")
_DUMP_S = 3.0
_LOST = ") was lost: "
_VANISH_S = 5.0


@dataclass(frozen=True)
class Run:
    """What a finished run left: status, output, time, processes and files."""

    rc: int
    stdout: str
    stderr: str
    #: From the start, or from the last signal sent, to the launcher's end.
    seconds: float
    timed_out: bool
    #: Command lines of processes that outlived the launcher by some seconds, and were killed.
    survivors: tuple[str, ...]
    #: New files in the temporary directory, and new ones in /dev/shm that no process maps.
    leftovers: tuple[str, ...]

    @property
    def losses(self) -> list[str]:
        """What was said of ranks that were lost."""
        return [line for line in self.stderr.splitlines() if _LOST in line]

    def check_clean(self, *, nlost: int = 0) -> None:
        """Fail, with all that is known, if the run hung or left anything behind.

        Or if it did not say as often that a rank was lost.
        """
        assert not self.timed_out, f"the run hung\n{self}"
        assert not self.survivors, f"processes outlived the run: {self.survivors}\n{self}"
        assert not self.leftovers, f"files were left: {self.leftovers}\n{self}"
        assert len(self.losses) == nlost, f"ranks lost, as it says: {self.losses}\n{self}"

    def __str__(self) -> str:
        return (
            f"rc {self.rc} after {self.seconds:.1f} s\n"
            f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}\n---"
        )


class Started:
    """A run that is going on; use it in a ``with`` block, which kills what is left of it.

    Parameters
    ----------
    argv : sequence of str
        The whole command line, launcher included.
    env : mapping, optional
        Variables to add; None as a value removes one.
    stdin : bytes, optional
        What the launcher can read; nothing by default.
    timeout_s : float
        Time limit, from now to the end.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self._mark = uuid.uuid4().hex
        # Short, since launchers put Unix sockets there; private, since others run at the same time.
        self._tmp = tempfile.mkdtemp(prefix="amt", dir="/tmp")
        self._shm = leftovers.shared_files()
        self._changed = threading.Condition()
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._since = time.monotonic()
        self._deadline = self._since + timeout_s
        self._popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(env or {}),
            cwd=cwd,
            start_new_session=True,
        )
        self._readers = [
            self._read(self._popen.stdout, "stdout"),
            self._read(self._popen.stderr, "stderr"),
        ]
        if stdin is not None and self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.write(stdin)
            self._popen.stdin.close()

    def _environment(self, env: Mapping[str, str | None]) -> dict[str, str]:
        merged = {k: v for k, v in os.environ.items() if not k.startswith(_RANK_VARIABLES)}
        # A host program starts MPI before the package can say so; see alamo_mpi/mpi/__init__.py.
        merged["OMPI_MCA_osc_ucx_verbose"] = "-1"
        for name, value in env.items():
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = value
        path = [str(_SITE), str(ROOT), *merged.get("PYTHONPATH", "").split(os.pathsep)]
        merged["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        merged["TMPDIR"] = self._tmp
        merged[leftovers.ENVIRONMENT_NAME] = self._mark
        return merged

    def _read(self, pipe: IO[bytes] | None, name: str) -> threading.Thread:
        assert pipe is not None

        def read() -> None:
            with pipe:
                while chunk := os.read(pipe.fileno(), 65536):
                    with self._changed:
                        self._output[name] += chunk
                        self._changed.notify_all()
            with self._changed:
                self._changed.notify_all()

        thread = threading.Thread(target=read, name=f"mpirun-{name}", daemon=True)
        thread.start()
        return thread

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until the program has written `text` `count` times on stdout."""
        wanted = text.encode()
        with self._changed:
            while self._output["stdout"].count(wanted) < count:
                left = self._deadline - time.monotonic()
                if left <= 0 or not self._readers[0].is_alive():
                    break
                self._changed.wait(min(left, 1.0))
            else:
                return
        raise AssertionError(f"the run never wrote {text!r} ({count} times)\n{self.finish()}")

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to the whole foreground process group."""
        self._since = time.monotonic()
        os.killpg(self._popen.pid, signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the launcher alone, as a batch system or a user's kill does."""
        self._since = time.monotonic()
        self._popen.terminate()

    def signal(self, pid: int, signum: int) -> None:
        """Send a signal to one process of the run."""
        self._since = time.monotonic()
        os.kill(pid, signum)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the launcher's end for so long at most; tell whether it has come."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self._popen.returncode is not None

    @property
    def stdout(self) -> str:
        """What the program has written to stdout so far."""
        with self._changed:
            return bytes(self._output["stdout"]).decode(errors="replace")

    def finish(self) -> Run:
        """Wait for the end, at most until the time limit, and look at what is left."""
        timed_out = False
        try:
            self._popen.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = True
            self._dump_stacks()
            self._popen.kill()
            self._popen.wait()
        seconds = time.monotonic() - self._since
        survivors = self._reap(0.0 if timed_out else _VANISH_S)
        for thread in self._readers:
            thread.join(_VANISH_S)
        stdout, stderr = (
            bytes(self._output[name]).decode(errors="replace") for name in ("stdout", "stderr")
        )
        return Run(
            self._popen.returncode, stdout, stderr, seconds, timed_out, survivors, self._leftovers()
        )

    def pids(self) -> list[int]:
        """Return the living processes of this run, wherever they are."""
        return sorted(leftovers.marked_processes(self._mark))

    def _dump_stacks(self) -> None:
        """Have every Python process of the run write its stacks, and wait until they came."""
        targets = [pid for pid in self.pids() if "python" in _executable(pid)]
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
        end = time.monotonic() + _DUMP_S
        with self._changed:
            self._changed.wait_for(
                lambda: self._output["stderr"].count(b"(most recent call first)") >= len(targets),
                max(0.0, end - time.monotonic()),
            )

    def _reap(self, grace_s: float) -> tuple[str, ...]:
        """Kill the processes of this run that have not gone `grace_s` after the launcher."""
        end = time.monotonic() + grace_s
        while (left := leftovers.marked_processes(self._mark)) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return tuple(f"{pid} {command}" for pid, command in left.items())

    def _leftovers(self) -> tuple[str, ...]:
        found = [str(path) for path in Path(self._tmp).rglob("*") if not path.is_dir()]
        shutil.rmtree(self._tmp, ignore_errors=True)
        return (*found, *sorted(leftovers.leaked_files(self._shm)))

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._reap(0.0)
        for thread in self._readers:
            thread.join(_VANISH_S)
        shutil.rmtree(self._tmp, ignore_errors=True)


@functools.cache
def launcher() -> Launcher:
    """Return the launcher of the MPI that this Python's mpi4py loads."""
    return find_launcher()


def start(
    nranks: int,
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Started:
    """Start this Python with `argv` on `nranks` ranks; 0 ranks: without a launcher."""
    program = [sys.executable, *argv]
    command = launcher().argv(nranks, program) if nranks else program
    return Started(command, timeout_s=timeout_s, env=env, stdin=stdin, cwd=cwd)


def mpirun(
    nranks: int,
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Run:
    """Run this Python with `argv` on `nranks` ranks to its end; 0 ranks: without a launcher.

    Parameters
    ----------
    nranks : int
        Number of ranks.
    argv : sequence of str
        Arguments of Python: a script, or ``-m`` and a module, and theirs.
    timeout_s : float
        Past it, all stacks are dumped to ``stderr`` and the run is killed.
    env : mapping, optional
        Variables to add to the environment; None as a value removes one.
    stdin : bytes, optional
        What the launcher reads.
    cwd : path, optional
        Where the run starts.
    """
    with start(nranks, argv, timeout_s=timeout_s, env=env, stdin=stdin, cwd=cwd) as run:
        return run.finish()


def _executable(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


#: MPICH's way to make each rank a host of its own, reached over TCP.
APART = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self"}


def run_part(program: str, nranks: int, part: str, seconds: float, **env: str) -> None:
    """Run a part of a program of `tests/support/spmd.py`: every rank must say that it is well."""
    done = mpirun(nranks, [program, part, str(seconds)], timeout_s=150.0, env=env)
    assert not done.timed_out, done
    assert done.rc == 0, done
    assert done.stdout.count(f"{part} ok") == nranks, done
