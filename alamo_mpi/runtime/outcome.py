"""What the user gets of a task that has ended: its value, its exception, or its output."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from alamo_mpi.core.messages import INTERRUPTED, Key
from alamo_mpi.core.record import Attempt
from alamo_mpi.core.states import State
from alamo_mpi.errors import CancelledError, DependencyError, InternalError, SerializationError
from alamo_mpi.runtime.failures import rebuild
from alamo_mpi.runtime.packing import ATOMS, private, unpack
from alamo_mpi.runtime.submission import Decoding, Submission
from alamo_mpi.runtime.vigil import endless

__all__ = ["Outcomes", "Reason", "Wanted"]

#: What is waited for: the submission and the task of it, None for all; or the handle of a batch.
Wanted = tuple[Any, "int | None"]

_USUAL = Decoding("utf-8", "replace", False)

#: Says why a task waits for another one of the same submission; None if it cannot.
Reason = Callable[[int, int], "str | None"]


class Outcomes:
    """Turn what came back of tasks into objects; each call for a task gives the same one.

    Parameters
    ----------
    lock
        The manager's.  A task's state is set a moment before its outcome is stored, both under
        this lock: whoever looks at the state without it may find nothing there.
    drive
        ``drive(done, timeout, on)``, waits as `Manager.drive` does.
    fetch
        ``fetch(rank, key, timeout)``, gets a kept value as `Manager.fetch` does.
    find_blob
        Gives a shared buffer by number.
    hosts
        Host name by rank.
    """

    def __init__(
        self,
        lock: threading.RLock,
        drive: Callable[[Callable[[], bool], float | None, Wanted | None], bool],
        fetch: Callable[[int, Key, float | None], tuple[Any] | None],
        find_blob: Callable[[int], Any],
        hosts: tuple[str, ...],
    ) -> None:
        self._lock = lock
        self._drive = drive
        self._fetch = fetch
        self._find_blob = find_blob
        self._hosts = hosts

    def result(
        self, submission: Submission, index: int, timeout: float | None, reason: Reason
    ) -> Any:
        """Return the result of a task, or raise why there is none; waits for its end.

        Raises
        ------
        TimeoutError, BaseException
            As `AsyncDict.get`.
        """
        if submission.complete and not submission.kept:
            # Nothing changes any more: the usual case after wait(), without a lock.
            payload = submission.results[index]
            if type(payload) in ATOMS and submission.program.states[index] == State.DONE:
                return payload
        values = submission.values
        if index not in values:
            deadline = None if timeout is None else time.perf_counter() + timeout
            self._await(submission, index, timeout)
            if submission.program.states[index] == State.DONE:
                rest = None if deadline is None else max(deadline - time.perf_counter(), 1e-3)
                return self.value(submission, index, rest)
            # Two threads may come here at once; both get the first one's object.
            values.setdefault(index, self._error(submission, index, reason))
        value = values[index]
        if submission.program.states[index] == State.DONE:
            return value
        # Without the frames that an earlier get() has left on it.
        raise value.with_traceback(None)

    def value(self, submission: Submission, index: int, timeout: float | None = None) -> Any:
        """Return the value of a task that is done, fetching it if its worker has it."""
        if index in submission.values:
            return submission.values[index]
        kept = submission.kept.get(index)
        if kept is None:
            payload = private(submission.results[index])
        else:
            rank = kept[0]
            key = submission.uids[index], "result"
            payload = self._kept(submission, index, key, rank, timeout)
            # The worker keeps its copy, as this task may become an argument of another one yet;
            # in a world of one rank, where nothing was sent, this one would be the same.
            payload = payload if rank else private(payload)
        try:
            value = unpack(payload, self._find_blob)
        except SerializationError as error:
            raise SerializationError(
                f"The result of {_title(submission, index)} cannot be given to this program: "
                f"{error}",
                uid=submission.uids[index],
                task_name=submission.names[index],
            ) from error.__cause__
        # Two threads may come here at once; both get the first one's object.
        return submission.values.setdefault(index, value)

    def attempts(self, submission: Submission, index: int, reason: Reason) -> list[Attempt]:
        """Return the attempts at a task that have ended, of one that is tried again."""
        with self._lock:
            tried = list(submission.attempts.get(index, ()))
            state = submission.program.states[index]
        found = []
        for number, (rank, started, ended, failure) in enumerate(tried, 1):
            host, error = self._hosts[rank], None
            if failure is not None:
                # Of a task that was given up later, the error is not that of its last attempt.
                last = state == State.FAILED or failure.root == INTERRUPTED
                if last and number == len(tried):  # the very object that get() raises
                    error = submission.values.get(index) or self._error(submission, index, reason)
                    error = submission.values.setdefault(index, error)
                else:
                    name = submission.names[index]
                    error = rebuild(failure, name, submission.uids[index], rank, host)
            found.append(Attempt(number, rank, host, started, ended, error))
        return found

    def text(self, submission: Submission, index: int, what: str, timeout: float | None) -> str:
        """Return what a task wrote to "stdout" or "stderr"; waits for its end."""
        deadline = None if timeout is None else time.perf_counter() + timeout
        self._await(submission, index, timeout)
        streams = submission.streams.get(index)
        if streams is None:
            return ""
        rank, out, err = streams
        data: Any = out if what == "stdout" else err
        if isinstance(data, int):
            data = self._pieces(submission, index, what, rank, data, deadline)
        decoding = submission.decodings.get(index, _USUAL)
        return decoding.text(bytes(data) if isinstance(data, memoryview) else data)

    def _pieces(
        self,
        submission: Submission,
        index: int,
        what: str,
        rank: int,
        nbytes: int,
        deadline: float | None,
    ) -> bytearray:
        """Fetch an output piece by piece, so that its worker never holds all of it in memory."""
        data = bytearray()
        while len(data) < nbytes:
            rest = None if deadline is None else max(deadline - time.perf_counter(), 1e-3)
            key = submission.uids[index], what, len(data)
            piece = self._kept(submission, index, key, rank, rest)
            if not len(memoryview(piece)):
                break  # somebody has truncated the file since
            data += piece
        return data

    def _await(self, submission: Submission, index: int, timeout: float | None) -> None:
        def final() -> bool:
            with self._lock:
                return submission.is_final(index)

        on = (submission, index) if endless(timeout) else None
        if not final() and not self._drive(final, timeout, on):
            raise TimeoutError(f"{_title(submission, index)} has not ended after {timeout:g} s")

    def _kept(
        self, submission: Submission, index: int, key: Key, rank: int, timeout: float | None
    ) -> Any:
        payload = self._fetch(rank, key, timeout)
        if payload is None:
            raise InternalError(
                f"the {key[1]} of {_title(submission, index)} is not on rank {rank} any more"
            )
        return payload[0]

    def _error(self, submission: Submission, index: int, reason: Reason) -> BaseException:
        uid, name = submission.uids[index], submission.names[index]
        state = submission.program.states[index]
        if state == State.CANCELLED:
            title = _title(submission, index)
            return CancelledError(f"{title} was cancelled.", uid=uid, task_name=name)
        if state == State.SKIPPED:
            return self._skipped(submission, index, reason)
        failure, rank = submission.failures[index]
        return rebuild(failure, name, uid, rank, self._hosts[rank])

    def _skipped(self, submission: Submission, index: int, reason: Reason) -> DependencyError:
        source, root = submission.roots[index]
        why = reason(root, index) if source is submission else None
        failed = f"task {source.uids[root]} {source.names[root]!r} failed"
        told = f"{failed}, which it depends on" if why is None else f"{failed}: {why}"
        error = DependencyError(
            f"{_title(submission, index)} was not run because {told}.",
            uid=submission.uids[index],
            task_name=submission.names[index],
        )
        if root not in source.values:
            source.values.setdefault(root, self._error(source, root, reason))
        error.__cause__ = source.values[root]
        return error


def _title(submission: Submission, index: int) -> str:
    return f"Task {submission.uids[index]} {submission.names[index]!r}"
