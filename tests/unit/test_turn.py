"""The turn of a worker, and interruptions aimed at runner threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from alamo_mpi.runtime.runners import Guard, Interruption
from alamo_mpi.runtime.turn import Turn, released, seat


def started(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        threading.Event().wait(1e-4)


def test_one_thread_has_it() -> None:
    turn = Turn()
    assert turn.take()
    assert not turn.take(block=False)
    turn.give()
    assert turn.take(block=False)


def test_those_who_return_go_before_those_who_begin() -> None:
    turn, order = Turn(), []
    turn.take()

    def begin() -> None:
        turn.take()
        order.append("begins")
        turn.give()

    def go_on(name: str) -> None:
        turn.take_again()
        order.append(name)
        turn.give()

    threads = [started(begin)]
    wait_for(lambda: turn._beginning)
    for count, name in enumerate(("first", "second"), 1):
        threads.append(started(lambda name=name: go_on(name)))  # type: ignore[misc]
        wait_for(lambda count=count: len(turn.returning) == count)  # type: ignore[misc]
    turn.give()
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "begins"]


def test_passing_it_on_lets_all_return_first() -> None:
    turn, order = Turn(), []
    turn.take()

    def go_on() -> None:
        turn.take_again()
        order.append("returned")
        turn.give()

    thread = started(go_on)
    wait_for(lambda: turn.returning)
    turn.pass_on()
    order.append("went on")
    turn.give()
    thread.join()
    assert order == ["returned", "went on"]


def test_outside_of_tasks_nothing_is_given_away() -> None:
    assert seat() is None
    with released():
        assert seat() is None


class Task:
    """What `Guard.call` asks."""

    position = 0

    def __init__(self, *given_up: int) -> None:
        self.given_up = frozenset(given_up)


def test_a_call_that_is_not_interrupted() -> None:
    assert Guard().call(pow, (2, 5), Task()) == 32
    with pytest.raises(ZeroDivisionError):
        Guard().call(divmod, (1, 0), Task())


def test_a_task_given_up_before_it_began() -> None:
    called: list[int] = []
    with pytest.raises(Interruption):
        Guard().call(called.append, (1,), Task(0))
    assert not called


@pytest.mark.parametrize("repeat", range(20))
def test_an_interruption_hits_the_call_and_nothing_behind_it(repeat: int) -> None:
    guards: list[Guard] = []
    spinning, outcomes = threading.Event(), []

    def spin() -> None:
        spinning.set()
        while True:
            pass

    def run() -> None:
        guards.append(Guard())
        for function in (spin, lambda: None):
            try:
                guards[0].call(function, (), Task())
                outcomes.append("ended")
            except Interruption:
                outcomes.append("interrupted")

    thread = started(run)
    spinning.wait()
    guards[0].interrupt()
    guards[0].interrupt()
    thread.join()
    assert outcomes == ["interrupted", "ended"]


def test_an_interruption_between_calls_is_lost() -> None:
    guard = Guard()
    guard.interrupt()
    assert guard.call(pow, (2, 3), Task()) == 8
    guard.interrupt()
