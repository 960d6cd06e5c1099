"""Buffer rows: the directory of the domain, one row a buffer.

The state word of a row is changed by the broker only, by CAS on the exact word that it read. Each word carries the epoch of who
wrote it: a successor first raises the epoch in all of them (`fence`), after which a deposed broker's remembered words are stale and
the ones that it reads anew are above its own epoch. The description is written by the creating member while the row is CREATING,
and does not change until the row is FREE again.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.errors import ControlBlockInvalid, TableFull
from muninn.system import atomics
from muninn.terms import ACCESSES, LIFETIMES, MODES, TRANSPORTS, Access, Lifetime, Mode

_DESCRIPTION = struct.Struct(
    f"<QQQQQIBBBBhBBBBBB{layout.MAX_NDIM}Q{layout.MAX_DTYPE_BYTES}s{layout.MAX_TENANT_BYTES}s{layout.MAX_NAME_BYTES}sQ"
)
#: Where in an unpacked description.
_MODE, _GPU, _TENANT_LENGTH, _TENANT = 6, 10, 14, 26
_DESCRIPTION_OFFSET = layout.ROW_SIZE_OFFSET
assert _DESCRIPTION_OFFSET + _DESCRIPTION.size == layout.ROW_ORIGIN_OFFSET + 8

_STATE_MASK, _CREATED_MASK = layout.ROW_STATE.mask, layout.ROW_CREATOR.mask
_CREATOR_SHIFT, _CREATOR_MASK = layout.ROW_CREATOR.shift, layout.ROW_CREATOR.top
_EPOCH_SHIFT, _EPOCH_MASK = layout.ROW_EPOCH.shift, layout.ROW_EPOCH.top
_INCARNATION_SHIFT, _INCARNATION_MASK = layout.ROW_INCARNATION.shift, layout.ROW_INCARNATION.top
_COUNT_MASK = layout.ROWS_READY_COUNT.mask
#: Of the row count's word, and of the drain's.
_COUNT_EPOCH_SHIFT, _COUNT_EPOCH_MASK = layout.ROWS_READY_EPOCH.shift, layout.ROWS_READY_EPOCH.mask
#: Where the lifetime is in the word of four bytes that begins with the mode.
_LIFETIME_SHIFT = (layout.ROW_LIFETIME_OFFSET - layout.ROW_MODE_OFFSET) * 8
assert layout.ROW_MODE_OFFSET % 4 == 0 and 0 < _LIFETIME_SHIFT < 32
MAX_EPOCH = _EPOCH_MASK
MAX_INCARNATION = _INCARNATION_MASK
_FREE_SCAN_ROWS = 1024


class Deposed(Exception):
    """This broker's term has ended: the word that it wanted to change belongs to a later epoch."""


class RowState(NamedTuple):
    """The state word of a row, taken apart."""

    state: int
    creator: int
    epoch: int
    incarnation: int

    @staticmethod
    def of(word: int) -> RowState:
        return RowState(
            word & _STATE_MASK,
            word >> _CREATOR_SHIFT & _CREATOR_MASK,
            word >> _EPOCH_SHIFT & _EPOCH_MASK,
            word >> _INCARNATION_SHIFT & _INCARNATION_MASK,
        )

    def word(self) -> int:
        return self.state | self.creator << _CREATOR_SHIFT | self.epoch << _EPOCH_SHIFT | self.incarnation << _INCARNATION_SHIFT


class RowDescription(NamedTuple):
    """What a buffer is. Sizes in bytes, times in monotonic milliseconds."""

    sizeBytes: int
    segmentBytes: int
    createdMs: int
    deadlineMs: int
    metaOffset: int
    metaBytes: int
    mode: Mode
    access: Access
    lifetime: Lifetime
    kind: int
    gpu: int
    flags: int
    transport: str
    shape: tuple[int, ...]
    dtype: str
    tenant: str
    name: str
    #: The identity in the segment's name, where another block made it; 0: this one did.
    origin: int = 0

    def packed(self) -> bytes:
        name, tenant, dtype = self.name.encode(), self.tenant.encode(), self.dtype.encode()
        shape = (*self.shape, *(0,) * (layout.MAX_NDIM - len(self.shape)))
        words = (
            MODES.index(self.mode),
            ACCESSES.index(self.access),
            LIFETIMES.index(self.lifetime),
            self.kind,
            self.gpu,
            len(self.shape),
            self.flags,
        )
        lengths = (len(name), len(tenant), len(dtype), TRANSPORTS.index(self.transport))
        return _DESCRIPTION.pack(*self[:6], *words, *lengths, *shape, dtype, tenant, name, self.origin)

    @staticmethod
    def unpacked(raw: bytes) -> RowDescription:
        """The description in `raw`, a private copy; `ControlBlockInvalid` when it is out of range."""
        if len(raw) != _DESCRIPTION.size:
            raise ControlBlockInvalid(f"a row's description has {len(raw)} bytes, and not {_DESCRIPTION.size}")
        (
            sizeBytes, segmentBytes, createdMs, deadlineMs, metaOffset, metaBytes, mode, access, lifetime, kind, gpu, ndim, flags,
            nameLength, tenantLength, dtypeLength, transport, *shape, dtype, tenant, name, origin,
        ) = _DESCRIPTION.unpack(raw)  # fmt: skip
        try:
            description = RowDescription(
                sizeBytes,
                segmentBytes,
                createdMs,
                deadlineMs,
                metaOffset,
                metaBytes,
                MODES[mode],
                ACCESSES[access],
                LIFETIMES[lifetime],
                kind,
                gpu,
                flags,
                TRANSPORTS[transport],
                tuple(shape[:ndim]),
                dtype[:dtypeLength].decode("ascii"),
                tenant[:tenantLength].decode(),
                name[:nameLength].decode(),
                origin,
            )
        except (IndexError, UnicodeDecodeError) as error:
            raise ControlBlockInvalid(f"a row's description is out of range: {error}") from error
        inRange = 0 <= sizeBytes <= segmentBytes <= 1 << 62 and metaOffset + metaBytes <= segmentBytes
        if ndim > layout.MAX_NDIM or not inRange:
            raise ControlBlockInvalid(f"the row of {description.name!r} states impossible sizes")
        return description


class Taken(NamedTuple):
    """What a row takes of the domain's limits."""

    mode: Mode
    tenant: str
    gpu: int
    sizeBytes: int
    deadlineMs: int


class RowTable:
    """All buffer rows of a control block."""

    def __init__(self, block: ControlBlock) -> None:
        self.block = block
        self._block = block
        self._first = block.rowAddress(0)
        self._freeFrom = 0  # a hint: no row below was FREE when this table was last asked for one

    # --- reading -----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Rows that may be touched."""
        return min(int(atomics.loadAcquire64(self._block.rowsReadyAddress)) & _COUNT_MASK, self._block.geometry.maxBuffers)

    def word(self, row: int) -> int:
        return int(atomics.loadSeqCst64(self._first + row * layout.ROW_BYTES))

    def state(self, row: int) -> RowState:
        return RowState.of(self.word(row))

    def mayBeFreed(self, row: int, incarnation: int) -> bool:
        """Whether nobody has freed it yet: it is LIVE, or the broker is just looking whether anybody holds it."""
        state = self.state(row)
        return state.incarnation == incarnation and state.state in (layout.ROW_LIVE, layout.ROW_PROBING)

    def isLive(self, row: int, incarnation: int) -> bool:
        word = int(atomics.loadSeqCst64(self._first + row * layout.ROW_BYTES))
        return (word & _STATE_MASK) == layout.ROW_LIVE and word >> _INCARNATION_SHIFT == incarnation

    def nameIs(self, row: int, name: bytes) -> bool:
        """Whether the row's name reads so now; only a lease makes the answer last."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES
        content = self._block.bytes
        nameStart = start + layout.ROW_NAME_OFFSET
        return content[start + layout.ROW_NAME_LENGTH_OFFSET] == len(name) and content[nameStart : nameStart + len(name)] == name

    def isNamed(self, row: int, incarnation: int, name: bytes) -> bool:
        """Whether the row can be opened, in that incarnation, by that name."""
        if row >= self.count():
            return False
        state = self.state(row)
        return state.state in (layout.ROW_LIVE, layout.ROW_PROBING) and state.incarnation == incarnation and self.nameIs(row, name)

    def name(self, row: int) -> bytes:
        """A private copy of the name's bytes, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES
        length = min(self._block.bytes[start + layout.ROW_NAME_LENGTH_OFFSET], layout.MAX_NAME_BYTES)
        return bytes(self._block.bytes[start + layout.ROW_NAME_OFFSET : start + layout.ROW_NAME_OFFSET + length])

    def taken(self, row: int) -> Taken:
        """What the row takes, as its description says, unchecked but for what `sums` checks."""
        values = _DESCRIPTION.unpack(self.packed(row))
        tenant = bytes(values[_TENANT][: values[_TENANT_LENGTH]]).decode(errors="replace")
        return Taken(MODES[values[_MODE]], tenant, values[_GPU], values[1], values[3])

    def sums(self) -> tuple[dict[Taken, int], bytearray]:
        """The bytes of the rows that take memory, by mode, tenant and GPU (the rest of a key is 0); and for each row whether it was counted
        (1), and has a deadline (2).
        """
        sums, marks = atomics.summedRows(self._first, self.count())
        return {self.taken(row)._replace(sizeBytes=0, deadlineMs=0): total for row, total in sums}, marks

    def findNamed(self, name: bytes, first: int) -> int | None:
        """The row from `first` on that can be opened by that name, by looking at all of them."""
        count = self.count() - first
        found = int(atomics.findName(self._first + first * layout.ROW_BYTES, count, name, len(name))) if count > 0 else -1
        return None if found < 0 else first + found

    def deadlineMs(self, row: int) -> int:
        """When the lifetime of a row ends that can be opened, in monotonic milliseconds of the host; 0: never."""
        return int(atomics.loadAcquire64(self._first + row * layout.ROW_BYTES + layout.ROW_DEADLINE_MS_OFFSET))

    def isLock(self, row: int) -> bool:
        return self._block.bytes[self._block.rowAddress(row) - self._block.address + layout.ROW_KIND_OFFSET] == layout.ROW_KIND_LOCK

    def description(self, row: int) -> RowDescription:
        """The description; meaningful to whoever holds a lease on the row, or reads the same state word before and after."""
        return RowDescription.unpacked(self.packed(row))

    def packed(self, row: int) -> bytes:
        """A private copy of the description's bytes, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES + _DESCRIPTION_OFFSET
        return bytes(self._block.bytes[start : start + _DESCRIPTION.size])

    def handle(self, row: int) -> bytes:
        """A private copy of the device handle's bytes, with its padding, unchecked."""
        start = self._block.rowsOffset + row * layout.ROW_BYTES + layout.ROW_HANDLE_OFFSET
        return bytes(self._block.bytes[start : start + layout.MAX_HANDLE_BYTES])

    def origin(self, row: int) -> int:
        """The identity of the block that made the row's segment, if another one did; 0: this one."""
        return int(atomics.loadAcquire64(self._first + row * layout.ROW_BYTES + layout.ROW_ORIGIN_OFFSET))

    def ownedBy(self, slot: int) -> list[int]:
        """The rows that can be opened and whose memory is their creator's, and goes with it: transport `cudaIpc`."""
        creator = slot << _CREATOR_SHIFT
        live = (
            row for state in (layout.ROW_LIVE, layout.ROW_PROBING) for row in self._matching(_STATE_MASK | _CREATED_MASK, state | creator)
        )
        return [row for row in live if not self.needsDescriptor(row)]

    def isFastMode(self, row: int) -> bool:
        """What the row's description says, in whatever state it is."""
        return self._block.bytes[self._block.rowsOffset + row * layout.ROW_BYTES + layout.ROW_MODE_OFFSET] == MODES.index(Mode.FAST)

    def needsDescriptor(self, row: int) -> bool:
        """Whether this fastMode row is opened by a descriptor; otherwise its memory is its creator's, and opened by the row's handle."""
        return self._transport(row) != "cudaIpc"

    def _transport(self, row: int) -> str:
        index = self._block.bytes[self._block.rowsOffset + row * layout.ROW_BYTES + layout.ROW_TRANSPORT_OFFSET]
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
        return int(atomics.scan64(self._first, layout.ROW_BYTES, self.count(), _STATE_MASK, state, None, 0))

    def fastMode(self) -> list[int]:
        """The rows whose description says fastMode, in whatever state."""
        count = self.count()
        indices = atomics.indexBuffer(count)
        found = atomics.scan32(self._first + layout.ROW_MODE_OFFSET, layout.ROW_BYTES, count, 0xFF, MODES.index(Mode.FAST), indices, count)
        return list(indices[: min(found, count)])

    def ending(self, first: int, end: int) -> list[int]:
        """The rows from `first` to `end` whose end is decided, and waits for their holders."""
        if first >= end:
            return []
        indices, found = atomics.indexBuffer(end - first), list[int]()
        for state in (layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_DEAD):
            count = atomics.scan64(
                self._first + first * layout.ROW_BYTES, layout.ROW_BYTES, end - first, _STATE_MASK, state, indices, end - first
            )
            found += (first + index for index in indices[: min(count, end - first)])
        return found

    def named(self, first: int, end: int) -> list[int]:
        """The rows from `first` to `end` that can be opened by their name, LIVE or PROBING."""
        if first >= end:
            return []
        indices, found = atomics.indexBuffer(end - first), list[int]()
        for state in (layout.ROW_LIVE, layout.ROW_PROBING):
            count = atomics.scan64(
                self._first + first * layout.ROW_BYTES, layout.ROW_BYTES, end - first, _STATE_MASK, state, indices, end - first
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
        found = atomics.scan32(address, layout.ROW_BYTES, end - first, 0xFF << _LIFETIME_SHIFT, field, indices, end - first)
        rows = (first + index for index in indices[: min(found, end - first)])
        return [row for row in rows if self.state(row).state == layout.ROW_LIVE]

    def createdBy(self, slot: int) -> list[int]:
        """The CREATING rows of a member."""
        return self._matching(_STATE_MASK | _CREATED_MASK, layout.ROW_CREATING | slot << _CREATOR_SHIFT)

    def _matching(self, mask: int, value: int) -> list[int]:
        count = self.count()
        indices = atomics.indexBuffer(count)
        found = atomics.scan64(self._first, layout.ROW_BYTES, count, mask, value, indices, count)
        return list(indices[: min(found, count)])

    # --- what the creator writes -------------------------------------------------------------------------------------

    def describe(self, row: int, description: RowDescription, handle: bytes = b"") -> None:
        """Write the description, and clear what the row's last buffer left. The row is CREATING and the caller's."""
        offset = self._block.rowsOffset + row * layout.ROW_BYTES
        self._block.put(self._block.geometry.fencesOffset + row * layout.FENCE_BYTES, bytes(layout.FENCE_BYTES))
        self._block.put(offset + layout.ROW_GENERATION_OFFSET, bytes(layout.ROW_HANDLE_OFFSET - layout.ROW_GENERATION_OFFSET))
        self._block.put(offset + layout.ROW_HANDLE_OFFSET, handle.ljust(layout.MAX_HANDLE_BYTES, b"\0"))
        self._block.put(offset + _DESCRIPTION_OFFSET, description.packed())

    # --- what the broker writes --------------------------------------------------------------------------------------

    def change(self, row: int, old: RowState, epoch: int, state: int, **changes: int) -> RowState:
        """CAS the row from exactly `old` to `state`, stamped with `epoch`. Raises `Deposed` when that is not possible any more."""
        new = old._replace(state=state, epoch=epoch, **changes)
        # SYNC row: pairs with isLive in openers (a lease first, then this word) and with fence in a successor (its epoch makes
        # `old` stale).
        if old.epoch > epoch or atomics.casSeqCst64(self._first + row * layout.ROW_BYTES, old.word(), new.word()) != old.word():
            raise Deposed
        if state == layout.ROW_FREE:
            self._freeFrom = min(self._freeFrom, row)
        return new

    def fence(self, epoch: int) -> None:
        """Raise the epoch of every row, of the row count and of the drain's words to `epoch`.

        The count first: from there on nobody else adds rows.
        """
        for address, words in ((self._block.rowsReadyAddress, 1), (self._block.drainAddress, 1 + layout.DRAIN_REASON_WORDS)):
            atomics.raiseField64(address, 8, words, _COUNT_EPOCH_MASK, (epoch & _EPOCH_MASK) << _COUNT_EPOCH_SHIFT)
        field = (epoch & _EPOCH_MASK) << _EPOCH_SHIFT
        atomics.raiseField64(self._first, layout.ROW_BYTES, self.count(), _EPOCH_MASK << _EPOCH_SHIFT, field)

    def free(self, epoch: int) -> int:
        """A FREE row; the table grows by a chunk when there is none. Raises `TableFull` or `HostMemoryFull`.

        A row whose incarnations are used up stays FREE: a handle or a late broker could take its next buffer for an earlier one. It is used
        again when the domain has begun anew.
        """
        for first in dict.fromkeys((self._freeFrom, 0)):
            row = self._firstFree(first)
            if row is not None:
                self._freeFrom = row
                return row
        return self.grow(epoch)

    def _firstFree(self, first: int) -> int | None:
        """The first FREE row from `first` on that has an incarnation left. A scan goes to the end of its range, so the ranges are short."""
        count = self.count()
        for start in range(first, count, _FREE_SCAN_ROWS):
            wanted = min(_FREE_SCAN_ROWS, count - start)
            address, indices = self._first + start * layout.ROW_BYTES, atomics.indexBuffer(wanted)
            found = atomics.scan64(address, layout.ROW_BYTES, wanted, _STATE_MASK, layout.ROW_FREE, indices, wanted)
            for index in indices[: min(found, wanted)]:
                if self.state(start + index).incarnation < MAX_INCARNATION:
                    return int(start + index)
        return None

    def grow(self, epoch: int) -> int:
        """Add a chunk of FREE rows; returns the first. Raises `TableFull` or `HostMemoryFull`."""
        block = self._block
        word = int(atomics.loadAcquire64(block.rowsReadyAddress))
        count = word & _COUNT_MASK
        if word >> _COUNT_EPOCH_SHIFT > epoch:
            raise Deposed
        if count >= block.geometry.maxBuffers:
            raise TableFull(
                f"all {count} buffer rows are taken", "Free buffers, use bundles, or raise control.maxBuffers and restart the domain"
            )
        block.allocate(block.geometry.rowsOffset + count * layout.ROW_BYTES, layout.ROW_CHUNK * layout.ROW_BYTES)
        block.allocate(block.geometry.fencesOffset + count * layout.FENCE_BYTES, layout.ROW_CHUNK * layout.FENCE_BYTES)
        # New rows read zero, FREE of epoch 0, which any deposed broker could still change: they are stamped before the count shows them.
        field = (epoch & _EPOCH_MASK) << _EPOCH_SHIFT
        atomics.raiseField64(self._first + count * layout.ROW_BYTES, layout.ROW_BYTES, layout.ROW_CHUNK, _EPOCH_MASK << _EPOCH_SHIFT, field)
        # SYNC rowsReady: pairs with count(); the chunk's pages exist and are stamped before the count says so.
        if atomics.casSeqCst64(block.rowsReadyAddress, word, word + layout.ROW_CHUNK) != word:
            raise Deposed
        return count
