"""Bells: waking a thread, here or in another process."""

from __future__ import annotations

import threading
import time

from alamo_mpi.runtime.bell import Bell, ring


def test_ring_ends_a_wait_and_is_used_up() -> None:
    bell = Bell()
    try:
        assert 0 < bell.name < 1 << 21
        start = time.monotonic()
        thread = threading.Thread(target=ring, args=([bell.name],))
        thread.start()
        bell.wait(60)
        thread.join()
        assert time.monotonic() - start < 60
        ring([bell.name, bell.name])
        bell.wait(60)
        start = time.monotonic()
        bell.wait(0.01)
        assert time.monotonic() - start >= 0.01
    finally:
        bell.close()


def test_names_differ_and_bells_that_are_gone_are_nobodys_loss() -> None:
    bells = [Bell() for _ in range(50)]
    assert len({bell.name for bell in bells}) == 50
    for bell in bells[1:]:
        bell.close()
    ring([bell.name for bell in bells])
    bells[0].wait(60)
    bells[0].close()


def test_bell_that_rings_too_often_holds_nobody_up() -> None:
    bell = Bell()
    for _ in range(2000):  # more than a socket holds
        ring([bell.name])
    bell.wait(60)
    bell.close()
