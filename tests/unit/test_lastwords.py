"""`alamo_mpi.mpi.lastwords`: in one piece, and once."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator

import pytest

from alamo_mpi.errors import LaunchError
from alamo_mpi.mpi import lastwords


class Pieces(io.StringIO):
    """Keep each write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(lastwords, "GRACE_S", 0.0)


@contextlib.contextmanager
def stderr() -> Iterator[Pieces]:
    """Put a stream that keeps its writes in place of ``sys.stderr``."""
    with contextlib.redirect_stderr(Pieces()) as stream:
        yield stream


def _caught(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_a_traceback_is_one_write() -> None:
    with stderr() as stream:
        lastwords.tell_error(_caught("boom"))
    assert len(stream.pieces) == 1
    assert stream.pieces[0].startswith("Traceback (most recent call last)")
    assert stream.pieces[0].endswith("ValueError: boom\n")


def test_a_hook_of_the_user_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda *e: print("MINE", e[1], file=sys.stderr))
    with stderr() as stream:
        lastwords.tell_error(_caught("boom"))
    assert stream.pieces == ["MINE boom\n"]


def test_a_hook_that_fails_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda *e: 1 / 0)
    with stderr() as stream:
        lastwords.tell_error(_caught("boom"))
    assert "ValueError: boom" in stream.getvalue()


def test_a_closed_stream_is_no_error() -> None:
    with stderr() as stream:
        stream.close()
        lastwords.tell_error(_caught("boom"))


@contextlib.contextmanager
def unread_stderr() -> Iterator[int]:
    """Put a pipe with something in it in place of descriptor 2; yields its reading end."""
    reader, writer = os.pipe()
    saved = os.dup(2)
    try:
        os.write(writer, b"words")
        os.dup2(writer, 2)
        yield reader
    finally:
        os.dup2(saved, 2)
        for descriptor in (reader, writer, saved):
            os.close(descriptor)


def test_what_was_written_is_read_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    with unread_stderr() as reader:
        monkeypatch.setattr(lastwords, "TOGETHER_S", 0.0)
        monkeypatch.setattr(
            time, "sleep", lambda nap_s: read.append(os.read(reader, 100)) if nap_s else None
        )
        lastwords.drain()
    assert read == [b"words"]


def test_nobody_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastwords, "DRAIN_S", 0.01)
    with unread_stderr() as reader:
        lastwords.drain()
        assert os.read(reader, 100) == b"words"


def test_the_first_rank_raises() -> None:
    with pytest.raises(LaunchError, match="no room"), lastwords.told_once(first=True):
        raise LaunchError("no room")


def test_the_others_leave_and_say_nothing() -> None:
    others = lastwords.told_once(first=False)
    with stderr() as stream, pytest.raises(SystemExit) as leaving, others:
        raise LaunchError("no room")
    assert leaving.value.code == 1
    assert stream.pieces == []


def test_other_errors_pass_on_every_rank() -> None:
    with pytest.raises(ValueError, match="boom"), lastwords.told_once(first=False):
        raise ValueError("boom")


@pytest.mark.parametrize(
    ("rank", "said"), [("0", ["alamo_mpi: no room\n"]), ("1", []), (None, ["alamo_mpi: no room\n"])]
)
def test_a_refusal_is_told_by_the_first(
    rank: str | None, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    if rank is not None:
        monkeypatch.setenv("PMI_RANK", rank)
    with stderr() as stream, pytest.raises(SystemExit) as leaving:
        lastwords.refuse(LaunchError("no room"))
    assert leaving.value.code == 1
    assert stream.pieces == said
