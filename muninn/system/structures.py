"""The structures that the C part shares with Python, as `cshim/*.h` declares them.

Their objects own what they name: a descriptor, a mapping, the descriptors of a message.
The methods of C are put into the classes by `atomics.py`, which binds the functions.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

_U32, _U64, _I32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int


class AccessScope(ctypes.Structure):
    """`struct mnnAccessScope`: what Python sets of it when it begins, and what the C
    part keeps in it. Its classes are in `api`.
    """

    _fields_ = (
        ("_owner", ctypes.c_void_p),
        ("_calls", ctypes.c_void_p),
        ("_object", ctypes.c_void_p),
        ("_given", ctypes.c_void_p),
        ("_next", ctypes.c_void_p),
        ("_begun", _U64),
        ("_thread", _U64),
        ("_who", _U64),
        ("_state", _U32),
        ("_kind", _U32),
        ("_isTimed", _U32),
        ("_recovered", _U32),
        ("_isThreads", _U32),
        ("_unused", _U32),
        ("_shownIn", ctypes.c_void_p),
    )

    def showIn(self, lock: AccessScope) -> None:
        """Let `lock`, of which this is one use, say whether it was taken over from the
        dead. It has to live as long.
        """
        self._shownIn = ctypes.addressof(lock)

    # A structure has no hash of its own, since most can change: this is a place in
    # memory, and the object is one.
    __hash__ = object.__hash__


class MappedPlace(ctypes.Structure):
    """`struct mnnAddressCell`: where something is mapped, if it is."""

    _fields_ = (("address", ctypes.c_void_p), ("sizeBytes", _U64))
    address: int | None
    sizeBytes: int


class AddressCell(MappedPlace):
    """The same of something that goes with the object, whose end unmaps it in one call
    of C.
    """


class Known(ctypes.Structure):
    """`struct mnnDescriptor`: a descriptor, and what it was when it was looked at. It
    is another owner's to close.

    Attributes
    ----------
    number
        Under which it is open; below 0: it was closed, or an error if it could not be
        opened.
    inode
        Which file it is, on its device.
    """

    _fields_ = (("number", _I32), ("_mark", _I32), ("device", _U64), ("inode", _U64))
    number: int
    _mark: int
    device: int
    inode: int
    if TYPE_CHECKING:

        def isOurs(self) -> bool:
            """Whether the number still is what it was. One that was closed and opened
            again by another owner is not.
            """

        def close(self) -> None:
            """Close it, if it still is what it was; again is fine."""

        def fileno(self) -> int: ...

        __index__ = fileno

        def release(self) -> int:
            """The number, which is the caller's to close from now on."""

    __hash__ = object.__hash__

    def parts(self) -> tuple[int, ...]:
        """What it is made of."""
        return self.number, self._mark, self.device, self.inode

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` when it is another file's
        by now.
        """
        if not self.isOurs():
            raise closedByProgram(self.number)
        return self.number


def closedByProgram(number: int) -> OSError:
    """The error for a descriptor of ours that is another file's by now."""
    return OSError(
        errno.EBADF,
        f"descriptor {number} was closed by the program, and perhaps opened again for "
        "something else",
    )


class Descriptor(Known):
    """A descriptor that goes with the object. What opens returns one in the same step,
    so no exception comes before it has an owner.
    """


class Received(ctypes.Structure):
    """`struct mnnReceived`: the descriptors that came with a message. Those that nobody
    takes go with the object.
    """

    _fields_ = (("count", _U32), ("flags", _I32), ("_numbers", _I32 * 253))
    count: int
    flags: int
    if TYPE_CHECKING:

        def take(self, index: int) -> Descriptor:
            """One of them, the caller's."""
