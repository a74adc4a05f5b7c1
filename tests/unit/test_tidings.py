"""Losses that are passed on between the witnesses of several hosts; sockets, but no MPI."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest

from alamo_mpi.core.loss import Grant, Rank, Tally
from alamo_mpi.runtime.tidings import Hub, Spoke
from tests.support.until import until

KNOWN = Grant(Tally(5, 1, 2), [Rank(0, 10), Rank(1, 11, (7, "f"), running=True)])
TOKEN = "secret"


class Page:
    """What a witness notes, in its order."""

    def __init__(self) -> None:
        self.fates: dict[int, int | None] = {}
        self.buried: list[tuple[str, list[int], bool]] = []
        self.cut_off = False

    def lose(self, rank: int, last: int | None) -> bool:
        if rank in self.fates:
            return False
        self.fates[rank] = last
        return True

    def bury(self, host: str, ranks: Sequence[int], silent: bool) -> None:
        self.buried.append((host, list(ranks), silent))

    def cut(self) -> None:
        self.cut_off = True


class Hosts:
    """Host 0 with ranks 0 and 1, host 1 with 2 and 3, host 2 with 4 and 5."""

    def __init__(self) -> None:
        self.pages = [Page() for _ in range(3)]
        self.hub = Hub(self.pages[0].lose, lambda: KNOWN, self.pages[0].bury)
        server = socket.create_server(("127.0.0.1", 0))
        self.hub.serve(server, TOKEN)
        self.place = ("127.0.0.1", server.getsockname()[1])
        self.spokes = [Spoke(page.lose, page.cut) for page in self.pages[1:]]
        for number, spoke in enumerate(self.spokes, 1):
            spoke.join(self.place, TOKEN, f"host{number}", [2 * number, 2 * number + 1])
            assert spoke.ask(True, True) == KNOWN  # it is joined

    def all_know(self, fates: dict[int, int | None], *pages: int) -> None:
        seen = [self.pages[page] for page in pages or range(3)]
        until(lambda: all(page.fates == fates for page in seen), lambda: [p.fates for p in seen])


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    for spoke in made.spokes:
        spoke.leave()
    until(lambda: all(page.cut_off for page in made.pages[1:]), lambda: "a spoke still hears")


def test_a_loss_is_known_on_all_hosts(hosts: Hosts) -> None:
    assert hosts.spokes[0].lose(3, 17)
    hosts.all_know({3: 17})
    assert hosts.hub.lose(1, None)
    hosts.all_know({3: 17, 1: None})
    assert not hosts.hub.lose(3, 99)
    assert not hosts.spokes[1].lose(3, 99)
    hosts.all_know({3: 17, 1: None})


def test_a_host_whose_witness_has_gone_is_buried_once(hosts: Hosts) -> None:
    hosts.spokes[1].lose(4, 5)
    hosts.all_know({4: 5})
    hosts.spokes[1].leave()
    hosts.all_know({4: 5, 5: None}, 0, 1)
    until(lambda: hosts.pages[0].buried, lambda: "nothing was said")
    assert hosts.pages[0].buried == [("host2", [5], False)]
    until(lambda: hosts.pages[2].cut_off, lambda: "it does not know that it is cut off")
    assert not hosts.pages[1].cut_off


def test_without_a_hub_a_spoke_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
    page = Page()
    lonely = Spoke(page.lose, page.cut)
    lonely.join(place, TOKEN, "there", [1])
    assert page.cut_off
    assert lonely.ask(True, True) == Grant(None, [])
    assert lonely.lose(1, None)


def test_a_stranger_is_not_heard(hosts: Hosts) -> None:
    page = Page()
    stranger = Spoke(page.lose, page.cut)
    stranger.join(hosts.place, "guess", "there", [2])
    until(lambda: page.cut_off, lambda: "it is joined")
    stranger.lose(2, None)
    hosts.hub.lose(1, None)
    hosts.all_know({1: None})
