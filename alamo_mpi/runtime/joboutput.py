"""What the ranks of a job write, line by line and each with its rank, to one pair of streams."""

from __future__ import annotations

import os

__all__ = ["JobOutput"]

#: A line longer than this is broken, so that it need not fit into memory.
_LONGEST_LINE = 1 << 20
_TAIL_NBYTES = 4096


class JobOutput:
    """Prefix the lines of every rank, and write them to descriptors 1 and 2 of this process.

    There the capture of tasks takes them.  The lines of one rank keep their order; a line is
    written whole, so that those of several ranks do not mix.
    """

    def __init__(self, size: int) -> None:
        self._rest = {(rank, fd): b"" for rank in range(size) for fd in (1, 2)}
        self._tails = [b""] * size

    def add(self, rank: int, fd: int, data: bytes) -> None:
        """Take in a piece of what a rank has written to its descriptor 1 or 2."""
        if fd == 2:
            self._tails[rank] = (self._tails[rank] + data)[-_TAIL_NBYTES:]
        text = self._rest[rank, fd] + data
        end = text.rfind(b"\n") + 1
        if len(text) - end > _LONGEST_LINE:
            end = len(text)
        self._rest[rank, fd] = text[end:]
        self._write(rank, fd, text[:end])

    def finish(self) -> None:
        """Write lines that were not ended."""
        for (rank, fd), rest in self._rest.items():
            self._write(rank, fd, rest)
            self._rest[rank, fd] = b""

    def tail(self, rank: int) -> str:
        """Return the end of what a rank has written to its stderr."""
        return self._tails[rank].decode(errors="replace").strip()

    @staticmethod
    def _write(rank: int, fd: int, text: bytes) -> None:
        if not text:
            return
        prefix = b"[%d] " % rank
        text = text.removesuffix(b"\n").replace(b"\n", b"\n" + prefix)
        data = memoryview(prefix + text + b"\n")
        while data:
            data = data[os.write(fd, data) :]
