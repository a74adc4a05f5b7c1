"""Pictures of a task graph, and its export: what `Task.dump_dag` calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from alamo_mpi.core.graph import Graph
from alamo_mpi.extras.dagfiles import WRITERS

__all__ = ["ENDINGS", "STATES", "draw"]

_PICTURES = (".png", ".svg", ".pdf")
#: Endings of file names that `draw` knows.
ENDINGS = (*_PICTURES, *WRITERS)
#: States of a task that a picture can show.
STATES = ("waiting", "ready", "running", "done", "failed", "skipped", "cancelled")


def draw(
    graph: Graph,
    names: Sequence[str],
    file_name: str | os.PathLike[str],
    *,
    states: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Draw a task graph, or write it for another program, by the ending of the file name.

    Parameters
    ----------
    graph : Graph
        The compiled graph.  Nodes from ``graph.ntasks`` on are join nodes, drawn as dots.
    names : sequence of str, length ntasks
        Labels of the tasks, as ``"17 gpu_matmul"``.
    file_name : str or path
        ``.png``, ``.svg``, ``.pdf``: a picture, time from top to bottom; ``.dot``, ``.graphml``,
        ``.json``: nodes with name and state, edges with their hazards.
    states : sequence of str, length ntasks, optional
        One of `STATES` for each task, once it has been started.
    title : str, optional
        Heading; the numbers of tasks and dependencies are added to it.

    Raises
    ------
    ValueError
        For another ending, lengths that differ from the graph's, or an unknown state.
    ImportError
        For a picture, if matplotlib is not installed.
    OSError
        If the directory does not exist or the file cannot be written.

    Notes
    -----
    Local.  A picture of 1,000 tasks takes a few seconds and at most 12,000 pixels a side.  Above
    4,000 tasks names and hazard labels are left out.  The file is written in one go at the end.
    """
    path = Path(file_name)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"a DAG cannot be written to {str(path)!r}: "
            f"the name must end with one of {', '.join(ENDINGS)}"
        )
    _check(graph, names, states)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT,
            "the directory for the DAG does not exist; make it first",
            str(path.parent),
        )
    heading = _heading(graph, title)
    if ending in _PICTURES:
        from alamo_mpi.extras.dagpicture import picture

        data = picture(graph, names, states, heading, ending[1:])
    else:
        data = WRITERS[ending](graph, names, states, heading)
    path.write_bytes(data)


def _check(graph: Graph, names: Sequence[str], states: Sequence[str] | None) -> None:
    if len(names) != graph.ntasks:
        raise ValueError(f"{len(names)} names for a graph of {graph.ntasks} tasks")
    if states is None:
        return
    if len(states) != graph.ntasks:
        raise ValueError(f"{len(states)} states for a graph of {graph.ntasks} tasks")
    unknown = set(states) - set(STATES)
    if unknown:
        raise ValueError(f"unknown states {sorted(unknown)}; known are {', '.join(STATES)}")


def _heading(graph: Graph, title: str | None) -> str:
    tasks = f"{graph.ntasks:,} task{'s' * (graph.ntasks != 1)}"
    ndependencies = sum(1 for _ in graph.edges())
    edges = f"{ndependencies:,} dependenc{'y' if ndependencies == 1 else 'ies'}"
    return f"{title}: {tasks}, {edges}" if title else f"{tasks}, {edges}"
