"""An unlinked file that many writers append to and one reader empties: the store of `capture`."""

from __future__ import annotations

import errno
import fcntl
import os

__all__ = ["LOWEST_PRIVATE_FD", "Spool"]

#: Private descriptors stay above those that programs close and number by hand.
LOWEST_PRIVATE_FD = 10

#: The file begins with a mark and a hole.  A file that is dup2'ed over a captured descriptor, or
#: one that a child has truncated (``echo >/dev/stderr``), has another length or another beginning.
_MAGIC = os.urandom(16)
_BASE = (1 << 20) + 4099
#: The file is cut back only past this many bytes, so that small outputs of writers that outlive
#: their task are never lost between reading and cutting.
_KEEP = 1 << 20


def _private_file() -> int:
    """Open an unlinked temporary file for appending, in TMPDIR; never as descriptor 0, 1 or 2."""
    directory = os.environ.get("TMPDIR") or "/tmp"
    try:
        fd = _unnamed(directory)
        try:
            file = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_PRIVATE_FD)
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot make a file for the output of tasks ({error.strerror}); "
            "set TMPDIR to a directory that exists and is writable on every host",
            directory,
        ) from error
    # Several writers (children of one task, or of the last one) must never overwrite each other.
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def _unnamed(directory: str) -> int:
    """Open a file without a name, or with one that is gone at once where there are none (NFS)."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    import tempfile  # a tenth of the package's start-up time, and seldom needed

    fd, name = tempfile.mkstemp(prefix="alamo-mpi-output-", dir=directory)
    os.unlink(name)
    return fd


class Spool:
    """The file behind one descriptor: bytes are appended by anyone and handed out once.

    Attributes
    ----------
    fd : int
        Private descriptor of the file, opened with ``O_APPEND``.
    mark : int
        Length of the file up to which its bytes have been handed out.
    """

    def __init__(self) -> None:
        self.fd = _private_file()
        self.mark = _BASE
        try:
            self._reset()
        except BaseException:
            self.close()
            raise

    def skip(self) -> None:
        """Forget what has not been read, such as the output of a child that outlived its task."""
        self.mark = os.lseek(self.fd, 0, os.SEEK_END)
        if not _BASE <= self.mark <= _BASE + _KEEP:
            self._reset()

    def read(self, *, cut: bool = False) -> bytes:
        """Return what was appended since `mark`, and move it; the file stays bounded.

        Parameters
        ----------
        cut : bool
            Give the room on disk back in any case, not only when it is much.
        """
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if size == self.mark and not cut:
            return b""
        intact = size >= self.mark and os.pread(self.fd, len(_MAGIC), 0) == _MAGIC
        data = self._read_range(self.mark if intact else 0, size)
        if not intact:
            self._reset()
        elif cut or size > _BASE + _KEEP:
            os.ftruncate(self.fd, _BASE)
            self.mark = _BASE
        else:
            self.mark = size
        return data

    def close(self) -> None:
        """Free the file; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _reset(self) -> None:
        os.ftruncate(self.fd, 0)
        os.write(self.fd, _MAGIC)
        os.ftruncate(self.fd, _BASE)
        self.mark = _BASE

    def _read_range(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop:
            part = os.pread(self.fd, stop - start, start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
