"""The structures that the C part shares with Python, as `cshim/*.h` declares them.

Each object owns its resource: a descriptor, a mapping, or the descriptors of a message.
`atomics.py` binds the functions of C, and puts those that are methods into these
classes.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, TypeAlias

_U32, _U64, _I32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int


def _pointers(*names: str) -> tuple[tuple[str, type[ctypes.c_void_p]], ...]:
    """Fields that all are pointers."""
    return tuple((name, ctypes.c_void_p) for name in names)


class Interpreter(ctypes.Structure):
    """`struct mnnPython`."""

    _fields_ = _pointers(
        "call",
        "keep",
        "drop",
        "number",
        "valueOf",
        "fetch",
        "restore",
        "item",
        "none",
        "true",
        "false",
        "names",
        "identName",
        "plainIdent",
        "release",
        "resume",
    )


class AccessCalls(ctypes.Structure):
    """`struct mnnCalls`."""

    _fields_ = _pointers(
        "python",
        "attach",
        "deadline",
        "await_",
        "awaitOthers",
        "end",
        "linger",
        "refuse",
    )


class AccessScope(ctypes.Structure):
    """`struct mnnAccessScope`: Python sets some fields when the access begins, and the
    C part keeps its state in the others. The subclasses are in `sync`.
    """

    _fields_ = (
        ("_owner", ctypes.c_void_p),
        ("_calls", ctypes.c_void_p),
        ("_object", ctypes.c_void_p),
        ("_given", ctypes.c_void_p),
        ("_next", ctypes.c_void_p),
        ("_begun", _U64),
        ("_thread", _U64),
        ("_identity", _U64),
        ("_state", _U32),
        ("_kind", _U32),
        ("_isTimed", _U32),
        ("_recovered", _U32),
        ("_isThreads", _U32),
        ("_unused", _U32),
        ("_shownIn", ctypes.c_void_p),
    )

    def showIn(self, lock: AccessScope) -> None:
        """This object is one use of `lock`: `lock` says from now on whether it was
        taken over from a dead owner. `lock` must live as long as this object.
        """
        self._shownIn = ctypes.addressof(lock)

    # ctypes structures have no hash, because their values can change. Here the object's
    # identity counts, and it does not change.
    __hash__ = object.__hash__


class LaneCalls(ctypes.Structure):
    """`struct mnnLane`: the driver's functions for copies between two GPUs, the contexts
    of the two, and the stream.
    """

    _fields_ = _pointers(
        "push",
        "pop",
        "exchangeCaptureMode",
        "copy",
        "synchronize",
        "sourceContext",
        "targetContext",
        "stream",
    )


class Holds(ctypes.Structure):
    """`struct mnnHolds`: where leases are, and what those on one buffer have."""

    _fields_ = (
        ("block", ctypes.c_void_p),
        ("areasOffset", _U64),
        ("areaBytes", _U64),
        ("maxMembers", ctypes.c_uint32),
        ("maxLeases", ctypes.c_uint32),
        ("mask", _U64),
        ("value", _U64),
    )


class Standing(ctypes.Structure):
    """`struct mnnStanding`: an open buffer as it was found, and until when it can be used
    without a look at anything else.
    """

    _fields_ = (
        ("lease", ctypes.c_void_p),
        ("fences", ctypes.c_void_p),
        ("leaseWord", _U64),
        ("untilNs", ctypes.c_int64),
        ("holds", Holds),
    )


class RepeatedCopy(ctypes.Structure):
    """`struct mnnRepeat`: a copy that can be made again in one call."""

    _fields_ = (
        ("lane", ctypes.c_void_p),
        ("sending", ctypes.c_void_p),
        ("receiving", ctypes.c_void_p),
        ("source", Standing),
        ("target", Standing),
        ("sourceAddress", _U64),
        ("targetAddress", _U64),
        ("sizeBytes", _U64),
        ("fail", ctypes.c_void_p),
        ("isSpent", _U64),
    )
    if TYPE_CHECKING:

        def copy(self) -> int | None:
            """Copy; returns the generation that was published, or None if the caller has
            to take the long way.
            """


class Extent(ctypes.Structure):
    """`struct mnnExtent`: bytes of this process that are copied into shared memory, and
    the offset to which they go.
    """

    _fields_ = (("offset", _U64), ("address", _U64), ("sizeBytes", _U64))
    offset: int
    address: int
    sizeBytes: int


#: Several of them, one behind the other, as the C part takes them.
Extents: TypeAlias = "ctypes.Array[Extent]"


class MappedRange(ctypes.Structure):
    """`struct mnnMappedRange`: where memory is mapped; no address: nowhere."""

    _fields_ = (("address", ctypes.c_void_p), ("sizeBytes", _U64))
    address: int | None
    sizeBytes: int


class OwnedRange(MappedRange):
    """A mapped range that the object owns: its end unmaps the range, in one call of C."""


class Known(ctypes.Structure):
    """`struct mnnDescriptor`: the number of a descriptor, and the file that it led to
    at first. Another object owns the descriptor and closes it.

    Attributes
    ----------
    number
        The number under which the descriptor is open. Below 0: it was closed, or the
        number is the `-errno` of the opening.
    inode
        The inode of the file, on its device.
    """

    _fields_ = (("number", _I32), ("_mark", _I32), ("device", _U64), ("inode", _U64))
    number: int
    _mark: int
    device: int
    inode: int
    if TYPE_CHECKING:

        def isOurs(self) -> bool:
            """Whether the number still leads to the same file. It does not if the
            program has closed it, or has opened another file under it.
            """

        def close(self) -> None:
            """Close the number if it still leads to the same file. A second call does
            nothing.
            """

        def fileno(self) -> int: ...

        __index__ = fileno

        def release(self) -> int:
            """Return the number, which the caller closes from now on."""

    __hash__ = object.__hash__

    def parts(self) -> tuple[int, ...]:
        """The values of the fields."""
        return self.number, self._mark, self.device, self.inode

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` if it leads to another file
        by now.
        """
        if not self.isOurs():
            raise closedByProgram(self.number)
        return self.number


def closedByProgram(number: int) -> OSError:
    """The error for a number of ours that leads to another file by now."""
    return OSError(
        errno.EBADF,
        f"descriptor {number} was closed by the program, and perhaps opened again for "
        "something else",
    )


class Descriptor(Known):
    """A descriptor that the object owns: its end closes it. A call that opens returns
    such an object in the same step, so no exception comes before the number has an
    owner.
    """


class Received(ctypes.Structure):
    """`struct mnnReceived`: the descriptors that came with a message. The end of the
    object closes those that were not taken.
    """

    _fields_ = (("count", _U32), ("flags", _I32), ("_numbers", _I32 * 253))
    count: int
    flags: int
    if TYPE_CHECKING:

        def take(self, index: int) -> Descriptor:
            """One of the descriptors, which the caller owns from now on."""
