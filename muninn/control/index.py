"""The name index: it leads from a name to a row without a request to the broker.

It is an open-addressing table of words {hash, incarnation, row}, which the broker
changes by CAS. An opener probes the table from the hash of the name, and reads each row
that an entry with this hash names. The broker inserts a name before it CASes the row to
LIVE: an opener that comes in between finds the row CREATING, and waits for the name. It
removes a name by a tombstone, so that probes go on past it, and empties tombstones
behind which nothing lies.

The table is a hint. A stale entry costs a look at a row that has another incarnation or
name; a missing entry costs a request to the broker, which knows all names. The
incarnation in an entry keeps a deposed broker from removing the entry of the row's next
buffer, and the epoch in a tombstone keeps it from emptying another broker's.
"""

from __future__ import annotations

import zlib

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.system import atomics

_ROW_MASK = layout.INDEX_ROW.mask
_INCARNATION_SHIFT, _INCARNATION_MASK = layout.INDEX_INCARNATION.shift, layout.INDEX_INCARNATION.top
_HASH_SHIFT = layout.INDEX_HASH.shift
#: An entry keeps the upper bits of a name's CRC.
_DIGEST_SHIFT = 32 - layout.INDEX_HASH.bits
#: A change of a name adds one of these to the name's wake word.
_INDEXED, _NOT_INDEXED = layout.NAME_WAKE_INDEXED.put(1), layout.NAME_WAKE_NOT_INDEXED.put(1)


class NameIndex:
    """The index of a control block. The broker of `epoch` removes names in it."""

    def __init__(self, block: ControlBlock, epoch: int = 0) -> None:
        self._first = block.address + block.geometry.indexOffset
        self._mask = block.geometry.indexSlots - 1
        self._maxRow = block.geometry.maxBuffers
        self._tombstone = layout.INDEX_TOMBSTONE_EPOCH.put(epoch) | layout.INDEX_TOMBSTONE
        self._wakes = block.address + layout.NAME_WAKES_OFFSET

    def candidates(self, name: bytes) -> list[tuple[int, int]]:
        """(row, incarnation) of the entries whose hash is that of `name`: a few at
        most.
        """
        digest = zlib.crc32(name)
        wanted, position, first, mask = digest >> _DIGEST_SHIFT, digest, self._first, self._mask
        found = []
        for _ in range(layout.MAX_INDEX_PROBES):
            # SYNC index: pairs with NameIndex.insert and NameIndex.remove. An entry is
            # a hint: the opener reads the row before it believes it.
            entry = atomics.loadAcquire64(first + (position & mask) * layout.INDEX_ENTRY_BYTES)
            if entry == 0:
                break
            row = (entry & _ROW_MASK) - 1
            if entry >> _HASH_SHIFT == wanted and 0 <= row < self._maxRow:
                found.append((row, entry >> _INCARNATION_SHIFT & _INCARNATION_MASK))
            position += 1
        return found

    def wakeAddress(self, name: bytes) -> int:
        """The word that changes when the name comes or goes. Several names share a
        word.
        """
        return self._wakes + (zlib.crc32(name) >> 8) % layout.NAME_WAKES * 4

    def tell(self, name: bytes, isIndexed: bool = True) -> None:
        """Wake the openers that wait for the name, which has come or gone. If it is not
        in the index, they ask the broker for it.
        """
        address = self.wakeAddress(name)
        # SYNC names: pairs with NameWatch.see; the row or the entry was changed
        # before.
        atomics.fetchAddAcqRel32(address, _INDEXED if isIndexed else _NOT_INDEXED)
        atomics.futexWake32(address, atomics.FUTEX_ALL)

    def insert(self, name: bytes, row: int, incarnation: int) -> bool:
        """Add an entry at the first free place of the probe. Returns False if there is
        none: then openers ask the broker for the name.
        """
        digest = zlib.crc32(name)
        entry = self._entry(digest, row, incarnation)
        for _ in range(layout.MAX_INDEX_PROBES):
            free = None
            for step in range(layout.MAX_INDEX_PROBES):
                # SYNC tombstone: pairs with NameIndex._tidy. The entry replaces the
                # tombstone that was read here; if the tombstone has changed, the probe
                # is repeated.
                address = self._at(digest + step)
                seen = int(atomics.loadAcquire64(address))
                if seen == entry:
                    return True  # this broker inserted it, or a deposed one did
                if free is None and (seen == 0 or seen & _ROW_MASK == layout.INDEX_TOMBSTONE):
                    free = address, seen
                if seen == 0:
                    break
            if free is None:
                return False
            # SYNC index: pairs with NameIndex.candidates; the row's name was written by
            # its creator before the broker was asked to commit it.
            if atomics.casSeqCst64(free[0], free[1], entry) == free[1]:
                return True
        return False

    def remove(self, name: bytes, row: int, incarnation: int) -> None:
        """Replace the entry by a tombstone, so that probes go on past it. Then empty
        the tombstones behind which nothing lies.
        """
        digest = zlib.crc32(name)
        entry = self._entry(digest, row, incarnation)
        for step in range(layout.MAX_INDEX_PROBES):
            # SYNC index: pairs with NameIndex.candidates. A probe that still reads the
            # entry finds the row changed.
            found = int(atomics.casSeqCst64(self._at(digest + step), entry, self._tombstone))
            if found == 0:
                return
            if found == entry:
                self._tidy(digest + step)

    def _tidy(self, position: int) -> None:
        """Empty the run of tombstones that ends here, if nothing lies behind it.

        A deposed broker may do the same at the same time, and no entry is cut off. A
        broker first puts its own epoch into the tombstone, then looks behind it, and
        empties only a tombstone with its own epoch. If another broker has inserted an
        entry meanwhile, it has replaced the tombstone, and the CAS fails.
        """
        for _ in range(layout.MAX_INDEX_PROBES):
            address = self._at(position)
            seen = int(atomics.loadAcquire64(address))
            if (
                seen & _ROW_MASK != layout.INDEX_TOMBSTONE
                or atomics.loadAcquire64(self._at(position + 1)) != 0
            ):
                return
            # SYNC tombstone: pairs with NameIndex.insert in another broker. This
            # broker makes the tombstone its own, looks behind it, and then empties it.
            if (
                seen != self._tombstone
                and atomics.casSeqCst64(address, seen, self._tombstone) != seen
            ):
                return
            if (
                atomics.loadSeqCst64(self._at(position + 1)) != 0
                or atomics.casSeqCst64(address, self._tombstone, 0) != self._tombstone
            ):
                return
            position -= 1

    def _at(self, position: int) -> int:
        return self._first + (position & self._mask) * layout.INDEX_ENTRY_BYTES

    @staticmethod
    def _entry(digest: int, row: int, incarnation: int) -> int:
        return (
            (digest >> _DIGEST_SHIFT) << _HASH_SHIFT | incarnation << _INCARNATION_SHIFT | (row + 1)
        )
