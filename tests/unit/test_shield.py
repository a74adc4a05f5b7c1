"""What stands between a launcher of MPICH's and a rank; a make-believe launcher, no MPI."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alamo_mpi.mpi import announced

SHIELD = Path(announced.__file__).with_name("shield.py")
HEAD = """\
import os, signal, socket
launcher = socket.socket(fileno=int(os.environ["PMI_FD"]))
launcher.sendall(b"cmd=init pmi_version=1\\n")
assert launcher.recv(100) == b"cmd=response_to_init\\n"
"""
COVER = f"""\
os.write(int(os.environ["{announced.COVER}"]), b"1")
"""
FINALIZE = """\
launcher.sendall(b"cmd=finalize\\n")
assert launcher.recv(100) == b"cmd=finalize_ack\\n"
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"


def run(program: str, *, rank: int = 1) -> tuple[int, list[bytes]]:
    """Return the shield's status, and what the launcher was told."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    said: list[bytes] = []
    environ = {**os.environ, "PMI_FD": str(theirs.fileno()), "PMI_RANK": str(rank)}
    argv = [sys.executable, "-I", "-S", str(SHIELD), sys.executable, "-S", "-c", program]
    with ours, subprocess.Popen(argv, env=environ, pass_fds=[theirs.fileno()]) as shield:
        theirs.close()
        while data := ours.recv(100):
            said.append(data)
            if data.startswith(b"cmd=init"):
                ours.sendall(b"cmd=response_to_init\n")
            if data.startswith(b"cmd=finalize"):
                ours.sendall(b"cmd=finalize_ack\n")
    return shield.returncode, said


@pytest.mark.parametrize("end", [KILLED, "os._exit(3)\n", "1 / 0\n"])
def test_the_launcher_hears_no_loss(end: str) -> None:
    status, said = run(HEAD + COVER + end)
    assert status == 0
    assert said == [b"cmd=init pmi_version=1\n", b"cmd=finalize\n"]


def test_before_the_start_is_over_it_does() -> None:
    status, said = run(HEAD + KILLED)
    assert status == 128 + signal.SIGKILL
    assert said == [b"cmd=init pmi_version=1\n"]


@pytest.mark.parametrize(("end", "status"), [("os._exit(3)\n", 3), (KILLED, 137), ("", 0)])
def test_the_status_of_rank_0_is_the_programs(end: str, status: int) -> None:
    assert run(HEAD + COVER + end, rank=0)[0] == status


def test_a_rank_that_finalizes_is_left_alone() -> None:
    status, said = run(HEAD + COVER + FINALIZE)
    assert status == 0
    assert said == [b"cmd=init pmi_version=1\n", b"cmd=finalize\n"]


def test_another_language_is_passed_on_and_not_spoken() -> None:
    """Slurm's PMI-2: nothing has to be said at the end."""
    speaks = HEAD.replace("cmd=init pmi", "    29cmd=fullinit;pmi").split("assert")[0]
    status, said = run(speaks + COVER + KILLED)
    assert status == 0
    assert said == [b"    29cmd=fullinit;pmi_version=1\n"]


def test_a_rank_ends_with_its_launcher() -> None:
    ours, theirs = socket.socketpair()
    environ = {**os.environ, "PMI_FD": str(theirs.fileno()), "PMI_RANK": "0"}
    program = COVER.replace("os.write", "import os, time\nos.write") + "time.sleep(600)\n"
    argv = [sys.executable, "-I", "-S", str(SHIELD), sys.executable, "-S", "-c", program]
    with subprocess.Popen(argv, env=environ, pass_fds=[theirs.fileno()]) as shield:
        theirs.close()
        ours.close()
        assert shield.wait(20) == 128 + signal.SIGKILL


def test_what_a_rank_has_forked_holds_nothing_up() -> None:
    """Before the start is over, so that it has the pipe."""
    forks = "import time\nif not os.fork(): launcher.close(); time.sleep(15); os._exit(0)\n"
    status, said = run(HEAD + forks + KILLED)
    assert status == 128 + signal.SIGKILL
    assert said == [b"cmd=init pmi_version=1\n"]


def test_a_program_that_is_not_there() -> None:
    argv = [sys.executable, "-I", "-S", str(SHIELD), "/no/such/program"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 127
    assert "/no/such/program cannot be started: No such file or directory." in done.stderr
