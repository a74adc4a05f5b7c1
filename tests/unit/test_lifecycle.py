"""The clients of a batch: who may still submit, and when all have closed."""

from __future__ import annotations

import pytest

from alamo_mpi.core.lifecycle import PRIMARY, Lifecycle
from alamo_mpi.errors import TaskStateError


def test_a_new_batch_is_open_for_the_client_that_made_it() -> None:
    life = Lifecycle()
    life.check_submit(PRIMARY)
    assert (life.is_open(PRIMARY), life.all_closed) == (True, False)
    assert not life.is_open(PRIMARY + 1)


def test_after_close_nothing_is_taken() -> None:
    life = Lifecycle()
    life.close(PRIMARY)
    assert (life.is_open(PRIMARY), life.all_closed) == (False, True)
    with pytest.raises(TaskStateError, match=r"before close\(\)"):
        life.check_submit(PRIMARY)


def test_closing_twice_is_harmless() -> None:
    life = Lifecycle()
    life.close(PRIMARY)
    life.close(PRIMARY)
    assert life.all_closed


def test_every_client_has_to_close() -> None:
    life = Lifecycle()
    first, second = life.register(), life.register()
    assert len({PRIMARY, first, second}) == 3
    life.close(PRIMARY)
    life.close(second)
    assert not life.all_closed
    life.check_submit(first)
    with pytest.raises(TaskStateError, match="closed"):
        life.check_submit(second)
    life.close(first)
    assert life.all_closed


def test_a_number_is_never_used_again() -> None:
    """What a closed client still sends must not count as another's."""
    life = Lifecycle()
    first = life.register()
    life.close(first)
    assert life.register() != first
    with pytest.raises(TaskStateError, match="closed"):
        life.check_submit(first)


def test_a_stranger_may_not_submit() -> None:
    with pytest.raises(TaskStateError, match="closed"):
        Lifecycle().check_submit(99)


def test_terminate_ends_it_for_all() -> None:
    life = Lifecycle()
    client = life.register()
    life.terminated = True
    for number in (PRIMARY, client):
        assert not life.is_open(number)
        with pytest.raises(TaskStateError, match="terminated; create a new Batch"):
            life.check_submit(number)


@pytest.mark.parametrize("end", ["terminated", "joined"])
def test_nobody_joins_a_batch_that_has_ended(end: str) -> None:
    life = Lifecycle()
    setattr(life, end, True)
    with pytest.raises(TaskStateError, match="create a new one"):
        life.register()


def test_clients_may_bring_names_of_their_own() -> None:
    life = Lifecycle(("rank 2", 0))
    assert life.is_primary(("rank 2", 0))
    life.admit(("rank 3", 0))
    life.close(("rank 2", 0))
    assert life.open == [("rank 3", 0)]
    life.check_submit(("rank 3", 0))
    life.terminated = True
    with pytest.raises(TaskStateError, match="has ended"):
        life.admit(("rank 4", 0))
