"""A wrapper as the worker that has started it sees it: busy with a rank, or a spare for the next.

It stays when a job is over, so that a Python is started for the worker's first job alone: some
20 ms of a processor, which the next job, and whatever else runs on the host, would miss.  It ends
with its worker: what it waits for comes by a pipe.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import subprocess
import sys
from collections.abc import Mapping

from alamo_mpi.core.launch import scrubbed
from alamo_mpi.runtime import jobwrapper

__all__ = ["WRAPPER", "Spare"]

#: Plain, without site packages and without what the user's variables say: there in 20 ms.  Imported
#: and not run as a file, it need not be compiled each time.  Its rank follows.
WRAPPER = (
    sys.executable,
    "-S",
    "-I",
    "-c",
    f"import sys; sys.path.append({os.path.dirname(jobwrapper.__file__)!r}); "
    "import jobwrapper; jobwrapper.main()",
)

#: Seconds that a wrapper has to answer, and when its job is over, before it is ended.
_LEAVE_S = 1.0


class Spare:
    """Start a wrapper that waits to be told its rank.

    Raises
    ------
    OSError
        If it cannot be started; but it is this very Python that is.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*WRAPPER, jobwrapper.SPARE],
            env=scrubbed(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is the program's to handle, and what it ends, it tells.
            start_new_session=True,
        )
        #: It has not been told a rank yet, and may not have come so far that it listens.
        self._fresh = True

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    def stand_for(self, rank: int, env: Mapping[str, str]) -> bool:
        """Have it stand for a rank of a job, with this worker's environment and these variables.

        Returns
        -------
        bool
            Whether it is there to do that; else it is cleared away.
        """
        pipe = self._process.stdin
        assert pipe is not None
        fresh, self._fresh = self._fresh, False
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                pipe.write(marshal.dumps((rank, os.getcwd(), {**scrubbed(os.environ), **env})))
                pipe.flush()
                # One that was just killed takes what is written, and the hub would wait for it.
                if fresh or self._says(jobwrapper.TOLD):
                    return True
        self._process.kill()
        self.end()
        return False

    def is_over(self) -> bool:
        """Wait until its rank is over and cleared away; false if it does not come to that."""
        return self._says(jobwrapper.OVER)

    def _says(self, word: bytes) -> bool:
        """Wait until it says this, for a second at most."""
        pipe, poll = self._process.stdout, select.poll()
        assert pipe is not None
        if pipe.closed:  # it went before it was told, and is cleared away
            return False
        poll.register(pipe, select.POLLIN)
        said: bytes | None = None
        while said != word and poll.poll(1000 * _LEAVE_S):
            said = os.read(pipe.fileno(), 1)
            if not said:
                return False
        return said == word

    def end(self) -> None:
        """End it; returns when that is done."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
