"""Leave out the body of the caller's ``with`` block.

Theory of operation
-------------------
Python offers a context manager no way to say "do not run the body".  But the body is already
inside the region that `__exit__` guards when `__enter__` returns, so an exception that is raised
at the *next* instruction of the caller's frame reaches `__exit__`, which swallows it, and control
continues behind the block.  A trace function is the one place from which an exception can be put
into another frame:

    __enter__ (of the caller's frame F)         F
      F.f_trace = raiser; F.f_trace_opcodes
      sys.settrace(raiser)
      return  ------------------------------->  next instruction: "opcode" event
                                                raiser raises BodySkipped
    __exit__ receives BodySkipped  <----------  unwinds to the with block
      restores every trace setting, returns True

The event is that of the instruction, not of the line, so that a body on the line of the ``with``
is skipped too, and the ``as`` target is never bound.  A tracer that was active (a debugger,
coverage) is taken out for those two steps and put back by `restore`.

What can go wrong is found by `check_caller` *before* anything is done: the caller's frame must
stand at the instruction that enters a ``with`` block.  Compiled code (Cython, Nuitka) has no such
frame, and `contextlib.ExitStack` calls `__enter__` from a function without a block.
"""

from __future__ import annotations

import opcode
import sys
from types import FrameType
from typing import Any

__all__ = ["BodySkipped", "SkipBody", "check_caller"]

#: What CPython 3.10, and 3.11 to 3.13, execute to call `__enter__`.
_WITH_OPCODES = ("SETUP_WITH", "BEFORE_WITH")


class BodySkipped(BaseException):
    """Carries control from the first instruction of a skipped body to `__exit__`."""


class SkipBody:
    """Skips the body of one ``with`` block; made in `__enter__`, undone in `__exit__`; local.

    Parameters
    ----------
    frame : types.FrameType
        The frame that executes the ``with`` statement, checked by `check_caller`.
    """

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame
        self._tracer = sys.gettrace()
        self._frame_tracer = frame.f_trace
        self._frame_opcodes = frame.f_trace_opcodes
        # Since 3.12 the flag is read when tracing is switched on, so it is set before.
        frame.f_trace = self._raise
        frame.f_trace_opcodes = True
        sys.settrace(self._raise)

    def _raise(self, frame: FrameType, event: str, arg: object) -> Any:
        """Raise in the caller's frame at its next instruction, and let other frames be."""
        if frame is not self._frame:
            return None
        raise BodySkipped

    def restore(self) -> None:
        """Put back the tracer and the frame's settings as they were."""
        self._frame.f_trace_opcodes = self._frame_opcodes
        # ``f_trace = None`` is how a frame without a tracer reads; it cannot be deleted twice.
        self._frame.f_trace = self._frame_tracer
        sys.settrace(self._tracer)


def check_caller(frame: FrameType | None) -> FrameType:
    """Return `frame` if it stands at the entry of a ``with`` block; local.

    Raises
    ------
    RuntimeError
        When it does not, so that its body could not be skipped.
    """
    if frame is not None and _enters_with(frame.f_code.co_code, frame.f_lasti):
        return frame
    where = "compiled code" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    raise RuntimeError(
        "alamo_mpi.serve must be entered by a `with` statement of Python code, because the ranks "
        f"that serve skip its body; {where} enters it otherwise (contextlib.ExitStack, a direct "
        "call of __enter__, or a compiled module)."
    )


def _enters_with(code: bytes, at: int) -> bool:
    """Whether the instruction at offset `at` calls the `__enter__` of a ``with`` statement."""
    if not 0 <= at < len(code):
        return False
    name = opcode.opname[code[at]]
    # Since 3.14 it is an ordinary call of what LOAD_SPECIAL has found.
    called = name == "CALL" and at >= 2 and opcode.opname[code[at - 2]] == "LOAD_SPECIAL"
    return name in _WITH_OPCODES or called
