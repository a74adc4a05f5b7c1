"""Which of several hosts' witnesses speaks; sockets, but no MPI."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from alamo_mpi.core.loss import Grant, Rank, Tally
from alamo_mpi.runtime import court as court_module
from alamo_mpi.runtime.court import Court, Plea

KNOWN = Grant(Tally(5, 1, 2), [Rank(0, 10), Rank(1, 11, (7, "f"), running=True)])
TOKEN = "secret"


@pytest.fixture
def court() -> Court:
    return Court(lambda: KNOWN, lambda host, ranks: None)


@pytest.fixture
def port(court: Court) -> int:
    # Closed by nobody: a thread of this process waits on it, as it does in a witness until its end.
    server = socket.create_server(("127.0.0.1", 0))
    court.serve(server, TOKEN)
    found: int = server.getsockname()[1]
    return found


def test_the_first_that_asks_speaks_and_nobody_after(court: Court, port: int) -> None:
    first, second = (Plea(("127.0.0.1", port), TOKEN, "there", [2]) for _ in range(2))
    with closing(first), closing(second):
        assert first.ask(True, True) == KNOWN
        assert second.ask(True, True) is None
    assert court.ask(True, True) is None


@pytest.mark.parametrize("prompt", [True, False])
def test_who_is_not_sure_speaks_if_nobody_else_does(court: Court, prompt: bool) -> None:
    assert court.ask(False, prompt) == KNOWN


def test_who_is_sure_comes_before_who_is_not(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(court_module, "_DEFER_S", 30.0)
    answers: list[Grant | None] = []
    asking = threading.Thread(target=lambda: answers.append(court.ask(False, True)))
    asking.start()
    assert court.ask(True, True) == KNOWN
    asking.join()
    assert answers == [None]


def test_quiet_is_for_all(court: Court, port: int) -> None:
    with closing(Plea(("127.0.0.1", port), TOKEN, "there", [2])) as plea:
        plea.quiet()
        assert plea.ask(True, True) is None
    assert court.ask(True, True) is None


def test_a_wrong_token_is_not_answered(court: Court, port: int) -> None:
    with closing(Plea(("127.0.0.1", port), "guess", "there", [2])) as plea:
        assert plea.ask(False, True) is None
    assert court.ask(True, True) == KNOWN


def test_without_a_court_only_who_is_sure_speaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    lonely = Plea(("127.0.0.1", port), TOKEN, "there", [2])
    assert lonely.ask(True, True) == Grant(None, [])
    assert lonely.ask(False, True) is None
