"""Atomics on the words of every rank, as `core.window.Window` promises them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from alamo_mpi.core.layout import CONTENT, place
from alamo_mpi.mpi import window as mpi_window
from alamo_mpi.runtime import pool

MASK = (1 << 64) - 1


@pytest.fixture(params=[0, 1, -1], ids=["own", "next", "last"])
def word(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A word of some rank that nobody else uses, with 0 in it."""
    home = pool.current()
    with home.lock:
        block = home.allocator.write_block(1, 0, b"", bytes(8), on=request.param % home.size)
    rank, offset = place(block)
    yield rank, offset + CONTENT
    with home.lock:
        home.allocator.retire(block)


# The second is what stands in a result before MPI has put its own there.
@pytest.mark.parametrize("value", [1, mpi_window._PENDING, MASK])
def test_swap_says_what_was_there(word: tuple[int, int], value: int) -> None:
    window = pool.current().window
    assert window.compare_and_swap(*word, 0, value) == 0
    assert window.word(*word) == value
    assert window.compare_and_swap(*word, 0, 5) == value
    assert window.word(*word) == value
    assert window.compare_and_swap(*word, value, 7) == value
    assert window.word(*word) == 7


def test_add_says_what_was_there(word: tuple[int, int]) -> None:
    window = pool.current().window
    assert window.add(*word, mpi_window._PENDING) == 0
    assert window.add(*word, 1) == mpi_window._PENDING
    assert window.add(*word, -1 - mpi_window._PENDING) == mpi_window._PENDING + 1
    assert window.add(*word, -1) == 0
    assert window.word(*word) == MASK


def test_threads_do_not_share_results(word: tuple[int, int]) -> None:
    home = pool.current()
    seen: list[int] = []

    def count() -> None:
        for _ in range(200):
            with home.lock:  # a world of one rank has no atomics without it
                seen.append(home.window.add(*word, 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(600))
