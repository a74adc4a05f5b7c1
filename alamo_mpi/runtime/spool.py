"""An unlinked file that many writers append to and one reader empties: the store of `capture`."""

from __future__ import annotations

import errno
import fcntl
import os

__all__ = ["LOWEST_PRIVATE_FD", "Joined", "Output", "Spilled", "Spool", "joined"]

#: Private descriptors stay above those that programs close and number by hand.
LOWEST_PRIVATE_FD = 10

#: The file begins with a mark and a hole.  A file that is dup2'ed over a captured descriptor, or
#: one that a child has truncated (``echo >/dev/stderr``), has another length or another beginning.
_MAGIC = os.urandom(16)
_BASE = (1 << 20) + 4099
#: The file is cut back only past this many bytes, so that small outputs of writers that outlive
#: their task are never lost between reading and cutting.
_KEEP = 1 << 20
#: More than this many bytes stay in the file, which is handed over as it is.
_SPILL = 1 << 20
#: Each file handed over holds a descriptor; beyond this many, outputs are kept in memory.
_MOST_SPILLED = 256


class Spilled:
    """Output that was too much for memory: a part of an unlinked file, which goes with this object.

    Parameters
    ----------
    fd
        Descriptor of the file; owned from here on.
    start, nbytes
        Which part.
    """

    __slots__ = ("_fd", "_start", "nbytes")

    #: Objects whose file is open.
    count = 0

    def __init__(self, fd: int, start: int, nbytes: int) -> None:
        self._fd = fd
        self._start = start
        self.nbytes = nbytes
        Spilled.count += 1

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, part: slice) -> bytes:
        """Read a slice of the bytes."""
        first, last, _ = part.indices(self.nbytes)
        return _read_range(self._fd, self._start + first, self._start + last)

    def close(self) -> None:
        """Free the file; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            Spilled.count -= 1

    def __del__(self) -> None:
        self.close()


class Joined:
    """What a task wrote before it waited and after, where one of the two was too much for memory.

    Parameters
    ----------
    parts
        In their order.
    """

    __slots__ = ("_parts",)

    def __init__(self, *parts: Output) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, part: slice) -> bytes:
        """Read a slice of the bytes."""
        first, last, _ = part.indices(len(self))
        found = []
        for each in self._parts:
            if first < last:
                found.append(each[min(first, len(each)) : min(last, len(each))])
            first, last = max(first - len(each), 0), last - len(each)
        return b"".join(found)


#: Output of a task: all that supports `len` and slices that are bytes.
Output = bytes | Spilled | Joined


def joined(before: Output, after: Output) -> Output:
    """Return one output that goes on with another."""
    if isinstance(before, bytes) and isinstance(after, bytes):
        return before + after
    return Joined(before, after) if len(before) else after


def _read_range(fd: int, start: int, stop: int) -> bytes:
    parts = []
    while start < stop:
        part = os.pread(fd, stop - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


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


def _marked_file() -> int:
    """Open a private file that has its beginning."""
    fd = _private_file()
    try:
        _mark(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mark(fd: int) -> None:
    os.write(fd, _MAGIC)
    os.ftruncate(fd, _BASE)


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
        Length of the file up to which its bytes have been handed out; -1 where a full disk keeps
        the file from having its beginning, so that it is read from offset 0.
    """

    def __init__(self) -> None:
        self.fd = _marked_file()
        self.mark = _BASE

    def skip(self) -> None:
        """Forget what has not been read, such as the output of a child that outlived its task."""
        self.mark = os.lseek(self.fd, 0, os.SEEK_END)
        if not _BASE <= self.mark <= _BASE + _KEEP:
            self._reset()

    def take(self) -> bytes | Spilled:
        """Return what was appended since `mark`, and move it.

        A large output is not read: its file is handed over, and this spool goes on with another
        one.  Whoever still writes to the old file then writes to nobody.
        """
        size = os.lseek(self.fd, 0, os.SEEK_END)
        start = self._start(size)
        if size - start <= _SPILL or Spilled.count >= _MOST_SPILLED:
            return self.read()
        try:
            other = _marked_file()
        except OSError:  # no descriptors left, or no room: then what is read gives some back
            return self.read(cut=True)
        spilled = Spilled(self.fd, start, size - start)
        self.fd, self.mark = other, _BASE
        return spilled

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
        start = self._start(size)
        intact = start == self.mark
        data = _read_range(self.fd, start, size)
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

    def _start(self, size: int) -> int:
        """Return where the new bytes begin: at `mark`, unless somebody has truncated the file."""
        intact = size >= self.mark and os.pread(self.fd, len(_MAGIC), 0) == _MAGIC
        return self.mark if intact else 0

    def _reset(self) -> None:
        # The beginning stays where it is right: on a full disk it could not be written again.
        if os.pread(self.fd, len(_MAGIC), 0) == _MAGIC:
            os.ftruncate(self.fd, _BASE)
            self.mark = _BASE
            return
        os.ftruncate(self.fd, 0)
        try:
            _mark(self.fd)
            self.mark = _BASE
        except OSError:
            self.mark = -1
