"""Run a task in a cell, a process of this worker's own: what crashes there does no harm here.

``ARCHITECTURE-isolation.md`` has the protocol.  The wait can be interrupted at any bytecode, as
that of a program (`runtime.processes`); whoever is, ends the cell.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from alamo_mpi.core.messages import Failure
from alamo_mpi.errors import WorkerDiedError
from alamo_mpi.runtime.cells import Cell, Cells, Death, Order
from alamo_mpi.runtime.celltalk import FAILED, GOES_ON, WAITS
from alamo_mpi.runtime.elsewhere import FailedElsewhere, GivenUp, Packed
from alamo_mpi.runtime.failures import describe
from alamo_mpi.runtime.runners import Interruption
from alamo_mpi.runtime.tail import length, tail_of
from alamo_mpi.runtime.turn import released, seat
from alamo_mpi.runtime.wardship import BURIAL_S, GRACE_S

__all__ = ["Isolation"]

#: See `runtime.interrupter`: it may be left at any bytecode, and ends the cell then.
__interruptible__ = True

#: Other threads can interrupt a wait only between two looks.
_LOOK_MS = 100


class Isolation:
    """Runs the isolated tasks of one worker."""

    def __init__(self) -> None:
        self._cells = Cells()

    def call(self, order: Order) -> Any:
        """Run a task; return its result if that is an atom, else `Packed`.

        Raises
        ------
        FailedElsewhere
            With what the task raised; with a `WorkerDiedError` if its process has ended under it.
        Interruption
            It was given up.
        """
        cell = self._cells.take()
        talk = _Talk(cell)
        try:
            what, value = talk.run(order)
        except _EndedIdleError:
            cell.close()
            return self.call(order)
        except WorkerDiedError as error:
            cell.close()
            # None of the frames here is of interest.
            raise FailedElsewhere(describe(error.with_traceback(None))) from None
        except Interruption as error:
            cell.end(GRACE_S, BURIAL_S)
            raise GivenUp(_where(cell, talk.tail())) from error
        except BaseException:
            cell.end(GRACE_S, BURIAL_S)
            raise
        self._cells.put_back(cell)
        if what == FAILED:
            raise FailedElsewhere(Failure(*value))
        return Packed(value) if type(value) in (bytes, list) else value


class _EndedIdleError(Exception):
    """A cell had ended before it was handed the task, which has not begun anywhere."""


class _Talk:
    """What is said with a cell about one task."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        #: What stderr had before.
        self._begun = length(2)

    def run(self, order: Order) -> tuple[int, Any]:
        """Hand the task over; return `DONE` or `FAILED` with what belongs to it.

        Raises
        ------
        _EndedIdleError
        WorkerDiedError
        """
        cell, was_idle = self._cell, self._cell.up
        if not was_idle:
            self._next()
            cell.up = True
        if order.begin is not None:
            order.begin()
        try:
            cell.assign(order)
        except (BrokenPipeError, ConnectionResetError):  # a report of its end is under way
            if was_idle:
                raise _EndedIdleError from None
        while True:
            what, value = self._next()
            if what == WAITS:
                # Others may run here meanwhile, as if the task waited on this thread.
                with released():
                    what, value = self._next()
                self._begun = length(2)
            if what != GOES_ON:
                return what, value
            cell.agree()

    def tail(self) -> str:
        """Return the end of what the task has written to stderr."""
        return tail_of(2, self._begun) or ""

    def _next(self) -> tuple[int, Any]:
        """Wait for what the cell says next."""
        cell, place = self._cell, seat()
        connection = cell.connection.fileno()
        while True:
            ready = [fd for fd, _ in cell.events.poll(_LOOK_MS)]
            if connection in ready:
                with contextlib.suppress(EOFError, ConnectionResetError):
                    return cell.answer()
                # It has closed its end, and goes on or not.
                cell.events.unregister(connection)
            elif ready:
                death = cell.death()
                if death is not None:
                    raise _died(cell, death, self.tail())
            elif place is not None:
                place.check()


def _died(cell: Cell, death: Death, stderr: str) -> WorkerDiedError:
    """Return the error; which task it was, is added by whoever knows."""
    status, peak_nbytes = death
    name = None
    if status is None:
        did = "is gone with the process that watches over it, which was killed: see whether the "
        did += "host ran out of memory (dmesg)"
    elif status < 0:
        name = _signal_name(-status)
        did = f"was ended by {name}"
        if -status == signal.SIGKILL:
            did += ", as the kernel does where memory runs out (dmesg)"
    else:
        did = f"has exited with status {status}"
    text = f"its process {cell.pid} {did}."
    if peak_nbytes:
        text += f" It had {peak_nbytes / (1 << 20):.0f} MiB of memory at most."
    if stderr:
        text += f" Its stderr ends with:\n{stderr.rstrip()}"
    return WorkerDiedError(
        text, status=status, signal=name, pid=cell.pid, peak_nbytes=peak_nbytes, stderr=stderr
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _where(cell: Cell, tail: str) -> str:
    """Say where a task was when its cell was ended."""
    text = f"It ran in process {cell.pid}, which was ended by SIGTERM."
    return f"{text} Its stderr ends with:\n{tail.rstrip()}" if tail else text
