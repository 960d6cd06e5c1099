"""Member slots: who is in the domain, and whether it is still alive.

A process claims one slot and writes its identity there. Two things are kept apart.
*Noticing* a death: the kernel marks the slot's robust word 0.1 ms after the member's
background thread has ended, which is enough to elect another broker, because epochs
fence the old one. *Proving* it: the slot's byte lock is free, and the process's pidfd
is readable or, after an `exec`, the robust word is marked and the process maps nothing
of the member any more (`image.py`); only then may what the member held be reclaimed.
`kill(pid, 0)` is never asked, since it succeeds on zombies and on strangers that got
the number.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.memberidentity import IDENTITY_BYTES, IDENTITY_OFFSET, MemberIdentity
from muninn.control.transitions import requireMember
from muninn.errors import DomainChanged, TableFull
from muninn.system import atomics, clock, image
from muninn.system.clock import monotonicMs
from muninn.system.processes import ownPidNamespace, pidOf, processIsGone, programName, startTimeOf

_STATE_MASK, _GENERATION_SHIFT, _GENERATION_MASK = (
    layout.MEMBER_STATE.mask,
    layout.MEMBER_GENERATION.shift,
    layout.MEMBER_GENERATION.top,
)
_FUTEX_OWNER_DIED = layout.ROBUST_OWNER_DIED.mask
#: How much of a full table an error has room for.
_PROGRAMS_SHOWN, _PIDS_SHOWN = 4, 6
#: The bits of a generation that an owner lock has room for.
OWNER_LOCK_GENERATION_MASK = layout.OWNER_GENERATION.top


class MemberKey(NamedTuple):
    """One member for ever: a slot and the generation of its owner lock."""

    slot: int
    generation: int


class MemberTable:
    """All member slots of a control block."""

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
        """Whether the slot still belongs to that owner lock."""
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
        # In the order in which an owner lock goes through them, so one that changes
        # meanwhile is not missed.
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
        """The claims that are LIVE, dead processes that nobody has reclaimed among
        them.
        """
        states = ((slot, *self.state(slot)) for slot in self.occupied())
        return [
            MemberKey(slot, generation)
            for slot, state, generation in states
            if state == layout.MEMBER_LIVE
        ]

    def there(self) -> list[MemberKey]:
        """The claims that are LIVE, and whose process is not confirmed dead."""
        return [key for key in self.live() if not self.isConfirmedDead(key)]

    def isThere(self, slot: int) -> bool:
        """Whether a process that lives has the slot; what another left in it is still
        to be taken back.
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
        """The inode of the time namespace that the member counts by; 0: its times mean
        nothing to others.
        """
        start = (
            layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES + layout.MEMBER_TIME_NAMESPACE_OFFSET
        )
        return int.from_bytes(self._block.bytes[start : start + 8], "little")

    def leaseHigh(self, slot: int) -> int:
        """How many lease slots of the member's area were ever used."""
        # SYNC leaseHigh: pairs with LeaseTable.take and MemberTable._prepare. A lease
        # that is taken is below what this reads, in one total order with the row.
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
        """Whether nothing of the member runs or writes any more: its byte lock is free
        *and* its process is gone, or runs another program.

        Parameters
        ----------
        pidfd
            A descriptor that the member gave of itself; without it one is opened by
            pid, which works within one PID namespace.
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
            # the byte is locked before CLAIMING is stored, so a free byte is all there
            # is to know of a claimer
            return True
        isNear = identity.pidNamespace == ownPidNamespace()
        if pidfd is None and not isNear:
            # Its pid means nothing here and it gave no pidfd to this process: its byte
            # lock and its robust word must do.
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
        """The claims of programs that ran in the process of `key` before it, until an
        exec: confirmed dead, and not taken back yet.
        """
        own = self.identity(key.slot)
        found = [
            other
            for other in self.live()
            if other != key and self.identity(other.slot).process == own.process
        ]
        return [other for other in found if self.isConfirmedDead(other)]

    def anyEnded(self) -> bool:
        """Whether some slot is taken, and its byte free: its member has ended, or is
        about to.
        """
        return any(not self._block.lockFile.slotIsLocked(slot) for slot in self.occupied())

    def isPidOf(self, pid: int, key: MemberKey) -> bool:
        """Whether a pid, as a pidfd tells it, is that of the process that the slot
        names (as far as this PID namespace can tell).
        """
        identity = self.identity(key.slot)
        return identity.pidNamespace != ownPidNamespace() or pid == identity.pid

    def othersAlive(self, own: MemberKey) -> list[MemberKey]:
        """The members but for `own` that nobody has noticed to be dead."""
        return [key for key in self.live() if key != own and not self.isSuspectedDead(key)]

    def inhabitant(self) -> int:
        """The pid of a member that is not confirmed dead, its byte locked or not; 0:
        there is none.
        """
        return next(
            (self.identity(key.slot).pid for key in self.live() if not self.isConfirmedDead(key)), 0
        )

    def preferredOther(self, own: MemberKey) -> int | None:
        """The slot of another member that stays: whom a leaving broker names, and whom
        others let go first; None when there is none.
        """
        slots = (key.slot for key in self.othersAlive(own))
        return next(
            (slot for slot in slots if self.identity(slot).flags & layout.MEMBER_FLAG_PREFERRED),
            None,
        )

    def spareDescriptors(self, slot: int) -> int:
        """How many descriptors the member could spend as broker, as it measured last."""
        # SYNC spare: pairs with MemberTable.tellSpareDescriptors. An older number costs
        # a handover to a member that hands over again.
        return int(
            atomics.loadAcquire32(self._block.memberAddress(slot) + layout.MEMBER_SPARE_OFFSET)
        )

    # --- one's own slot --------------------------------------------------------------

    def claim(self, preferred: bool) -> MemberKey:
        """Claim a free slot for this process; it is CLAIMING until `enter`. Raises
        `TableFull`.
        """
        lockFile = self._block.lockFile
        for slot in range(self.count):
            address = self._block.memberAddress(slot)
            # SYNC vacant: pairs with MemberTable.release. The slot that reads FREE
            # holds nothing of its last member.
            word = atomics.loadAcquire64(address)
            # A claimer that died half way has left CLAIMING and a free byte, and
            # nothing else.
            if word & _STATE_MASK not in (
                layout.MEMBER_FREE,
                layout.MEMBER_CLAIMING,
            ) or not lockFile.lockSlot(slot):
                continue
            generation = ((word >> _GENERATION_SHIFT) + 1) & _GENERATION_MASK or 1
            # SYNC claiming: pairs with MemberTable.isConfirmedDead. The byte is ours
            # before the state says CLAIMING, so CLAIMING with a free byte is a dead
            # claim.
            if (
                atomics.casSeqCst64(
                    address, word, generation << _GENERATION_SHIFT | layout.MEMBER_CLAIMING
                )
                != word
            ):
                lockFile.unlockSlot(slot)
                continue
            key = MemberKey(slot, generation)
            try:
                self._prepare(slot, preferred)
            except BaseException:
                self.release(key, layout.MEMBER_CLAIMING)
                lockFile.unlockSlot(slot)
                raise
            return key
        raise TableFull(
            f"all {self.count} member slots are taken, by {self._census()}",
            "End processes that use this domain, or raise control.maxMembers and restart the "
            "domain",
        )

    def _census(self) -> str:
        """Who is in the domain: no command can join to list them. Programs, the one
        with most processes first, and some of their pids.
        """
        pids: dict[str, list[int]] = {}
        for slot in self.occupied():
            pids.setdefault(self.program(slot), []).append(self.identity(slot).pid)
        programs = sorted(pids.items(), key=lambda entry: -len(entry[1]))
        shown = []
        for program, found in programs[:_PROGRAMS_SHOWN]:
            listed = ", ".join(map(str, found[:_PIDS_SHOWN]))
            shown.append(f"{program} ({listed}{' and others' * (len(found) > _PIDS_SHOWN)})")
        return ", ".join(shown) + " and other programs" * (len(programs) > _PROGRAMS_SHOWN)

    def _prepare(self, slot: int, preferred: bool) -> None:
        block = self._block
        block.allocate(
            block.geometry.areasOffset + slot * block.geometry.areaBytes, block.geometry.areaBytes
        )
        # Its leases are gone since the slot was vacated. Only the slot's owner lowers
        # this word, so no late broker can hide a lease from a scan. SYNC leaseHigh:
        # pairs with MemberTable.leaseHigh. The area of the slot is empty, and a scan of
        # the broker sees no lease of the member before.
        atomics.exchangeSeqCst32(block.memberAddress(slot) + layout.MEMBER_LEASE_HIGH_OFFSET, 0)
        self._nonce = int.from_bytes(os.urandom(8), "little") or 1
        self._unmark = image.mark(self, self._nonce)
        flags = layout.MEMBER_FLAG_PREFERRED if preferred else 0
        timeNamespace = clock.learn()  # before any time of this process is written or compared
        identity = MemberIdentity(
            flags,
            os.getpid(),
            os.geteuid(),
            startTimeOf(os.getpid()),
            ownPidNamespace(),
            self._nonce,
            monotonicMs(),
        )
        start = layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES
        block.put(start + IDENTITY_OFFSET, identity.packed())
        try:
            program = os.fsencode(programName())
        except UnicodeError:  # of characters that no file's name has here
            program = programName().encode(errors="replace")
        room = layout.MEMBER_PROGRAM_BYTES
        block.put(start + layout.MEMBER_PROGRAM_OFFSET, program[:room].ljust(room, b"\0"))
        block.put(
            start + layout.MEMBER_TIME_NAMESPACE_OFFSET, timeNamespace.inode.to_bytes(8, "little")
        )

    def enter(self, key: MemberKey) -> None:
        """CLAIMING → LIVE: identity, robust word and byte lock are in place. Raises
        `DomainChanged` when the byte was not, for a moment.
        """
        address = self._block.memberAddress(key.slot)
        claiming, live = (
            _wordOf(key, state) for state in (layout.MEMBER_CLAIMING, layout.MEMBER_LIVE)
        )
        # SYNC enter: pairs with MemberTable.identity; the identity is visible to
        # whoever reads LIVE.
        if atomics.casSeqCst64(address, claiming, live) != claiming:
            raise DomainChanged(
                f"the program closed Muninn's lock file, and the claim of slot {key.slot} was "
                "taken back",
                "Try again",
            )

    def disown(self) -> None:
        """Have it taken for another program's process, as after an exec: nothing of the
        member runs or writes here any more.
        """
        self._unmark()

    def tellSpareDescriptors(self, slot: int, count: int) -> None:
        """Say how many descriptors this member could spend as broker."""
        # SYNC spare: pairs with MemberTable.spareDescriptors; nothing else goes with
        # it.
        atomics.storeRelease32(
            self._block.memberAddress(slot) + layout.MEMBER_SPARE_OFFSET, min(count, 0xFFFFFFFF)
        )

    def markDead(self, key: MemberKey) -> bool:
        """LIVE → DEAD, once death is proven: the owner lock takes no more leases. False
        when somebody else was faster.
        """
        live, dead = (_wordOf(key, state) for state in (layout.MEMBER_LIVE, layout.MEMBER_DEAD))
        # SYNC dead: pairs with MemberTable.isCurrent. What the member did comes before,
        # since its death is proven; whoever reads DEAD takes nothing of it for held.
        return atomics.casSeqCst64(self._block.memberAddress(key.slot), live, dead) in (live, dead)

    def release(self, key: MemberKey, state: int) -> None:
        """`state` → FREE, when nothing of the member is left in the control block."""
        requireMember(state, layout.MEMBER_FREE)
        # The CAS alone: a deposed broker that comes here late finds another generation.
        # What the slot holds besides is its next member's to clear. SYNC vacant: pairs
        # with MemberTable.claim. What was reclaimed is visible to the member that
        # claims the slot next.
        atomics.casSeqCst64(
            self._block.memberAddress(key.slot),
            _wordOf(key, state),
            _wordOf(key, layout.MEMBER_FREE),
        )


def _wordOf(key: MemberKey, state: int) -> int:
    """The state word of a slot that is `key`'s."""
    return key.generation << _GENERATION_SHIFT | state
