"""Is there an order of the operations that a sequential object could have shown?

The search of Wing and Gong ("Testing and verifying concurrent objects", JPDC 1993): take any
operation that no unfinished one precedes, see whether the sequential object would have answered
the same, go on; remember (operations done, state) that led nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

ABSENT = "absent"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation on one object: when it began and ended, what it was given, what it answered.

    `outcome` is UNKNOWN for one that was broken off: it may have happened, at any time since.
    """

    name: str
    begin: int
    end: float
    argument: Hashable
    outcome: Hashable


def register(operation: Operation, state: Hashable) -> tuple[Hashable, Hashable]:
    """Return (outcome, next state) of a register: one key of a `dict`."""
    name, argument = operation.name, operation.argument
    if name == "get":
        return state, state
    if name == "put":
        return None, argument
    if name == "pop":
        return state, ABSENT
    if name == "setdefault":
        return (argument, argument) if state == ABSENT else (state, state)
    if name == "compare_and_set":
        old, new = argument  # type: ignore[misc]
        return (True, new) if state == old else (False, state)
    if name == "add":
        new = (0 if state == ABSENT else state) + argument  # type: ignore[operator]
        return new, new
    raise ValueError(name)


def queue(operation: Operation, state: Hashable) -> tuple[Hashable, Hashable]:
    """Return (outcome, next state) of a queue; its state is (closed, bound, items).

    A put says whether there was room for all of its argument; a take of n answers between one item
    and n if there are any.
    """
    closed, bound, items = state  # type: ignore[misc]
    name, argument, outcome = operation.name, operation.argument, operation.outcome
    if name == "close":
        return None, (True, bound, items)
    if name == "put":
        if closed:
            return "closed", state
        if bound and len(items) + len(argument) > bound:  # type: ignore[arg-type]
            return False, state
        return True, (closed, bound, items + argument)
    if name == "take":
        if not items:
            return ("closed" if closed else ()), state
        count = len(outcome) if isinstance(outcome, tuple) else 1
        if not 1 <= count <= argument:  # type: ignore[operator]
            return "nothing", state
        return items[:count], (closed, bound, items[count:])
    raise ValueError(name)


def linearizable(
    history: Sequence[Operation],
    initial: Hashable = ABSENT,
    apply: Callable[[Operation, Hashable], tuple[Hashable, Hashable]] = register,
) -> bool:
    """Tell whether the history of one object is linearizable."""
    operations = sorted(history, key=lambda operation: operation.begin)
    everything = sum(
        1 << i for i, operation in enumerate(operations) if operation.outcome != UNKNOWN
    )
    dead: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    while stack:
        done, state = stack.pop()
        if done & everything == everything:
            return True
        if (done, state) in dead:
            continue
        dead.add((done, state))
        left = [i for i in range(len(operations)) if not done >> i & 1]
        horizon = min(operations[i].end for i in left)
        for i in left:
            operation = operations[i]
            if operation.begin > horizon:
                continue
            outcome, following = apply(operation, state)
            if operation.outcome in (UNKNOWN, outcome):
                stack.append((done | 1 << i, following))
    return False
