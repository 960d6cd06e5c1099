"""The leases of this process: which of its member's lease slots are taken, and which
Python object keeps each.

The words are in shared memory (`control/leases.py`), and this process alone fills them.
This module's own state is private: the owner of each slot, and the memory that is to be
unmapped once no object keeps a lease. A crash loses it; the words are enough for the
broker to reclaim the leases.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.leases import OWNER_DIED, reasonName
from muninn.control.members import MemberKey, MemberTable
from muninn.errors import TableFull
from muninn.system import atomics
from muninn.system.clock import monotonicMs

_REASON_SHIFT, _REASON_MASK = layout.LEASE_REASON.shift, layout.LEASE_REASON.top
_GENERATION_SHIFT, _GENERATION_MASK = layout.LEASE_GENERATION.shift, layout.LEASE_GENERATION.top
_INCARNATION_SHIFT = layout.LEASE_INCARNATION.shift
_READING, _EXPIRY_MASK = layout.LEASE_READING.mask, layout.LEASE_EXPIRY.mask


class Lease:
    """An object that keeps it keeps a slot. When no object does any more, its tenure is
    in `LeaseTable.gone`.
    """

    __slots__ = ("__weakref__", "tenure")
    tenure: Tenure


class Tenure(weakref.ref[Lease]):
    """One use of a slot, from its taking to its end, with the memory that is to be
    unmapped once no object keeps its `Lease`.

    It exists, and the table knows it as the owner of the slot, before the slot is
    taken. So if a signal handler raises between two steps of taking a slot, the lease
    ends, and with it the tenure.

    Attributes
    ----------
    source, mapped
        The memory that the lease covers, and its registration for kernels, if there is
        one.
    isTold
        Whether the broker must be told of the end: the row may end with this lease.
    isClosing, isClosed
        How far the memory's end has come.
    """

    __slots__ = (
        "incarnation",
        "index",
        "isBorrowed",
        "isClosed",
        "isClosing",
        "isTold",
        "mapped",
        "row",
        "source",
        "waker",
    )
    row: int
    incarnation: int
    index: int
    source: Any
    mapped: list[Any]
    isTold: bool
    isBorrowed: bool
    isClosing: bool
    isClosed: bool
    #: Another reference to the lease, whose callback comes after this one's.
    waker: object


class LeaseIndex(int):
    """The number of a slot. The slot stays taken while an object keeps `lease`, or
    until `LeaseTable.release` is called.
    """

    lease: Lease


class LeaseTable:
    """The lease slots of this member.

    `_owners` says which slots are taken. Each change of it is one step, for threads and
    for handlers that interrupt them; `_free` is a hint. From `_claim` to `forget` only
    its owner uses a slot.
    """

    def __init__(self, block: ControlBlock, members: MemberTable, key: MemberKey) -> None:
        self._first = block.areaAddress(key.slot)
        self._highAddress = block.memberAddress(key.slot) + layout.MEMBER_LEASE_HIGH_OFFSET
        self._generationField = (key.generation & _GENERATION_MASK) << _GENERATION_SHIFT
        self._max = block.geometry.maxLeases
        self._owners: dict[int, Tenure] = {}
        self._fresh = itertools.count()
        self._free: list[int] = []
        #: Tenures whose leases are gone. The interpreter puts them here in one step
        #: when the last reference to a lease is dropped.
        self.gone: deque[Tenure] = deque()
        #: Called after a tenure was put there.
        self.onGone: Callable[[object], object] | None = None

    def take(self, row: int, incarnation: int, ttlMs: int) -> LeaseIndex:
        """Put (row, incarnation) into a free slot. The caller reads the row's state
        *afterwards*. Raises `TableFull`.
        """
        lease = Lease()
        # The callbacks of one object are called in reverse order of their creation.
        waker = weakref.ref(lease, self.onGone)
        tenure = Tenure(lease, self.gone.append)  # which is called with the tenure itself
        lease.tenure = tenure
        tenure.index, tenure.row, tenure.incarnation, tenure.waker = -1, row, incarnation, waker
        tenure.source, tenure.mapped = None, []
        tenure.isTold, tenure.isBorrowed, tenure.isClosing, tenure.isClosed = (
            True,
            False,
            False,
            False,
        )
        index = self._claim(tenure)
        while (high := int(atomics.loadAcquire32(self._highAddress))) <= index:
            # SYNC leaseHigh: pairs with MemberReader.leaseHigh; raised before the slot
            # is used, in one total order with it.
            atomics.casSeqCst32(self._highAddress, high, index + 1)
        address, word = self.held(index, row, incarnation)
        atomics.storeRelease64(address + layout.LEASE_EXPIRY_OFFSET, monotonicMs() + ttlMs)
        # SYNC lease: pairs with Directory.tryReclaim. Lease first and row second here,
        # row first and leases second there.
        atomics.exchangeSeqCst64(address, word)
        taken = LeaseIndex(index)
        taken.lease = lease
        return taken

    def _claim(self, tenure: Tenure) -> int:
        """Take a free slot for this tenure."""
        for isLastTry in (False, True):
            while (index := self._free.pop() if self._free else next(self._fresh)) < self._max:
                tenure.index = index
                if self._owners.setdefault(index, tenure) is tenure:
                    return index
            if not isLastTry:
                # A thread that was interrupted after it took a number from the list has
                # not put it back.
                self._free += [index for index in range(self._max) if index not in self._owners]
        raise TableFull(
            f"this process holds {self._max} leases, all that it may",
            "Close buffers, use bundles, or raise control.maxLeases",
        )

    def tenures(self) -> list[Tenure]:
        """The tenures of all slots that are taken."""
        return list(self._owners.values())

    def isOwner(self, tenure: Tenure) -> bool:
        """Whether its slot is still this tenure's."""
        return self._owners.get(tenure.index) is tenure

    def held(self, index: int, row: int, incarnation: int) -> tuple[int, int]:
        """(address, word) of a slot that holds (row, incarnation) and was not revoked."""
        word = incarnation << _INCARNATION_SHIFT | self._generationField | (row + 1)
        return self._first + index * layout.LEASE_BYTES, word

    def giveBack(self, index: int) -> None:
        """Give the slot back."""
        self.release(index)
        self.forget(index)

    def release(self, index: int) -> None:
        """End the lease in the slot, which still belongs to its owner. A repeated call
        does nothing.

        If the slot belongs to another member by now, it is not changed: this process
        has left, or has lost its slot.
        """
        address = self._first + index * layout.LEASE_BYTES
        word = atomics.loadAcquire64(address)
        # SYNC release: pairs with scanHolds. The holder has used the memory for the
        # last time before this store. The broker may revoke it meanwhile, once.
        while word & _GENERATION_MASK << _GENERATION_SHIFT == self._generationField:
            found = atomics.casSeqCst64(address, word, 0)
            if found == word:
                break
            word = found

    def forget(self, index: int) -> None:
        """Let the slot be taken again."""
        self._owners.pop(index, None)
        self._free.append(int(index))

    def renew(self, index: int, ttlMs: int) -> int:
        """Move the expiry `ttlMs` from now; returns it."""
        expiryMs = monotonicMs() + ttlMs
        self._changeExpiry(index, _READING, expiryMs)
        return expiryMs

    def _changeExpiry(self, index: int, kept: int, changed: int) -> None:
        address = self._first + index * layout.LEASE_BYTES + layout.LEASE_EXPIRY_OFFSET
        # Bounded: only threads of this process change it; the C part sets and clears
        # the reading bit meanwhile. SYNC expiry: pairs with LeaseTable.expiryMs.
        while (
            atomics.casSeqCst64(
                address, word := int(atomics.loadAcquire64(address)), word & kept | changed
            )
            != word
        ):
            pass

    def expiryMs(self, index: int) -> int:
        # SYNC expiry: pairs with LeaseTable._changeExpiry. An older expiry costs an
        # early or a late refusal by this process itself.
        return (
            int(
                atomics.loadAcquire64(
                    self._first + index * layout.LEASE_BYTES + layout.LEASE_EXPIRY_OFFSET
                )
            )
            & _EXPIRY_MASK
        )

    def takeAgain(self, index: int, row: int, incarnation: int) -> None:
        """Put the lease of a slot in force again if it was revoked. Memory that went with
        its owner stays lost.
        """
        address, word = self.held(index, row, incarnation)
        found = int(atomics.loadAcquire64(address))
        isRevoked = found & ~(_REASON_MASK << _REASON_SHIFT) == word != found
        if isRevoked and self.revocation(index) != OWNER_DIED:
            # SYNC revoke: pairs with revoke. The slot held the row all the time. If the
            # lease is revoked once more meanwhile, the next operation says so.
            atomics.casSeqCst64(address, found, word)

    def revocation(self, index: int) -> str:
        """Why the broker revoked the lease, or an empty string."""
        # SYNC revoke: pairs with revoke. An older word costs one more operation of this
        # process.
        reason = (
            atomics.loadAcquire64(self._first + index * layout.LEASE_BYTES) >> _REASON_SHIFT
            & _REASON_MASK
        )
        return reasonName(reason) if reason else ""
