"""The room of others: scratch memory on a GPU that other processes have, and give up where
they do not use it, when this process finds no room there.

Whether somebody uses it can not be told from here, so the asker asks again for a while. It
is asked for only where it would be enough: another process loses what it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control.leases import scanHolds
from muninn.control.shortages import EVERYTHING, Shortages
from muninn.session.gpus import deviceOf
from muninn.session.unclaimed import LOOK_SECONDS
from muninn.session.windownames import WindowPlace, wordOf

if TYPE_CHECKING:
    from muninn.session.member import Membership

#: Within so long the others have given up what they do not use.
OTHERS_SECONDS = 4 * LOOK_SECONDS


def askOthers(
    membership: Membership, gpu: int, sizeBytes: int, belowRank: int = EVERYTHING
) -> bool:
    """There is no room for so many bytes in the memory of a GPU. Returns whether others
    have as much as is missing, and are told.
    """
    context = membership.openBuffers.context
    missing = sizeBytes - deviceOf(context).memoryInfo(gpu).freeBytes
    return 0 < missing <= _bytesOf(membership, gpu, None) and _tell(membership, gpu, belowRank)


def askForBudget(membership: Membership, gpu: int, tenant: str | None, belowRank: int) -> bool:
    """The same where a budget of scratch memory is used up: of a GPU, or of a tenant on it."""
    return _bytesOf(membership, gpu, tenant) > 0 and _tell(membership, gpu, belowRank)


def _tell(membership: Membership, gpu: int, belowRank: int) -> bool:
    context = membership.openBuffers.context
    Shortages(context.tables.block).tell(wordOf(deviceOf(context).gpuUuid(gpu)), belowRank)
    return True


def _bytesOf(membership: Membership, gpu: int, tenant: str | None) -> int:
    """The scratch memory on a GPU, of one tenant or of all, without what this process has."""
    context, rows = membership.openBuffers.context, membership.rows
    tables, word = context.tables, wordOf(deviceOf(context).gpuUuid(gpu))
    total = 0
    for row in rows.fastMode():
        place = WindowPlace.of(rows.name(row).decode(errors="replace"))
        if place is None or place.gpu != word:
            continue
        holders = {hold.slot for hold in scanHolds(tables.block, tables.members, row)}
        description = rows.description(row)
        if tables.key.slot not in holders and tenant in (None, description.tenant):
            total += description.segmentBytes
    return total
