"""What the doctor measures: plain values, no opinions."""

from __future__ import annotations

from typing import NamedTuple

from alamo_mpi.mpi.probe import LibraryFacts

__all__ = ["HostFacts", "LibraryFacts", "RankFacts", "RmaTimes", "SpawnOutcome"]


class HostFacts(NamedTuple):
    """What a rank sees of its host; bytes, and -1 for no limit."""

    name: str
    cpus: int
    shm_free: int
    shm_total: int
    memlock: int
    tmpdir: str
    tmpdir_error: str
    gpus: tuple[str, ...]
    visible_gpus: str | None


class RankFacts(NamedTuple):
    """One rank: library, host, and the clock's distance from rank 0's in seconds."""

    library: LibraryFacts
    host: HostFacts
    clock_offset_s: float


class RmaTimes(NamedTuple):
    """Median seconds of one-sided operations between two ranks, each with its flush.

    Attributes
    ----------
    where : str
        ``"one host"`` or ``"between hosts"``.
    target : str
        ``"idle"``: a worker that waits; ``"computing"``: one whose task is a pure Python loop.
    get, put, add, swap : float
    correct : bool
        Whether the words had the values that they must have.
    """

    where: str
    target: str
    get: float
    put: float
    add: float
    swap: float
    correct: bool


class SpawnOutcome(NamedTuple):
    """How ``Comm.Spawn`` of one child went, tried in a program of its own."""

    ok: bool
    seconds: float
    said: str
