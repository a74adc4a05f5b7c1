"""A task and the process that it is handed to, where that has ended just before."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from alamo_mpi.runtime.cells import Cell, Order
from alamo_mpi.runtime.isolated import Isolation


class FakeCell:
    """A process that has ended while it was idle, or answers at once."""

    def __init__(self, *, ended: bool) -> None:
        self.up = True
        self.ended = ended
        self.closed = False
        self.connection, self.far = socket.socketpair()
        self.events = self
        self.orders: list[Order] = []

    def poll(self, limit_ms: int) -> list[tuple[int, int]]:
        return [(self.connection.fileno(), 1)]

    def assign(self, order: Order) -> None:
        if self.ended:
            raise BrokenPipeError
        self.orders.append(order)

    def answer(self) -> tuple[int, Any]:
        return 0, 7

    def close(self) -> None:
        self.closed = True
        self.connection.close()
        self.far.close()


def test_a_task_of_which_nothing_has_begun_gets_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [FakeCell(ended=True), FakeCell(ended=True), FakeCell(ended=False)]
    isolation, left = Isolation(), iter(cells)
    monkeypatch.setattr(isolation._cells, "take", lambda: cast(Cell, next(left)))
    order = Order(0, bytes, (), [], 1, 0, lambda raw: None, None)
    assert isolation.call(order) == 7
    assert [cell.closed for cell in cells] == [True, True, False]
    assert cells[2].orders == [order]
    cells[2].close()
