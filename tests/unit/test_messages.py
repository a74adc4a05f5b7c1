"""Messages: the tag is the kind, the fields are the wire, and nothing of ours is pickled."""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

import pytest

from alamo_mpi.core import jobmessages, messages
from alamo_mpi.core.messages import KINDS, Failure, Progress, Recall, Run, tag_of

SAMPLES: dict[str, tuple[Any, ...]] = {
    "Run": (
        3,
        [1, 2],
        [(1,), b"p"],
        {1: (0,)},
        {1: [(0, 7)]},
        {7: 2},
        {0: 9},
        {1: b"f"},
        {},
        9,
        False,
        0,
        {1: 2.5},
        (1, 2),
    ),
    "Recall": (),
    "Interrupt": ({3: None, 4: [1, 2]},),
    "Configure": (["/lib"], "alamo_mpi.batch.0", 20),
    "Forget": ([1], [(5, "stdout")]),
    "Fetch": ((5, "result"),),
    "Value": ((5, "result"), (b"payload",)),
    "Stop": (False,),
    "Stopped": (0.25,),
    "Progress": (3, 2, None, {}, {1: 1 << 20}, {0: (b"out", b"")}, {1: (2, 0.5)}, None),
    "Returned": ({3: 2},),
    "Wake": (),
    "Suspend": (3, 2),
    "Resume": (3,),
    "Ask": ((2, 0), 1, "open", 0, (None, 30, False)),
    "Answer": ((2, 0), 1, None, (4, 2)),
    "Register": ((2, 0), 4, 7),
    "Leave": ((2, 0), 4, 7, True, False),
    "Submit": (
        *((2, 0), 4, 7, 1, 1, 3, 2 << 40, "f", [(1,)], {3: b"f"}, {}, {}),
        *({0: [(0, -1, 1)]}, (1, b"", b"", b"", b""), {0: 2}, {0: frozenset((1,))}, {}),
        {0: 2.5},
        {0: (2, 0.5, frozenset(("builtins.OSError",)), False)},
    ),
    "Drop": ((2, 0), [1, 2]),
    "Ended": ((2, 0), 1, [0], b"\x03", None, {}, {}, {}, {}, True, {0: [(1, 2.0, 3.0, None)]}),
    "Over": ((2, 0), 4),
    "Enlist": (4, 1, {"A": "b"}, "", "", ("name_",)),
    "Dismiss": (4, ("mpich_shm_1_",), ()),
    "Join": (4, (1, 2), b"f", True, b"a"),
    "Part": (4, 1, (b"payload",), None, b"out", b""),
    "SpawnTurn": (4, True),
    "Cancel": ((2, 0), 4, 1, [0, 2]),
    "Dump": (),
    "StackText": ("Thread 0x01",),
    "Armed": (4711, 9),
    "Waits": ((2, 0), 8, 2 << 40, ("start", 1, -1)),
    "Gone": ((2, 1),),
}


def test_every_message_has_a_tag_of_its_own() -> None:
    public = {
        item
        for module in (messages, jobmessages)
        for name in module.__all__
        if isinstance(item := getattr(module, name), type)
        and item is not Failure
        and hasattr(item, "_fields")
    }
    assert public == set(KINDS)
    assert [tag_of(kind(*SAMPLES[kind.__name__])) for kind in KINDS] == list(range(len(KINDS)))


def test_the_order_of_the_tags_is_the_wire_format() -> None:
    """New kinds go to the end."""
    assert [kind.__name__ for kind in KINDS[: len(SAMPLES)]] == list(SAMPLES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_message_travels_as_its_fields(kind: type[Any]) -> None:
    """Pickled as a plain tuple it names no class, and the tag brings it back."""
    message = kind(*SAMPLES[kind.__name__])
    data = pickle.dumps(tuple(message), protocol=5)
    names = {code.name for code, _, _ in pickletools.genops(data)}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ"}
    again = KINDS[tag_of(message)](*pickle.loads(data))
    assert (type(again), again) == (kind, message)


def test_fields_are_read_by_name() -> None:
    run = Run(*SAMPLES["Run"])
    assert (run.chunk, run.needs, run.record) == (3, {1: (0,)}, False)
    progress = Progress(*SAMPLES["Progress"])
    assert (progress.chunk, progress.results, progress.seconds) == (3, None, {1: (2, 0.5)})


def test_no_field_hides_a_method_of_the_tuple() -> None:
    """A field called count or index would be found in place of the method, and the other way."""
    kinds: list[Any] = [*KINDS, Failure]
    hidden = {
        (kind.__name__, field)
        for kind in kinds
        for field in kind._fields
        if field in {"count", "index"}
    }
    assert not hidden


def test_what_is_no_message_has_no_tag() -> None:
    with pytest.raises(KeyError):
        tag_of(("Recall",))
    assert tag_of(Recall()) == KINDS.index(Recall)
