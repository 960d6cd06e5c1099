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

#: The kinds of an access, and the reasons to refuse an access, with the numbers of
#: `cshim/owners.h`. The C part has more of each, which Python need not tell apart.
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
        """Say that this thread is leaving the domain, or that the departure is over.
        Meanwhile no other thread begins an access or takes a lock.
        """
        # SYNC leaver: pairs with isDeparting, under the lock of the interpreter.
        atomics.storeRelease64(self._first + _LEAVER_OFFSET, identity() if isOn else 0)

    def end(self) -> None:
        """Say that the process has left: it has no access and no lock any more."""
        # SYNC ended: pairs with isVoid. From here on the C part ignores every access
        # and lock of this process.
        atomics.storeRelease32(self._first, 1)
