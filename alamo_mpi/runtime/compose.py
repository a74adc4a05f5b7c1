"""From a chunk to the `Run` message: what the worker does not have yet goes along."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from alamo_mpi.core.chunk import Chunk
from alamo_mpi.core.messages import Run
from alamo_mpi.core.program import Program
from alamo_mpi.core.states import State
from alamo_mpi.runtime.blobs import BlobTable
from alamo_mpi.runtime.functions import TRAVELS_WITH_TASK, FunctionTable
from alamo_mpi.runtime.submission import Submission

__all__ = ["Composer"]


class Composer:
    """Compose messages, remembering which functions and blobs each worker was sent.

    Parameters
    ----------
    functions, blobs
        The tables of the program.
    submissions
        Every unfinished submission by program number.
    """

    def __init__(
        self,
        functions: FunctionTable,
        blobs: BlobTable,
        submissions: Mapping[int, Submission],
    ) -> None:
        self._functions = functions
        self._blobs = blobs
        self._submissions = submissions
        self._known: dict[int, set[int]] = {}

    def run(self, chunk: Chunk, *, record: bool) -> Run:
        """Return the message that makes a worker run the chunk."""
        parts = [
            (self._submissions[program.pid], program, indices) for program, indices in chunk.parts
        ]
        kinds = _kinds(chunk.parts)
        arguments: list[Any] = []
        uids: Sequence[int] = range(0)
        for submission, _, indices in parts:
            if isinstance(indices, range):
                arguments += submission.arguments[indices.start : indices.stop]
                more = submission.uids[indices.start : indices.stop]
            else:
                arguments += [submission.arguments[index] for index in indices]
                more = [submission.uids[index] for index in indices]
            uids = more if not uids else [*uids, *more]
        inputs: dict[int, list[tuple[int, int]]] = {}
        sources: dict[int, tuple[Any] | int] = {}
        keeps: dict[int, int] = {}
        blobs: dict[int, Any] = {}
        limits: dict[int, float] = {}
        isolated: frozenset[int] = frozenset()
        position = 0
        for submission, _, indices in parts:
            if submission.inputs or submission.wanted:
                _add_values(submission, indices, position, inputs, sources, keeps)
            if submission.blobs:
                self._add_blobs(submission, indices, chunk.rank, blobs)
            if submission.limits:
                _add_limits(submission, indices, position, limits)
            if submission.isolated:
                isolated |= _isolated(submission, indices, position)
            position += len(indices)
        return Run(
            chunk=chunk.number,
            functions=kinds,
            arguments=arguments,
            needs=chunk.needs,
            inputs=inputs,
            sources=sources,
            keeps=keeps,
            definitions=self._definitions(kinds, chunk.rank),
            blobs=blobs,
            uids=uids[0] if isinstance(uids, range) else list(uids),
            # When attempts began and ended is told of tasks that are tried again.
            record=record or any(program.retry for program, _ in chunk.parts),
            depth=max(program.depth for program, _ in chunk.parts),
            gang=chunk.gang,
            limits=limits,
            isolated=isolated,
        )

    def _definitions(self, kinds: int | list[int], rank: int) -> dict[int, bytes]:
        known = self._known.setdefault(rank, {TRAVELS_WITH_TASK})
        used = {kinds} if isinstance(kinds, int) else set(kinds)
        fresh = used - known
        known |= fresh
        return {kind: self._functions.definitions[kind] for kind in fresh}

    def _add_blobs(
        self, submission: Submission, indices: Sequence[int], rank: int, blobs: dict[int, Any]
    ) -> None:
        for index in indices:
            for number in submission.blobs.get(index, ()):
                blob = self._blobs[number]
                if rank not in blob.holders:
                    blob.holders.add(rank)
                    blobs[number] = pickle.PickleBuffer(blob.data)


def _kinds(parts: Sequence[tuple[Program, Sequence[int]]]) -> int | list[int]:
    """Return the functions of a chunk's tasks, as one number if they are all the same."""
    first = parts[0][0].kinds
    if isinstance(first, int) and all(program.kinds == first for program, _ in parts):
        return first
    return [program.kind(index) for program, indices in parts for index in indices]


def _add_limits(
    submission: Submission, indices: Sequence[int], position: int, limits: dict[int, float]
) -> None:
    for at, index in enumerate(indices, position):
        if index in submission.limits:
            limits[at] = submission.limits[index]


def _isolated(submission: Submission, indices: Sequence[int], position: int) -> frozenset[int]:
    alone = submission.isolated
    return frozenset(at for at, index in enumerate(indices, position) if index in alone)


def _add_values(
    submission: Submission,
    indices: Sequence[int],
    position: int,
    inputs: dict[int, list[tuple[int, int]]],
    sources: dict[int, tuple[Any] | int],
    keeps: dict[int, int],
) -> None:
    """Say which arguments are results of other tasks, where those are, and which to keep."""
    for at, index in enumerate(indices, position):
        if index in submission.wanted:
            keeps[at] = submission.uids[index]
        for argument, producer, there in submission.inputs.get(index, ()):
            uid = producer.uids[there]
            inputs.setdefault(at, []).append((argument, uid))
            if producer.program.states[there] == State.DONE:
                kept = producer.kept.get(there)
                sources[uid] = (producer.results[there],) if kept is None else kept[0]
