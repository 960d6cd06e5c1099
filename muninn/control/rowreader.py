"""The rows of a control block, as every process reads them: single words, descriptions,
and scans over all rows.

Nothing here changes a word. An answer may be out of date when it is given. A caller
that needs it to last holds a lease on the row, or reads the same state word before and
after.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.descriptions import (
    DESCRIPTION_BYTES,
    DESCRIPTION_OFFSET,
    Head,
    RowDescription,
    Taken,
)
from muninn.control.rowstate import RowState
from muninn.system import atomics
from muninn.terms import LIFETIMES, MODES, TRANSPORTS, Lifetime, Mode

_STATE_MASK, _CREATED_MASK = layout.ROW_STATE.mask, layout.ROW_CREATOR.mask
_CREATOR_SHIFT, _INCARNATION_SHIFT = layout.ROW_CREATOR.shift, layout.ROW_INCARNATION.shift
_COUNT_MASK = layout.ROWS_READY_COUNT.mask
_HEAD_MASK = layout.HEAD_ROW.mask | layout.HEAD_INCARNATION.mask
_USABLE = (layout.ROW_LIVE, layout.ROW_REPLACED)
#: Where the lifetime is in the word of four bytes that begins with the mode.
_LIFETIME_SHIFT = (layout.ROW_LIFETIME_OFFSET - layout.ROW_MODE_OFFSET) * 8
assert layout.ROW_MODE_OFFSET % 4 == 0 and 0 < _LIFETIME_SHIFT < 32


class RowReader:
    """All buffer rows of a control block, to be read."""

    def __init__(self, block: ControlBlock) -> None:
        self.block = block
        self._block = block
        self._first = block.rowAddress(0)

    # --- reading ---------------------------------------------------------------------

    def count(self) -> int:
        """The number of rows that may be touched."""
        # SYNC rowsReady: pairs with RowTable.grow. The pages of each row below the
        # count exist and are stamped.
        return min(
            int(atomics.loadAcquire64(self._block.rowsReadyAddress)) & _COUNT_MASK,
            self._block.geometry.maxBuffers,
        )

    def word(self, row: int) -> int:
        return int(atomics.loadSeqCst64(self._first + row * layout.ROW_BYTES))

    def state(self, row: int) -> RowState:
        return RowState.of(self.word(row))

    def mayBeFreed(self, row: int, incarnation: int) -> bool:
        """Whether no process has freed the buffer yet: the row is LIVE; or it is
        PROBING, while the broker looks whether any process holds it.
        """
        state = self.state(row)
        return state.incarnation == incarnation and state.state in (
            layout.ROW_LIVE,
            layout.ROW_PROBING,
        )

    def mayBeUsed(self, row: int, incarnation: int) -> bool:
        """Whether a holder may go on using the buffer: it is LIVE, or a newer version
        has its name.
        """
        # SYNC row: pairs with RowTable.change. A holder's lease keeps a REPLACED row.
        word = int(atomics.loadSeqCst64(self._first + row * layout.ROW_BYTES))
        return word & _STATE_MASK in _USABLE and word >> _INCARNATION_SHIFT == incarnation

    def isReplaced(self, row: int, incarnation: int) -> bool:
        """Whether a newer version has the buffer's name, and a process still holds it."""
        state = self.state(row)
        return (state.state, state.incarnation) == (layout.ROW_REPLACED, incarnation)

    def isLive(self, row: int, incarnation: int) -> bool:
        # SYNC row: pairs with RowTable.change. The creator's description is visible
        # once the word says LIVE.
        word = int(atomics.loadSeqCst64(self._first + row * layout.ROW_BYTES))
        return (word & _STATE_MASK) == layout.ROW_LIVE and word >> _INCARNATION_SHIFT == incarnation

    def nameIs(self, row: int, name: bytes) -> bool:
        """Whether the row has this name now. The answer lasts only while the caller has
        a lease on the row.
        """
        start = self._block.rowsOffset + row * layout.ROW_BYTES
        content = self._block.bytes
        nameStart = start + layout.ROW_NAME_OFFSET
        return (
            content[start + layout.ROW_NAME_LENGTH_OFFSET] == len(name)
            and content[nameStart : nameStart + len(name)] == name
        )

    def isNamed(self, row: int, incarnation: int, name: bytes) -> bool:
        """Whether that incarnation of the row can be opened by that name."""
        if row >= self.count():
            return False
        state = self.state(row)
        return (
            state.state in (layout.ROW_LIVE, layout.ROW_PROBING)
            and state.incarnation == incarnation
            and self.nameIs(row, name)
        )

    def name(self, row: int) -> bytes:
        """A private copy of the name's bytes, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES
        length = min(
            self._block.bytes[start + layout.ROW_NAME_LENGTH_OFFSET], layout.MAX_NAME_BYTES
        )
        return bytes(
            self._block.bytes[
                start + layout.ROW_NAME_OFFSET : start + layout.ROW_NAME_OFFSET + length
            ]
        )

    def taken(self, row: int) -> Taken:
        """The part of the limits that the row takes, from its description. Only the
        values that `sums` has checked are valid.
        """
        return Taken.unpacked(self.packed(row))

    def sums(self) -> tuple[dict[Taken, int], bytearray]:
        """The bytes of the rows that take memory, by mode, tenant and GPU (the other
        fields of a key are 0); and a mark for each row: it was counted (1), it has a
        deadline (2).
        """
        sums, marks = atomics.summedRows(self._first, self.count())
        return {
            self.taken(row)._replace(sizeBytes=0, deadlineMs=0): total for row, total in sums
        }, marks

    def findNamed(self, name: bytes, first: int) -> int | None:
        """Search all rows from `first` on for a row that can be opened by that name."""
        count = self.count() - first
        found = (
            int(atomics.findName(self._first + first * layout.ROW_BYTES, count, name, len(name)))
            if count > 0
            else -1
        )
        return None if found < 0 else first + found

    def deadlineMs(self, row: int) -> int:
        """The end of the lifetime of a row that can be opened, in monotonic
        milliseconds of the host; 0: never.
        """
        return int(
            atomics.loadAcquire64(
                self._first + row * layout.ROW_BYTES + layout.ROW_DEADLINE_MS_OFFSET
            )
        )

    def isLock(self, row: int) -> bool:
        return self._described(row, layout.ROW_KIND_OFFSET) == layout.ROW_KIND_LOCK

    def hasParts(self, row: int) -> bool:
        """Whether the row is a bundle's that has parts."""
        return bool(self._described(row, layout.ROW_FLAGS_OFFSET) & layout.ROW_FLAG_PARTS)

    def headOf(self, row: int) -> Head | None:
        """The bundle of which the row is a part, as its creator has said."""
        if self._described(row, layout.ROW_KIND_OFFSET) != layout.ROW_KIND_PART:
            return None
        return Head.unpacked(
            int(
                atomics.loadAcquire64(self._first + row * layout.ROW_BYTES + layout.ROW_HEAD_OFFSET)
            )
        )

    def partsOf(self, row: int, incarnation: int) -> list[tuple[int, int]]:
        """(row, incarnation) of the LIVE parts of a bundle, by their numbers. None comes
        or goes while the caller has a lease on the bundle, and the bundle is LIVE.
        """
        wanted, numbered = Head(row, incarnation, 0).packed(), []
        for part in self._matching(_HEAD_MASK, wanted, layout.ROW_HEAD_OFFSET):
            state, head = self.state(part), self.headOf(part)
            if state.state == layout.ROW_LIVE and head is not None:
                numbered.append((head.number, part, state.incarnation))
        return [(part, incarnation) for _, part, incarnation in sorted(numbered)]

    def _described(self, row: int, offset: int) -> int:
        """One byte of the description, unchecked."""
        return self._block.bytes[self._block.rowsOffset + row * layout.ROW_BYTES + offset]

    def description(self, row: int) -> RowDescription:
        """The description. It is valid if the caller holds a lease on the row, or reads
        the same state word before and after.
        """
        return RowDescription.unpacked(self.packed(row))

    def packed(self, row: int) -> bytes:
        """A private copy of the description's bytes, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES + DESCRIPTION_OFFSET
        return bytes(self._block.bytes[start : start + DESCRIPTION_BYTES])

    def handle(self, row: int) -> bytes:
        """A private copy of the device handle's bytes, with its padding, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES + layout.ROW_HANDLE_OFFSET
        return bytes(self._block.bytes[start : start + layout.MAX_HANDLE_BYTES])

    def origin(self, row: int) -> int:
        """The identity of the block that made the row's segment, if another one did; 0:
        this one.
        """
        return int(
            atomics.loadAcquire64(self._first + row * layout.ROW_BYTES + layout.ROW_ORIGIN_OFFSET)
        )

    def ownedBy(self, slot: int) -> list[int]:
        """The rows that can be opened or used, and whose memory belongs to their creator
        and ends with it: transport `cudaIpc`.
        """
        creator = slot << _CREATOR_SHIFT
        live = (
            row
            for state in (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_REPLACED)
            for row in self._matching(_STATE_MASK | _CREATED_MASK, state | creator)
        )
        return [row for row in live if not self.needsDescriptor(row)]

    def isFastMode(self, row: int) -> bool:
        """Whether the row's description says fastMode, in any state of the row."""
        return self._described(row, layout.ROW_MODE_OFFSET) == MODES.index(Mode.FAST)

    def needsDescriptor(self, row: int) -> bool:
        """Whether this fastMode row is opened by a descriptor. Otherwise its memory
        belongs to its creator, and is opened by the row's handle.
        """
        return self._transport(row) != "cudaIpc"

    def _transport(self, row: int) -> str:
        index = self._described(row, layout.ROW_TRANSPORT_OFFSET)
        return TRANSPORTS[index] if index < len(TRANSPORTS) else ""

    def inState(self, state: int) -> list[int]:
        """The rows whose state is `state` now."""
        return self._matching(_STATE_MASK, state)

    def notFree(self) -> list[tuple[int, RowState]]:
        """All rows that are not FREE, with the state that was read."""
        count = self.count()
        if self.countInState(layout.ROW_FREE) == count:
            return []
        states = ((row, RowState.of(self.word(row))) for row in range(count))
        return [(row, state) for row, state in states if state.state != layout.ROW_FREE]

    def countInState(self, state: int) -> int:
        return int(
            atomics.scan64(self._first, layout.ROW_BYTES, self.count(), _STATE_MASK, state, None, 0)
        )

    def fastMode(self) -> list[int]:
        """The rows whose description says fastMode, in any state."""
        count = self.count()
        indices = atomics.indexBuffer(count)
        found = atomics.scan32(
            self._first + layout.ROW_MODE_OFFSET,
            layout.ROW_BYTES,
            count,
            0xFF,
            MODES.index(Mode.FAST),
            indices,
            count,
        )
        return list(indices[: min(found, count)])

    def ending(self, first: int, end: int) -> list[int]:
        """The rows from `first` to `end` that will be freed once their last holder has
        released them.
        """
        if first >= end:
            return []
        indices, found = atomics.indexBuffer(end - first), list[int]()
        for state in (layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_REPLACED, layout.ROW_DEAD):
            count = atomics.scan64(
                self._first + first * layout.ROW_BYTES,
                layout.ROW_BYTES,
                end - first,
                _STATE_MASK,
                state,
                indices,
                end - first,
            )
            found += (first + index for index in indices[: min(count, end - first)])
        return found

    def named(self, first: int, end: int) -> list[int]:
        """The rows from `first` to `end` that can be opened by their name, LIVE or
        PROBING.
        """
        if first >= end:
            return []
        indices, found = atomics.indexBuffer(end - first), list[int]()
        for state in (layout.ROW_LIVE, layout.ROW_PROBING):
            count = atomics.scan64(
                self._first + first * layout.ROW_BYTES,
                layout.ROW_BYTES,
                end - first,
                _STATE_MASK,
                state,
                indices,
                end - first,
            )
            found += (first + index for index in indices[: min(count, end - first)])
        return found

    def lastClosed(self, first: int, end: int) -> list[int]:
        """The LIVE rows from `first` to `end` that go with their last lease."""
        if first >= end:
            return []
        indices = atomics.indexBuffer(end - first)
        field = LIFETIMES.index(Lifetime.LAST_CLOSE) << _LIFETIME_SHIFT
        address = self._first + first * layout.ROW_BYTES + layout.ROW_MODE_OFFSET
        found = atomics.scan32(
            address,
            layout.ROW_BYTES,
            end - first,
            0xFF << _LIFETIME_SHIFT,
            field,
            indices,
            end - first,
        )
        rows = (first + index for index in indices[: min(found, end - first)])
        return [row for row in rows if self.state(row).state == layout.ROW_LIVE]

    def createdBy(self, slot: int) -> list[int]:
        """The CREATING rows of a member."""
        return self._matching(
            _STATE_MASK | _CREATED_MASK, layout.ROW_CREATING | slot << _CREATOR_SHIFT
        )

    def _matching(self, mask: int, value: int, offset: int = layout.ROW_STATE_OFFSET) -> list[int]:
        """The rows whose word at `offset` has `value` in the bits of `mask`."""
        count, first = self.count(), self._first + offset
        indices = atomics.indexBuffer(count)
        found = atomics.scan64(first, layout.ROW_BYTES, count, mask, value, indices, count)
        return list(indices[: min(found, count)])
