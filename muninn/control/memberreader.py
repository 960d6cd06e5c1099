"""Reading the member slots: which processes are in the domain, and whether they live.

A death is known in two steps. A member is *suspected dead* when the kernel has marked
its slot's robust word, 0.1 ms after the member's background thread has ended. That is
enough to elect another broker, because the epoch fences the old one. A member is
*confirmed dead* when its slot's byte lock is free and its process is gone: the pidfd is
readable or, after an `exec`, the robust word is marked and the process maps nothing of
the member any more (`image.py`). Only then may another process reclaim the member's
leases, locks and memory, since no code of the member writes any more.

No process asks `kill(pid, 0)`: it succeeds on zombies, and on a stranger that got the
number. A stale read of a state costs one more look: each reclaiming step compares the
slot's generation.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.memberidentity import IDENTITY_BYTES, IDENTITY_OFFSET, MemberIdentity
from muninn.system import atomics, image
from muninn.system.processes import ownPidNamespace, pidOf, processIsGone

_STATE_MASK, _GENERATION_SHIFT = layout.MEMBER_STATE.mask, layout.MEMBER_GENERATION.shift
_FUTEX_OWNER_DIED = layout.ROBUST_OWNER_DIED.mask
#: The bits of a generation that an owner lock has room for.
OWNER_LOCK_GENERATION_MASK = layout.OWNER_GENERATION.top


class MemberKey(NamedTuple):
    """Identifies one member for ever: a slot, and the generation of its claim."""

    slot: int
    generation: int


class MemberReader:
    """All member slots of a control block, for reading."""

    def __init__(self, block: ControlBlock) -> None:
        self._block = block
        self._nonce = 0
        self.count = block.geometry.maxMembers

    # --- reading ---------------------------------------------------------------------

    def state(self, slot: int) -> tuple[int, int]:
        """(state, generation) of a slot."""
        word = atomics.loadSeqCst64(self._block.memberAddress(slot))
        return word & _STATE_MASK, word >> _GENERATION_SHIFT

    def isCurrent(self, key: MemberKey) -> bool:
        """Whether the slot still belongs to that member."""
        # SYNC dead: pairs with MemberTable.markDead. An older state costs a question to
        # a member that is gone.
        return self.state(key.slot) == (layout.MEMBER_LIVE, key.generation)

    def occupied(self) -> list[int]:
        """The slots that are not FREE."""
        first, stride, indices = (
            self._block.memberAddress(0),
            layout.MEMBER_BYTES,
            atomics.indexBuffer(self.count),
        )
        slots = set[int]()
        # In the order in which a slot goes through them, so that the scan does not miss
        # a slot that changes meanwhile.
        for state in (layout.MEMBER_CLAIMING, layout.MEMBER_LIVE, layout.MEMBER_DEAD):
            slots.update(
                indices[
                    : atomics.scan64(
                        first, stride, self.count, _STATE_MASK, state, indices, self.count
                    )
                ]
            )
        return sorted(slots)

    def live(self) -> list[MemberKey]:
        """The members that are LIVE. Dead processes that no broker has reclaimed are
        among them.
        """
        states = ((slot, *self.state(slot)) for slot in self.occupied())
        return [
            MemberKey(slot, generation)
            for slot, state, generation in states
            if state == layout.MEMBER_LIVE
        ]

    def there(self) -> list[MemberKey]:
        """The members that are LIVE, and whose process is not confirmed dead."""
        return [key for key in self.live() if not self.isConfirmedDead(key)]

    def isThere(self, slot: int) -> bool:
        """Whether a living process has the slot. Otherwise the slot may hold the words
        of a dead member, which are still to be reclaimed.
        """
        return not self.isConfirmedDead(MemberKey(slot, self.state(slot)[1]))

    def identity(self, slot: int) -> MemberIdentity:
        # SYNC enter: pairs with MemberTable.enter. A caller that has read LIVE, of the
        # same generation before and after, reads a whole identity.
        start = layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES + IDENTITY_OFFSET
        return MemberIdentity.unpacked(self._block.bytes[start : start + IDENTITY_BYTES])

    def program(self, slot: int) -> str:
        start = layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES + layout.MEMBER_PROGRAM_OFFSET
        raw = bytes(self._block.bytes[start : start + layout.MEMBER_PROGRAM_BYTES])
        return raw.rstrip(b"\0").decode(errors="replace")

    def timeNamespace(self, slot: int) -> int:
        """The inode of the time namespace by whose clock the member counts; 0: its
        times mean nothing to others.
        """
        start = (
            layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES + layout.MEMBER_TIME_NAMESPACE_OFFSET
        )
        return int.from_bytes(self._block.bytes[start : start + 8], "little")

    def leaseHigh(self, slot: int) -> int:
        """How many lease slots of the member's area were ever used."""
        # SYNC leaseHigh: pairs with LeaseTable.take and MemberTable._prepare. Each
        # lease that was taken before is below this value, in one total order with the
        # row's state.
        word = atomics.loadSeqCst32(
            self._block.memberAddress(slot) + layout.MEMBER_LEASE_HIGH_OFFSET
        )
        return min(int(word), self._block.geometry.maxLeases)

    def robustAddress(self, slot: int) -> int:
        return self._block.memberAddress(slot) + layout.MEMBER_ROBUST_OFFSET

    # --- death -----------------------------------------------------------------------

    def isSuspectedDead(self, key: MemberKey) -> bool:
        """Whether the kernel has marked the member's robust word, or the slot is no
        longer its own.
        """
        # SYNC robust: pairs with Worker.enter, and with the kernel, which marks the
        # word when the thread that holds it ends.
        word = atomics.loadAcquire32(self.robustAddress(key.slot))
        return not self.isCurrent(key) or word == 0 or bool(word & _FUTEX_OWNER_DIED)

    def isMarked(self, slot: int) -> bool:
        """Whether the kernel has marked the robust word: the thread that held it has
        ended.
        """
        return bool(atomics.loadAcquire32(self.robustAddress(slot)) & _FUTEX_OWNER_DIED)

    def isOwnerDead(self, slot: int, generationBits: int, own: MemberKey) -> bool:
        """Whether an owner lock's owner (slot, low bits of its generation) is confirmed
        dead: never `own`.
        """
        state, generation = self.state(slot)
        if generation & OWNER_LOCK_GENERATION_MASK != generationBits:
            return True
        key = MemberKey(slot, generation)
        return key != own and (state == layout.MEMBER_FREE or self.isConfirmedDead(key))

    def isConfirmedDead(self, key: MemberKey, pidfd: int | None = None) -> bool:
        """Whether no code of the member runs or writes any more: its byte lock is free
        *and* its process is gone, or runs another program.

        Parameters
        ----------
        pidfd
            A pidfd that the member has sent. Without it a pidfd is opened by pid, which
            works within one PID namespace.
        """
        # SYNC claiming: pairs with MemberTable.claim. The state is read first and the
        # byte second, so a slot that says CLAIMING and has a free byte is a dead claim.
        state, generation = self.state(key.slot)
        if generation != key.generation or state == layout.MEMBER_FREE:
            return True
        identity = self.identity(key.slot)
        if identity.nonce == self._nonce or self._block.lockFile.slotIsLocked(key.slot):
            return False
        if state == layout.MEMBER_CLAIMING:
            # The byte is locked before CLAIMING is stored, so a free byte alone shows
            # that the claiming process has died.
            return True
        isNear = identity.pidNamespace == ownPidNamespace()
        if pidfd is None and not isNear:
            # Its pid means nothing here, and it has sent no pidfd to this process. So
            # its byte lock and its robust word decide.
            return self.isMarked(key.slot)
        if (
            processIsGone(identity.pid, identity.startTime)
            if pidfd is None
            else atomics.pidfdDead(pidfd) == 1
        ):
            return True
        # An exec ends the other threads, then unmaps, then closes the lock file. A
        # thread that ended by itself leaves the byte locked.
        pid = identity.pid if isNear else pidOf(pidfd or -1)
        return self.isMarked(key.slot) and (
            not pid or pid < 0 or image.isReplaced(pid, identity.nonce)
        )

    def predecessors(self, key: MemberKey) -> list[MemberKey]:
        """The members that ran in the process of `key` before it, until an exec. They
        are confirmed dead, and not reclaimed yet.
        """
        own = self.identity(key.slot)
        found = [
            other
            for other in self.live()
            if other != key and self.identity(other.slot).process == own.process
        ]
        return [other for other in found if self.isConfirmedDead(other)]

    def anyEnded(self) -> bool:
        """Whether the byte of some slot that is not FREE is free: its member has ended,
        or is about to end.
        """
        return any(not self._block.lockFile.slotIsLocked(slot) for slot in self.occupied())

    def isPidOf(self, pid: int, key: MemberKey) -> bool:
        """Whether `pid`, which a pidfd gave, is that of the process in the slot, as far
        as this PID namespace can tell.
        """
        identity = self.identity(key.slot)
        return identity.pidNamespace != ownPidNamespace() or pid == identity.pid

    def othersAlive(self, own: MemberKey) -> list[MemberKey]:
        """The members that are not suspected dead, without `own`."""
        return [key for key in self.live() if key != own and not self.isSuspectedDead(key)]

    def inhabitant(self) -> int:
        """The pid of a member that is not confirmed dead, whether or not its byte is
        locked; 0: there is none.
        """
        return next(
            (self.identity(key.slot).pid for key in self.live() if not self.isConfirmedDead(key)), 0
        )

    def preferredOther(self, own: MemberKey) -> int | None:
        """The slot of another member that stays, or None. A leaving broker names it as
        its successor, and other members give it a head start in an election.
        """
        slots = (key.slot for key in self.othersAlive(own))
        return next(
            (slot for slot in slots if self.identity(slot).flags & layout.MEMBER_FLAG_PREFERRED),
            None,
        )

    def answering(self) -> list[int]:
        """The slots of the members that can answer at the endpoint of the domain, and
        are not suspected dead.
        """
        # SYNC answers: pairs with MemberTable.tellAnswers. An older flag costs a moment
        # more before another member answers.
        return [
            key.slot
            for key in self.live()
            if atomics.loadAcquire32(
                self._block.memberAddress(key.slot) + layout.MEMBER_FLAGS_OFFSET
            )
            & layout.MEMBER_FLAG_ANSWERS
            and not self.isSuspectedDead(key)
        ]

    def spareDescriptors(self, slot: int) -> int:
        """How many descriptors the member could spend as broker, by its last
        measurement.
        """
        # SYNC spare: pairs with MemberTable.tellSpareDescriptors. An older number costs
        # a handover to a member that hands over again.
        return int(
            atomics.loadAcquire32(self._block.memberAddress(slot) + layout.MEMBER_SPARE_OFFSET)
        )
