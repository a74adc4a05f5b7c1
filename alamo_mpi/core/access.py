"""What a task declares about its data: accesses to channels of communication objects.

A *communication object* is a set of *channels*, and an access names the channels that a task reads
or writes, or, without any channel, the whole object.  There are three kinds of object:

=====================  ==========================  ==========================================
object                 channels                    how an access holds it
=====================  ==========================  ==========================================
``Path`` (`PathLike`)  files below the directory   ``str``, resolved when tasks are compiled
`CommunicationObject`  anything hashable           the object itself
`Communicates`         as the object decides       its `CommunicationObject`, translated keys
=====================  ==========================  ==========================================

Because a plain ``str`` is refused as an object, a ``str`` held by an access is always a path.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Hashable
from pathlib import PurePath
from typing import Protocol, TypeAlias

__all__ = [
    "Communicates",
    "CommunicationDomain",
    "CommunicationObject",
    "DataAccess",
    "Hazard",
    "Mode",
    "read",
    "write",
]

_ACCEPTED = (
    "pass a pathlib.Path (or another os.PathLike), a CommunicationObject, or an object with the "
    "methods communication_object() and channel_key(channel)"
)


class Mode(enum.IntEnum):
    """How a task uses a channel."""

    READ = 0
    WRITE = 1


class Hazard(enum.IntFlag):
    """Why one task must wait for another; an edge may have several reasons."""

    #: Read after write: the later task reads what the earlier wrote.
    RAW = 1
    #: Write after read: the later task overwrites what the earlier reads.
    WAR = 2
    #: Write after write.
    WAW = 4
    #: Read after read; only in domains that ask for it.
    RAR = 8
    #: The earlier task's result is an argument of the later one; always together with RAW.
    VALUE = 16


class _Constant:
    """An object whose fields stay; with less to load than ``dataclass(frozen=True)``."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"A {type(self).__name__} cannot be changed: make another one with the {name} you want."
        )

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class CommunicationDomain(_Constant):
    """Which pairs of accesses to one channel must keep the order of the sequential program.

    Parameters
    ----------
    rar : bool, default False
        Read after read: two reads keep their order.
    raw : bool, default True
        Read after write: a read comes after the writes before it.
    war : bool, default True
        Write after read: a write comes after the reads before it.
    waw : bool, default True
        Write after write: two writes keep their order.  Without it, writes run in any order and
        none replaces another, as in an accumulation: a later read depends on *all* of them.

    Raises
    ------
    TypeError
        If an argument is not a ``bool``.
    """

    rar: bool
    raw: bool
    war: bool
    waw: bool

    def __init__(
        self, rar: bool = False, raw: bool = True, war: bool = True, waw: bool = True
    ) -> None:
        fields = {"rar": rar, "raw": raw, "war": war, "waw": waw}
        for name, value in fields.items():
            if not isinstance(value, bool):
                raise TypeError(
                    f"CommunicationDomain({name}=...) must be True or False, not {value!r}."
                )
        self.__dict__.update(fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CommunicationDomain):
            return NotImplemented
        return self.hazards == other.hazards

    def __hash__(self) -> int:
        return hash((self.rar, self.raw, self.war, self.waw))

    @property
    def hazards(self) -> Hazard:
        """The hazards that this domain orders."""
        chosen = Hazard(0)
        for hazard, ordered in (
            (Hazard.RAR, self.rar),
            (Hazard.RAW, self.raw),
            (Hazard.WAR, self.war),
            (Hazard.WAW, self.waw),
        ):
            if ordered:
                chosen |= hazard
        return chosen


class CommunicationObject(_Constant):
    """An object of the user's own through which tasks communicate, known by its identity.

    Parameters
    ----------
    domain : CommunicationDomain
        Which hazards order the accesses to one of its channels.
    identity : Hashable
        What tells this object from others.  Objects of equal domain and identity are one object.

    Raises
    ------
    TypeError
        If `domain` is not a `CommunicationDomain`, or `identity` is not hashable.

    Notes
    -----
    Channels are compared as ``dict`` keys are: ``1`` and ``1.0`` are one channel.

    Examples
    --------
    >>> board = CommunicationObject(CommunicationDomain(), "blackboard")
    >>> board == CommunicationObject(CommunicationDomain(), "blackboard")
    True
    >>> board == CommunicationObject(CommunicationDomain(waw=False), "blackboard")
    False
    """

    domain: CommunicationDomain
    identity: Hashable

    def __init__(self, domain: CommunicationDomain, identity: Hashable) -> None:
        if not isinstance(domain, CommunicationDomain):
            raise TypeError(
                "CommunicationObject(domain, identity): domain must be a CommunicationDomain, "
                f"not {domain!r}."
            )
        try:
            hash(identity)
        except TypeError:
            raise TypeError(
                "CommunicationObject(domain, identity): identity must be hashable, "
                f"and {identity!r} is not."
            ) from None
        self.__dict__.update(domain=domain, identity=identity)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CommunicationObject):
            return NotImplemented
        return (self.domain, self.identity) == (other.domain, other.identity)

    def __hash__(self) -> int:
        return hash((self.domain, self.identity))


class Communicates(Protocol):
    """An object that is its own kind of communication object, as a distributed dictionary is."""

    def communication_object(self) -> CommunicationObject:
        """Return the domain and identity that all copies of the object share."""

    def channel_key(self, channel: Hashable) -> Hashable:
        """Return the key that stands for `channel`: equal for equal channels, else different."""


AnyPath: TypeAlias = "os.PathLike[str] | os.PathLike[bytes]"
AccessTarget: TypeAlias = "AnyPath | CommunicationObject | Communicates"


class DataAccess:
    """One declared access of a task; made by `read` and `write`, which validate.

    Attributes
    ----------
    mode : Mode
        Whether the channels are read or written.
    obj : str or CommunicationObject
        The communication object; a ``str`` is the path of a file or directory as the user wrote it.
    channels : tuple of Hashable
        The channels; empty for the whole object.  Channels of a path are ``str``.

    Notes
    -----
    A million tasks hold two of these each: no ``__dict__``, and nothing that can be derived.
    """

    __slots__ = ("channels", "mode", "obj")

    def __init__(
        self, mode: Mode, obj: str | CommunicationObject, channels: tuple[Hashable, ...] = ()
    ) -> None:
        self.mode = mode
        self.obj = obj
        self.channels = channels

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DataAccess):
            return NotImplemented
        return (self.mode, self.obj, self.channels) == (other.mode, other.obj, other.channels)

    def __hash__(self) -> int:
        return hash((self.mode, self.obj, self.channels))

    def __repr__(self) -> str:
        inside = ", ".join(repr(part) for part in (self.obj, *self.channels))
        return f"{self.mode.name.lower()}({inside})"


def read(obj: AccessTarget, *channels: Hashable) -> DataAccess:
    """Declare that a task reads channels of a communication object; local.

    Parameters
    ----------
    obj : os.PathLike, CommunicationObject or Communicates
        The object.  A path is a directory, or a file given alone.
    *channels : Hashable
        What is read of it: for a directory, paths (or names) of files below it, relative to it; an
        absolute path stands for itself.  None at all means the whole object, every channel
        included.

    Returns
    -------
    DataAccess
        To be handed to a task.

    Raises
    ------
    TypeError
        If `obj` is of another kind, or a channel cannot be one.
    """
    return _access(Mode.READ, obj, channels)


def write(obj: AccessTarget, *channels: Hashable) -> DataAccess:
    """Declare that a task writes channels of a communication object; local.

    Parameters, result and errors are those of `read`.
    """
    return _access(Mode.WRITE, obj, channels)


def _access(mode: Mode, obj: AccessTarget, channels: tuple[Hashable, ...]) -> DataAccess:
    """Validate and translate the arguments of `read` and `write`."""
    # The usual classes first: isinstance() on an abstract base such as os.PathLike costs far more.
    if isinstance(obj, PurePath):
        return DataAccess(mode, str(obj), tuple([_file_name(c) for c in channels]))
    if isinstance(obj, CommunicationObject):
        for channel in channels:
            _require_hashable(channel, "channel")
        return DataAccess(mode, obj, channels)
    if isinstance(obj, os.PathLike):
        return DataAccess(mode, os.fsdecode(obj), tuple([_file_name(c) for c in channels]))
    if isinstance(obj, (str, bytes)):
        raise TypeError(
            f"A communication object cannot be the plain {type(obj).__name__} {obj!r}: "
            f"use pathlib.Path({os.fsdecode(obj)!r}) for a file or directory."
        )
    return _own_kind(mode, obj, channels)


def _own_kind(mode: Mode, obj: Communicates, channels: tuple[Hashable, ...]) -> DataAccess:
    """Make the access to an object that implements `Communicates`."""
    kind = type(obj)
    if isinstance(obj, type) or not (
        hasattr(kind, "communication_object") and hasattr(kind, "channel_key")
    ):
        raise TypeError(f"{obj!r} is not a communication object: {_ACCEPTED}.")
    translated = obj.communication_object()
    if not isinstance(translated, CommunicationObject):
        raise TypeError(
            f"{kind.__qualname__}.communication_object() must return a CommunicationObject, "
            f"not {translated!r}."
        )
    keys = tuple([obj.channel_key(channel) for channel in channels])
    for key in keys:
        _require_hashable(key, f"{kind.__qualname__}.channel_key() result")
    return DataAccess(mode, translated, keys)


def _file_name(channel: object) -> str:
    """Return a channel of a path as ``str``."""
    if isinstance(channel, (str, PurePath)):
        return str(channel)
    if isinstance(channel, os.PathLike):
        return os.fsdecode(channel)
    _require_hashable(channel, "channel")
    raise TypeError(
        f"A channel of a path must be a Path or str that names a file below it, not {channel!r}."
    )


def _require_hashable(value: object, what: str) -> None:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"The {what} {value!r} is not hashable: a {type(value).__name__} cannot be a channel; "
            "to name several channels pass them as separate arguments."
        ) from None
