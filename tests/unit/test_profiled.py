"""Calls that may be interrupted leave a thread as it was: a profiler can follow what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.mpirun import ROOT

PROGRAM = """
import sys, threading
from alamo_mpi.runtime.runners import Guard, Interruption

class Task:
    position, given_up = 0, frozenset()

guard, spinning = Guard(), threading.Event()

def spin():
    spinning.set()
    while True:
        pass

def swallow():
    try:
        spin()
    except Interruption:
        pass

def interrupt():
    spinning.wait()
    while not guard.interrupt():
        pass

how = sys.argv[1]
if how == "ends":
    assert guard.call(pow, (2, 5), Task()) == 32
else:
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        guard.call(spin if how == "is interrupted" else swallow, (), Task())
    except Interruption:
        pass
    thread.join()
sys.setprofile(lambda *event: None)
print((lambda: "followed")())
"""


@pytest.mark.parametrize("how", ["ends", "is interrupted", "swallows the interruption"])
def test_a_profiler_follows_what_comes_after_a_call_that(how: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, how]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert run.stdout == "followed\n"
