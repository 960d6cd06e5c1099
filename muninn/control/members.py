"""Member slots: a process takes a slot to join the domain, and the slot is free again
at its end.

A process joins in this order:

1. It takes the byte lock of a slot that is FREE, or that is CLAIMING with a free byte:
   the process that claimed that slot has died.
2. It CASes the slot to CLAIMING, with the next generation.
3. It allocates the slot's lease area, sets `leaseHigh` to 0, and writes its identity
   and the name of its program.
4. Its background thread registers the robust word with the kernel.
5. A CAS to LIVE shows the member to all others.
6. The process reads the block's version (`session/entry.py`), and leaves again if the
   block was withdrawn meanwhile.

A member that leaves releases its leases, and asks the broker to mark the slot dead. For
a member that is confirmed dead, the broker does the same by itself:

1. It CASes LIVE to DEAD.
2. It clears the member's leases, owner locks and tickets.
3. It CASes the slot to FREE.

If the broker dies in between, the slot is still DEAD, and the successor goes on from
there. Every CAS compares the generation, so a step that comes too late changes nothing
of the slot's next member. A stale read of the state costs a failed CAS, or one more
look.

`memberreader.py` says how a death is found.
"""

from __future__ import annotations

import os

from muninn.control import layout
from muninn.control.memberidentity import IDENTITY_OFFSET, MemberIdentity
from muninn.control.memberreader import OWNER_LOCK_GENERATION_MASK as OWNER_LOCK_GENERATION_MASK
from muninn.control.memberreader import MemberKey as MemberKey
from muninn.control.memberreader import MemberReader
from muninn.control.transitions import requireMember
from muninn.errors import DomainChanged, TableFull
from muninn.system import atomics, clock, image
from muninn.system.clock import monotonicMs
from muninn.system.processes import ownPidNamespace, programName, startTimeOf

_STATE_MASK, _GENERATION_SHIFT, _GENERATION_MASK = (
    layout.MEMBER_STATE.mask,
    layout.MEMBER_GENERATION.shift,
    layout.MEMBER_GENERATION.top,
)
#: How many programs, and how many pids of each, an error about a full table shows.
_PROGRAMS_SHOWN, _PIDS_SHOWN = 4, 6


class MemberTable(MemberReader):
    """All member slots of a control block, and the changes that are made to them."""

    # --- this process's slot ---------------------------------------------------------

    def claim(self, preferred: bool) -> MemberKey:
        """Claim a free slot for this process. The slot is CLAIMING until `enter`.
        Raises `TableFull`.
        """
        lockFile = self._block.lockFile
        for slot in range(self.count):
            address = self._block.memberAddress(slot)
            # SYNC vacant: pairs with MemberTable.release. A slot that reads FREE holds
            # no word of its last member.
            word = atomics.loadAcquire64(address)
            # A process that died while it claimed the slot has left CLAIMING and a free
            # byte, and nothing else.
            if word & _STATE_MASK not in (
                layout.MEMBER_FREE,
                layout.MEMBER_CLAIMING,
            ) or not lockFile.lockSlot(slot):
                continue
            generation = ((word >> _GENERATION_SHIFT) + 1) & _GENERATION_MASK or 1
            # SYNC claiming: pairs with MemberReader.isConfirmedDead. The byte is ours
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
        """The programs in the domain, the program with the most processes first, and
        some of their pids. The error shows them because no command can join the full
        domain to list them.
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
        # SYNC area: pairs with used. The pages are there before the word says so.
        atomics.storeRelease32(block.memberAddress(slot) + layout.MEMBER_AREA_OFFSET, 1)
        # The slot was released after its leases were cleared. Only the slot's owner
        # lowers this word, so no late broker can hide a lease from a scan. SYNC
        # leaseHigh: pairs with MemberReader.leaseHigh. The area of the slot is empty,
        # and a scan of the broker sees no lease of the member before.
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
        except UnicodeError:  # the name has characters that file names can not have here
            program = programName().encode(errors="replace")
        room = layout.MEMBER_PROGRAM_BYTES
        block.put(start + layout.MEMBER_PROGRAM_OFFSET, program[:room].ljust(room, b"\0"))
        block.put(
            start + layout.MEMBER_TIME_NAMESPACE_OFFSET, timeNamespace.inode.to_bytes(8, "little")
        )

    def enter(self, key: MemberKey) -> None:
        """CLAIMING → LIVE: identity, robust word and byte lock are in place. Raises
        `DomainChanged` if another process has taken the claim over, because the byte
        was free for a moment.
        """
        address = self._block.memberAddress(key.slot)
        claiming, live = (
            _wordOf(key, state) for state in (layout.MEMBER_CLAIMING, layout.MEMBER_LIVE)
        )
        # SYNC enter: pairs with MemberReader.identity; the identity is visible to a
        # process that reads LIVE.
        if atomics.casSeqCst64(address, claiming, live) != claiming:
            raise DomainChanged(
                f"the program closed Muninn's lock file, and the claim of slot {key.slot} was "
                "taken back",
                "Try again",
            )

    def disown(self) -> None:
        """Let other processes see the process as another program, as after an exec: no
        code of the member runs or writes here any more.
        """
        self._unmark()

    def tellSpareDescriptors(self, slot: int, count: int) -> None:
        """Say how many descriptors this member could spend as broker."""
        # SYNC spare: pairs with MemberReader.spareDescriptors. The number publishes
        # nothing else.
        atomics.storeRelease32(
            self._block.memberAddress(slot) + layout.MEMBER_SPARE_OFFSET, min(count, 0xFFFFFFFF)
        )

    def tellAnswers(self, slot: int, answers: bool) -> None:
        """Say whether this member can answer at the endpoint of the domain."""
        flags = self.identity(slot).flags & ~layout.MEMBER_FLAG_ANSWERS
        # SYNC answers: pairs with MemberReader.answering. No other process changes the
        # word, and it publishes nothing else.
        atomics.storeRelease32(
            self._block.memberAddress(slot) + layout.MEMBER_FLAGS_OFFSET,
            flags | (layout.MEMBER_FLAG_ANSWERS if answers else 0),
        )

    def markDead(self, key: MemberKey) -> bool:
        """LIVE → DEAD, once the death is confirmed: the member takes no more leases.
        Returns False if the slot belongs to another member by now.
        """
        live, dead = (_wordOf(key, state) for state in (layout.MEMBER_LIVE, layout.MEMBER_DEAD))
        # SYNC dead: pairs with MemberReader.isCurrent. All stores of the member come
        # before, because its death is confirmed. A process that reads DEAD ignores the
        # member's leases and locks.
        return atomics.casSeqCst64(self._block.memberAddress(key.slot), live, dead) in (live, dead)

    def release(self, key: MemberKey, state: int) -> None:
        """`state` → FREE, once the control block holds no word of the member any more."""
        requireMember(state, layout.MEMBER_FREE)
        # Only the state word is changed: a deposed broker that comes late finds another
        # generation, and the CAS fails. The slot's next member clears the other words.
        # SYNC vacant: pairs with MemberTable.claim. The member that claims the slot
        # next sees everything that was reclaimed before.
        atomics.casSeqCst64(
            self._block.memberAddress(key.slot),
            _wordOf(key, state),
            _wordOf(key, layout.MEMBER_FREE),
        )


def _wordOf(key: MemberKey, state: int) -> int:
    """The state word of a slot that belongs to `key`."""
    return key.generation << _GENERATION_SHIFT | state
