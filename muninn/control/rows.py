"""Buffer rows: the directory of the domain, one row a buffer.

Only the broker changes the state word of a row, by a CAS from the exact word that it
has read. Each word carries the epoch of the broker that wrote it. A successor raises
the epoch in all words before it does anything else (`fence`): then the words that a
deposed broker remembers are stale, and those that it reads anew carry an epoch above
its own.

A buffer comes and goes in this order. The broker takes a FREE row, with the next
incarnation, to CREATING for a creator. The creator makes the memory, writes the
description and asks for the commit. The broker notes it in its journal, puts the name
into the index, and CASes CREATING to LIVE, which publishes the description. At a free
the broker first CASes LIVE to DYING (or to PROBING, for a buffer that goes with its
last lease) and then scans the leases; an opener first stores its lease and then reads
the state. Both sides write first and read second, so at least one sees the other. A
newer version of a name takes the row from LIVE to REPLACED in the same order
(`broker/succession.py`). When no lease is left, the broker CASes to DEAD, removes the
memory, and CASes to FREE. The description does not change between LIVE and FREE.

A death between two steps leaves a state from which a successor goes on. A stale read of
a state costs an opener a lease that it takes back.

No process but the broker changes a state word, so a word that another process has
changed is damaged. A broker changes a row only from a state that it has checked in the
word that it gives to `change`: damage that came before is seen by the check, and damage
that came after it makes the CAS fail. So `IllegalTransition` always means a mistake of
the program's.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.descriptions import DESCRIPTION_OFFSET, RowDescription
from muninn.control.hints import NO_HINTS, Hints
from muninn.control.rowreader import RowReader
from muninn.control.rowstate import MAX_INCARNATION, RowState
from muninn.control.transitions import requireRow
from muninn.errors import ControlBlockInvalid, TableFull
from muninn.system import atomics

_STATE_MASK = layout.ROW_STATE.mask
_EPOCH_SHIFT, _EPOCH_MASK = layout.ROW_EPOCH.shift, layout.ROW_EPOCH.top
_COUNT_MASK = layout.ROWS_READY_COUNT.mask
#: The epoch field of the row count's word, of the drain's words, and of the
#: replacement's.
_COUNT_EPOCH_SHIFT, _COUNT_EPOCH_MASK = layout.ROWS_READY_EPOCH.shift, layout.ROWS_READY_EPOCH.mask
_FREE_SCAN_ROWS = 1024


class Deposed(Exception):
    """This broker's term has ended: the word that it wanted to change belongs to a
    later epoch.
    """


class RowTable(RowReader):
    """All buffer rows of a control block, to be read and changed."""

    def __init__(self, block: ControlBlock) -> None:
        super().__init__(block)
        self._freeFrom = 0  # a hint: no row below was FREE when this table was last asked for one

    # --- written by the creator ------------------------------------------------------

    def describe(
        self,
        row: int,
        description: RowDescription,
        handle: bytes = b"",
        hints: Hints = NO_HINTS,
    ) -> None:
        """Write the description and the hints, and clear the words that the row's last buffer left.
        The row is CREATING, and the caller is its creator.
        """
        offset = self._block.rowsOffset + row * layout.ROW_BYTES
        self._block.put(
            self._block.geometry.fencesOffset + row * layout.FENCE_BYTES, bytes(layout.FENCE_BYTES)
        )
        self._block.put(
            offset + layout.ROW_GENERATION_OFFSET,
            bytes(layout.ROW_HANDLE_OFFSET - layout.ROW_GENERATION_OFFSET),
        )
        self._block.put(
            offset + layout.ROW_HANDLE_OFFSET, handle.ljust(layout.MAX_HANDLE_BYTES, b"\0")
        )
        self._block.put(offset + layout.ROW_HINTS_OFFSET, hints.packed())
        self._block.put(offset + DESCRIPTION_OFFSET, description.packed())

    # --- written by the broker -------------------------------------------------------

    def change(self, row: int, old: RowState, epoch: int, state: int, **changes: int) -> RowState:
        """CAS the row from exactly `old` to `state`, with `epoch` in the word. Raises
        `Deposed` if the word has changed, or belongs to a later epoch.
        """
        if old.epoch > epoch:
            raise Deposed
        requireRow(old.state, state)
        new = old._replace(state=state, epoch=epoch, **changes)
        # SYNC row: pairs with RowReader.isLive: an opener sets its lease first and
        # reads this word second. SYNC epoch: pairs with RowTable.fence: the epoch of a
        # successor makes `old` stale.
        if (
            atomics.casSeqCst64(self._first + row * layout.ROW_BYTES, old.word(), new.word())
            != old.word()
        ):
            raise Deposed
        if state == layout.ROW_FREE:
            self._freeFrom = min(self._freeFrom, row)
        return new

    def fence(self, epoch: int) -> None:
        """Raise the epoch of every row, of the row count, of the drain's words and of
        the replacement's word to `epoch`.

        The count comes first: after that no other broker adds rows.
        """
        for address, words in (
            (self._block.rowsReadyAddress, 1),
            (self._block.drainAddress, 1 + layout.DRAIN_REASON_WORDS),
            (self._block.replacementAddress, 1),
        ):
            # SYNC epoch: pairs with RowTable.change. From here on a CAS of the deposed
            # broker fails, whenever it has read the word.
            atomics.raiseField64(
                address, 8, words, _COUNT_EPOCH_MASK, (epoch & _EPOCH_MASK) << _COUNT_EPOCH_SHIFT
            )
        field = (epoch & _EPOCH_MASK) << _EPOCH_SHIFT
        atomics.raiseField64(
            self._first, layout.ROW_BYTES, self.count(), _EPOCH_MASK << _EPOCH_SHIFT, field
        )

    def free(self, epoch: int) -> tuple[int, RowState]:
        """Find a FREE row. Returns it with its word. If there is none, the table grows
        by a chunk. Raises `TableFull`, `HostMemoryFull` or `ControlBlockInvalid`.

        A row whose incarnations are used up stays FREE: a handle or a late broker could
        take its next buffer for an earlier one. It is used again when the domain has
        begun anew.
        """
        for first in dict.fromkeys((self._freeFrom, 0)):
            found = self._firstFree(first)
            if found is not None:
                self._freeFrom = found[0]
                return found
        added = self.grow(epoch)
        found = self._firstFree(added)
        if found is None or found[0] != added:  # the row count was damaged, or the rows were
            raise ControlBlockInvalid(f"row {added} was just added, and is not free")
        return found

    def _firstFree(self, first: int) -> tuple[int, RowState] | None:
        """The first FREE row from `first` on that has an incarnation left, and its
        word. A scan does not stop before the end of its range, so the ranges are short.
        """
        count = self.count()
        for start in range(first, count, _FREE_SCAN_ROWS):
            wanted = min(_FREE_SCAN_ROWS, count - start)
            address, indices = self._first + start * layout.ROW_BYTES, atomics.indexBuffer(wanted)
            found = atomics.scan64(
                address, layout.ROW_BYTES, wanted, _STATE_MASK, layout.ROW_FREE, indices, wanted
            )
            for index in indices[: min(found, wanted)]:
                # The word is read again, and only this reading counts: it may have been
                # damaged since the scan.
                state = self.state(start + index)
                if state.state == layout.ROW_FREE and state.incarnation < MAX_INCARNATION:
                    return int(start + index), state
        return None

    def grow(self, epoch: int) -> int:
        """Add a chunk of FREE rows; returns the first. Raises `TableFull` or
        `HostMemoryFull`.
        """
        block = self._block
        word = int(atomics.loadAcquire64(block.rowsReadyAddress))
        count = word & _COUNT_MASK
        if word >> _COUNT_EPOCH_SHIFT > epoch:
            raise Deposed
        if count >= block.geometry.maxBuffers:
            raise TableFull(
                f"all {count} buffer rows are taken",
                "Free buffers, use bundles, or raise control.maxBuffers and restart the domain",
            )
        block.allocate(
            block.geometry.rowsOffset + count * layout.ROW_BYTES,
            layout.ROW_CHUNK * layout.ROW_BYTES,
        )
        block.allocate(
            block.geometry.fencesOffset + count * layout.FENCE_BYTES,
            layout.ROW_CHUNK * layout.FENCE_BYTES,
        )
        # New rows read zero, FREE of epoch 0, which any deposed broker could still
        # change: they are stamped before the count shows them.
        field = (epoch & _EPOCH_MASK) << _EPOCH_SHIFT
        atomics.raiseField64(
            self._first + count * layout.ROW_BYTES,
            layout.ROW_BYTES,
            layout.ROW_CHUNK,
            _EPOCH_MASK << _EPOCH_SHIFT,
            field,
        )
        # SYNC rowsReady: pairs with RowReader.count; the chunk's pages exist and are
        # stamped before the count says so.
        if atomics.casSeqCst64(block.rowsReadyAddress, word, word + layout.ROW_CHUNK) != word:
            raise Deposed
        return count
