"""A client's view of its tasks on another rank: into messages, and out of them."""

from __future__ import annotations

from collections.abc import Mapping

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.messages import Ended
from alamo_mpi.runtime.submission import Submission, Tried

__all__ = ["graph_arrays", "store"]


def graph_arrays(graph: Graph | None) -> tuple[int, bytes, bytes, bytes, bytes] | None:
    """Return a graph as the bytes of its arrays; None where it has no edges."""
    if graph is None or not graph.nedges:
        return None
    return (
        graph.ntasks,
        graph.indegree.tobytes(),
        graph.succ_start.tobytes(),
        graph.succ.tobytes(),
        bytes(graph.hazard),
    )


def store(submission: Submission, message: Ended, submissions: Mapping[int, Submission]) -> None:
    """Take in what the manager says about tasks of a submission.

    Parameters
    ----------
    submission
        The mirror.
    message
        What has ended.
    submissions
        All mirrors that somebody holds, by number.
    """
    program = submission.program
    results = message.results
    for at, index in enumerate(message.tasks):
        if results is not None:
            submission.results[index] = results[at]
    submission.failures.update(message.failures)
    submission.kept.update(message.kept)
    submission.streams.update(message.streams)
    for index, attempts in message.attempts.items():
        submission.attempts[index] = [Tried(*each) for each in attempts]
    for index, (number, root) in message.roots.items():
        # Whoever depends on a task holds it.
        submission.roots[index] = submissions[number], root
    for index, state in zip(message.tasks, message.states, strict=True):
        program.states[index] = state
    program.remaining -= len(message.tasks)
