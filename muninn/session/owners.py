"""Owners: this process's part of the owner locks in shared memory. This is the Python
side of `cshim/owners.h`, which says why the other side is C.

The owners are private memory, one for each row and membership, which reads zero in a
forked child. Only the C part changes an owner, in one call together with the shared
word that belongs to it. The C part calls back the methods that `callsOf` names.
"""

from __future__ import annotations

import weakref

from muninn.system import atomics
from muninn.system.green import identity

_OWNER_BYTES = 128
_LEAVER_OFFSET = 8

#: What an access is, and why one is refused, as `cshim/owners.h` numbers both; it has
#: more of each, which only the C part tells apart.
KIND_HOST, KIND_STREAM = 1, 2
REFUSED_WRITING, REFUSED_OTHER_THREAD, REFUSED_VOID = 1, 4, 5


def callsOf(kind: type[atomics.AccessScope]) -> int:
    """The methods of a class of accesses that the C part calls, by the address of their
    table.
    """
    names = ("_attach", "_deadlineOf", "_await", "_awaitOthers", "_end", "_linger", "_refuse")
    return atomics.callsOf(getattr(kind, name, None) for name in names)


class Owners:
    """All owners of one membership."""

    def __init__(self, rows: int) -> None:
        sizeBytes = (rows + 1) * _OWNER_BYTES
        self._first = atomics.mappedWipedOnFork(sizeBytes)
        # A thread that is inside an access, or holds a lock, keeps an open buffer, and
        # that keeps this object.
        weakref.finalize(self, atomics.unmap, self._first, sizeBytes).atexit = False

    def bind(
        self,
        row: int,
        incarnation: int,
        rowAddress: int,
        expiryAddress: int,
        openBuffer: object,
        ownerLockWord: int,
    ) -> int:
        """The address of this process's owner of a row."""
        address = self._first + (row + 1) * _OWNER_BYTES
        atomics.ownerBind(
            address,
            self._first,
            rowAddress,
            expiryAddress,
            id(openBuffer),
            ownerLockWord,
            incarnation,
        )
        return address

    def depart(self, isOn: bool) -> None:
        """Nobody but this thread begins anything, until it is said that the departure
        is over.
        """
        # SYNC leaver: pairs with isDeparting, under the lock of the interpreter.
        atomics.storeRelease64(self._first + _LEAVER_OFFSET, identity() if isOn else 0)

    def end(self) -> None:
        """The process has left: nothing is ours any more."""
        # SYNC ended: pairs with isVoid. From here on no access and no lock of this
        # process is its own.
        atomics.storeRelease32(self._first, 1)
