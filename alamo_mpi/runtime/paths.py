"""Which file a path means: two spellings of one file are one resource.

A file is known by its canonical directory and its name in it, so that a million files of one
directory need a million names and not a million paths.  Relative paths start at the working
directory, ``.`` and ``..`` are resolved as the operating system does, and symbolic links are
followed, in directories and in the last component.  Neither files nor directories need to exist.

A parallel file system charges for every request.  So a directory is resolved once for each of its
spellings, and the links among its files are found by reading the directory once, instead of
asking for each file.  The file system is looked at while `FileTable` is in use and never again:
links that the tasks themselves make are not seen.  Hard links are different files, and so are
names that a file system without case takes for the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

__all__ = ["Directory", "FileTable"]

#: Last components that do not name an entry of the directory before them.
_NOT_A_NAME = frozenset(("", ".", ".."))


class Directory(dict[str, int]):
    """The resources among the files of one canonical directory, by name.

    ``directory[channel]`` returns, and makes if it is new, the resource of the file that `channel`
    names: a name, a path relative to this directory, or an absolute path.
    """

    __slots__ = ("_aliases", "_files", "_new_resource", "_other_names", "path")

    def __init__(self, files: FileTable, path: str) -> None:
        self.path = path
        self._files = files
        self._new_resource = files.new_resource
        #: Resources of channels that are not the name of a file proper in this directory.
        self._aliases: dict[str, int] = {}
        #: Names that are none of a file proper here; empty until the directory has been listed.
        self._other_names: frozenset[str] = frozenset()

    def __missing__(self, channel: str) -> int:
        # Runs once for each of perhaps a million files.
        if "/" in channel or channel in (self._other_names or self._list()):
            return self._resolve(channel)
        resource = self[channel] = self._new_resource()
        return resource

    def own(self, name: str) -> int:
        """Return the resource of the entry `name`, which is known to be canonical."""
        resource = self.get(name)
        if resource is None:
            resource = self[name] = self._new_resource()
        return resource

    def _resolve(self, channel: str) -> int:
        """Return the resource of a path, or of a symbolic link of this directory."""
        resource = self._aliases.get(channel)
        if resource is None:
            path = os.path.join(self.path, channel)
            if "/" in channel:
                resource = self._files.resource(path)
            else:
                resource = self._files.canonical_resource(os.path.realpath(path))
            self._aliases[channel] = resource
        return resource

    def _list(self) -> frozenset[str]:
        self._other_names = _NOT_A_NAME | _links_in(self.path)
        return self._other_names


class FileTable:
    """The resources of all files and directories of one program.

    Parameters
    ----------
    new_resource : callable
        Returns a number that no other resource has.

    Notes
    -----
    Local.  Reads the file system: one ``realpath`` for each spelling of a directory, one
    directory listing for each directory whose files are accessed.
    """

    def __init__(self, new_resource: Callable[[], int]) -> None:
        self.new_resource = new_resource
        self._directories: dict[str, Directory] = {}
        self._spellings: dict[str, Directory] = {}

    def directory(self, path: str) -> Directory:
        """Return the table of the directory that `path` means."""
        found = self._spellings.get(path)
        if found is None:
            found = self._spellings[path] = self._canonical(os.path.realpath(path))
        return found

    def resource(self, path: str) -> int:
        """Return the resource of the file or directory that `path` means."""
        head, slash, name = path.rpartition("/")
        if name in _NOT_A_NAME:
            return self.canonical_resource(os.path.realpath(path))
        return self.directory(head or slash or ".")[name]

    def canonical_resource(self, path: str) -> int:
        """Return the resource of a canonical path."""
        head, name = _split(path)
        return self._canonical(head).own(name)

    def coverings(self) -> Iterator[tuple[int, int]]:
        """Iterate over (resource, nearest accessed directory above it) where there is one.

        Notes
        -----
        Looks at each directory, and at its files only where a directory above is accessed.
        """
        nearest: dict[str, int | None] = {}
        for path, directory in self._directories.items():
            cover = self._nearest(path, nearest)
            if cover is not None:
                for resource in directory.values():
                    if resource != cover:  # the root is an entry of itself
                        yield resource, cover

    def _nearest(self, path: str, nearest: dict[str, int | None]) -> int | None:
        """Return the resource of `path`, or of the nearest directory above that has one."""
        climbed = []
        while path not in nearest:
            climbed.append(path)
            head, name = _split(path)
            directory = self._directories.get(head)
            found = None if directory is None else directory.get(name)
            if found is not None or head == path:
                nearest[path] = found
                break
            path = head
        for below in climbed:
            nearest[below] = nearest[path]
        return nearest[path]

    def _canonical(self, path: str) -> Directory:
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = Directory(self, path)
        return found


def _split(path: str) -> tuple[str, str]:
    """Return a canonical path's directory and name; the root is the entry ``""`` of itself."""
    head, slash, name = path.rpartition("/")
    return head or slash, name


def _links_in(path: str) -> frozenset[str]:
    """Return the names of the symbolic links in the directory `path`, none if it is not there."""
    try:
        with os.scandir(path) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        # Missing, not a directory, or not to be listed: then its links cannot be told either.
        return frozenset()
