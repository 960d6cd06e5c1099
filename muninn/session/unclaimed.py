"""Unclaimed versions: memory of new versions that their publisher has not returned to
the program yet.

By the commit of a version its name loses the version before. If the publisher is
interrupted after that, no object of the program holds the new version. A version that
ends with its last close would end then, and with it the name. VRAM of transport
`cudaIpc` would be gone too, because it belongs to the object that made it. Therefore:

1. The creator puts the memory here before it asks for the commit.
2. The last step of `publish` claims the version: from then on the program's own object
   holds it. No signal handler runs between that step and the return.
3. A version that was not claimed is held here until its row is not being created and
   not LIVE any more: it was taken back, freed, or replaced. The background thread looks
   for that, and every creation does.

Private to the process. Its end, or its leaving, ends these leases like all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control import layout

if TYPE_CHECKING:
    from muninn.control.rows import RowTable
    from muninn.session.mappings import Memory

#: How often the background thread looks while there are any.
LOOK_SECONDS = 0.5
_HELD_HERE = (layout.ROW_CREATING, layout.ROW_LIVE, layout.ROW_PROBING)
#: (row, incarnation)
Version = tuple[int, int]


class Unclaimed:
    """The unclaimed versions of one membership.

    Attributes
    ----------
    memories
        The memory of each, by segment; None once it was claimed.
    """

    def __init__(self, rows: RowTable) -> None:
        self._rows = rows
        self.memories: dict[Version, tuple[Memory, ...] | None] = {}

    def keep(self, version: Version, memories: tuple[Memory, ...]) -> None:
        """Hold the memory of all segments of a version whose commit the caller asks for
        next.
        """
        self.memories[version] = memories

    def dropEnded(self) -> None:
        """Drop the versions that were claimed, taken back, freed or replaced."""
        for version in list(self.memories):
            state = self._rows.state(version[0])
            isThere = state.incarnation == version[1] and state.state in _HELD_HERE
            if not isThere or self.memories.get(version) is None:
                self.memories.pop(version, None)

    def dropAll(self) -> None:
        """At the end of the membership, which has given back all leases."""
        self.memories.clear()
