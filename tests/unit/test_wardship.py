"""A warden's programs that are left alone: their reports, beside those that are waited for."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi.runtime.wardship import Wardship

LIMIT_S = 30.0


@pytest.fixture
def wardship() -> Iterator[Wardship]:
    made = Wardship()
    yield made
    made.close()


def request(*args: str, **more: Any) -> dict[str, Any]:
    return {"args": args, "env": dict(os.environ), "cpus": None, "preexec": None, **more}


@pytest.fixture
def fds() -> Iterator[list[int]]:
    null = os.open(os.devnull, os.O_RDWR)
    yield [null] * 3
    os.close(null)


def said(report: socket.socket) -> list[tuple[str, Any]]:
    """Return all that is said on a report, up to its end."""
    heard = []
    events = select.poll()
    events.register(report, select.POLLIN)
    while events.poll(LIMIT_S * 1e3):
        packet = report.recv(1 << 16)
        if not packet:
            report.close()
            return heard
        what, _, value = pickle.loads(packet)
        heard.append((what, value))
    raise AssertionError(f"the report does not end after {heard}")


def test_status_and_peak_memory(wardship: Wardship, fds: list[int]) -> None:
    _, report = wardship.start(request("sh", "-c", "exit 3"), fds)
    (started, pid), (ended, (status, peak_nbytes)) = said(report)
    assert (started, ended, status) == ("started", "ended", 3)
    assert not Path(f"/proc/{pid}").exists()
    assert 1 << 16 < peak_nbytes < 1 << 30


def test_a_program_that_is_not_there(wardship: Wardship, fds: list[int]) -> None:
    _, report = wardship.start(request("no-such-program"), fds)
    ((what, error),) = said(report)
    assert what == "failed"
    assert isinstance(error, FileNotFoundError)


def test_a_large_request(wardship: Wardship, fds: list[int]) -> None:
    environment = {**os.environ, **{f"V{i}": "x" * 1000 for i in range(300)}}
    _, report = wardship.start(request("true", env=environment), fds)
    assert said(report)[-1][1][0] == 0


def test_many_at_a_time_beside_one_that_is_waited_for(wardship: Wardship, fds: list[int]) -> None:
    started = [wardship.start(request("sleep", "1000"), fds) for _ in range(5)]
    statuses: list[int | None] = []
    thread = threading.Thread(
        target=lambda: statuses.append(wardship.run(request("sh", "-c", "sleep 0.2"), fds, None))
    )
    thread.start()
    for number, report in started:
        wardship.end(number, 1.0)
        assert said(report)[-1][1][0] == -signal.SIGTERM
    thread.join(LIMIT_S)
    assert statuses == [0]


def test_one_that_ignores_the_request_to_end(wardship: Wardship, fds: list[int]) -> None:
    read, write = os.pipe()
    command = "trap '' TERM; echo ready; while :; do sleep 1000; done"
    number, report = wardship.start(request("sh", "-c", command), [fds[0], write, fds[2]])
    assert os.read(read, 10) == b"ready\n"
    wardship.end(number, 0.05)
    assert said(report)[-1][1][0] == -signal.SIGKILL
    for fd in (read, write):
        os.close(fd)


def test_the_warden_is_killed(wardship: Wardship, fds: list[int]) -> None:
    _, report = wardship.start(request("sleep", "0.1"), fds)
    wardship._process.kill()
    assert [what for what, _ in said(report)] in ([], ["started"])
    # The next one starts another.
    assert wardship.run(request("true"), fds, None) == 0
