"""The connections between the witnesses of several hosts; sockets, but no MPI."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

import pytest

from alamo_mpi.core.silence import SETTING, silence_s
from alamo_mpi.errors import LaunchError
from alamo_mpi.runtime.lines import Line, is_silence


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 6.0), ("0.5", 0.5), ("30", 30.0), ("1e9", 20 * 86400.0)]
)
def test_the_setting(text: str, seconds: float) -> None:
    assert silence_s(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_wrong_setting(text: str) -> None:
    with pytest.raises(LaunchError, match=SETTING):
        silence_s(text)


@pytest.mark.parametrize(("text", "milliseconds"), [("", 8000), ("45", 47000)])
def test_the_kernel_is_told(monkeypatch: pytest.MonkeyPatch, text: str, milliseconds: int) -> None:
    """Two seconds more than at the end that is to speak first."""
    monkeypatch.setenv(SETTING, text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = Line(server.getsockname(), "token", "host", [1])
        with closing(line):
            option = line.connection.getsockopt
            assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_which_errors_mean_that_the_host_is_gone() -> None:
    assert is_silence(errno.ETIMEDOUT)
    assert is_silence(errno.EHOSTUNREACH)
    assert not is_silence(errno.ECONNRESET)
    assert not is_silence(None)
