"""The record of a batch's tasks: as rows, as a table, and as a trace for the Perfetto UI."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import get_type_hints

from alamo_mpi.core.record import TaskRecord
from alamo_mpi.extras.trace import trace_lines

__all__ = ["Telemetry"]

#: Column -> int, float or str, which also makes the value from its text.
_COLUMNS: dict[str, type] = get_type_hints(TaskRecord)


class Telemetry:
    """The lives of tasks, and where the time of each rank went.

    Parameters
    ----------
    records : iterable of TaskRecord
        One for each task that has ended, and for each attempt that another one followed.

    Examples
    --------
    >>> from alamo_mpi.core.record import TaskRecord
    >>> record = TaskRecord(7, "pow", 10.0, 10.0, 10.5, 12.0, 1, "node1", 16, 8, "done")
    >>> Telemetry([record]).busy()
    {1: 1.5}
    """

    def __init__(self, records: Iterable[TaskRecord]) -> None:
        self._records = list(records)

    def __len__(self) -> int:
        return len(self._records)

    def rows(self) -> list[dict[str, int | float | str]]:
        """Return one dictionary for each task, in the order in which the tasks were recorded.

        A task that was tried again has one for each attempt, all but the last ``"retried"``.

        Returns
        -------
        list of dict
            Keys are the attributes of `TaskRecord`: ``uid, name, submitted, ready, started, ended``
            (seconds since the epoch), ``rank, host, bytes_in, bytes_out, status, attempt``.
        """
        return [record._asdict() for record in self._records]

    def busy(self) -> dict[int, float]:
        """Return for each rank that ran a task the seconds during which it ran one.

        Notes
        -----
        A task that runs inside another, which waits for it, is not counted twice.
        """
        spans: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for record in self._records:
            if record.rank >= 0:
                spans[record.rank].append((record.started, record.ended))
        return {rank: _covered(spans[rank]) for rank in sorted(spans)}

    def write(self, file_name: str | os.PathLike[str]) -> None:
        """Write all tasks to a file; the ending of its name picks the format.

        Parameters
        ----------
        file_name : str or path
            ``.json``: a trace for https://ui.perfetto.dev, or ``chrome://tracing``, with a process
            for each host, a thread for each rank and a counter of tasks that are ready and wait
            for a worker.  ``.csv``: a table with a header, which `load` reads back.

        Raises
        ------
        ValueError
            For another ending.
        OSError
            If the file cannot be written.

        References
        ----------
        Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
        """
        path = Path(file_name)
        ending = path.suffix.lower()
        if ending == ".json":
            with path.open("w", encoding="utf-8") as file:
                file.writelines(trace_lines(self._records))
        elif ending == ".csv":
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                writer.writerows(self._records)
        else:
            raise ValueError(
                f"telemetry cannot be written to {str(path)!r}: the name must end with .json "
                "(a trace for the Perfetto UI) or .csv (a table)"
            )

    @classmethod
    def load(cls, file_name: str | os.PathLike[str]) -> Telemetry:
        """Read a table back that `write` made.

        Parameters
        ----------
        file_name : str or path
            A ``.csv`` file.

        Raises
        ------
        ValueError
            If the file is not such a table; the message names the line.
        OSError
            If it cannot be read.
        """
        path = Path(file_name)
        records = []
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header != list(_COLUMNS):
                raise ValueError(
                    f"{str(path)!r} is no table of telemetry: its header is {','.join(header)!r}, "
                    f"expected {','.join(_COLUMNS)!r}"
                )
            for line in reader:
                try:
                    records.append(_parse(line))
                except ValueError as error:
                    raise ValueError(f"{str(path)!r}, line {reader.line_num}: {error}") from None
        return cls(records)


def _parse(line: list[str]) -> TaskRecord:
    if len(line) != len(_COLUMNS):
        raise ValueError(f"{len(line)} columns, expected {len(_COLUMNS)}")
    return TaskRecord(*(parse(text) for parse, text in zip(_COLUMNS.values(), line, strict=True)))


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
