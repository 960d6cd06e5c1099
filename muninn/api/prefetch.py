"""Prefetch: the windows that hints say will be used are promoted ahead of their use.

The memory goes to the arena with its bytes (`transfer/arena.py`), and `promote` finds it
there. Nothing depends on it: a window that was not prefetched, was written since, or had
to give way is copied when it is promoted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.api import hints, transfers
from muninn.api.promotion import Asked, Promotion
from muninn.api.transfers import Copy, Progress
from muninn.arguments import requireCallable, timeoutOf
from muninn.errors import PromotionDenied, QuotaExceeded
from muninn.system import clock
from muninn.system.clock import monotonicMs
from muninn.transfer import dirty
from muninn.transfer.arena import Prefetched, arenaOf
from muninn.transfer.handle import Transfer
from muninn.transfer.tiers import Place, Tier

if TYPE_CHECKING:
    from muninn.api.attachment import Attachment

#: How long a window is kept if the hints have no end.
KEPT_SECONDS = 60.0


def prefetch(
    base: Attachment,
    targetGpu: int,
    *,
    timeout: float | None,
    isTracked: bool,
    sliceBytes: int | None,
    progress: Progress | None,
) -> Transfer[int]:
    """See `MuninnBuffer.prefetch`."""
    if progress is not None:
        requireCallable("prefetch: progress", progress)
    seconds = timeoutOf("prefetch", timeout)

    def look() -> None:
        transfer.check()

    asked = Asked("prefetch", targetGpu, seconds, isTracked, sliceBytes, True, look)
    promotion = Promotion.of(base, asked)
    windows = _windows(promotion)
    total = sum(each.sizeBytes for each in windows)
    openBuffer, target = promotion.openBuffer, Place(Tier.VRAM, promotion.gpu)
    # Its deadline is for the waits, and not for the copies.
    transfer: Transfer[int] = Transfer(
        transfers.placeOf(openBuffer), target, total, progress=progress
    )

    def work() -> int:
        ready = 0
        for window in windows:
            try:
                _prefetchOne(promotion, window)
            except TimeoutError:
                transfer.check()  # it was cancelled
                raise
            except (PromotionDenied, QuotaExceeded):
                # The hottest are there.
                if not ready:
                    raise
                break
            ready += window.sizeBytes
            transfer.told(window.sizeBytes)
        return ready

    return Copy(transfer, openBuffer, work).start()


def _windows(promotion: Promotion) -> list[dirty.Range]:
    if promotion.isInPlace:
        return []
    sizeBytes = promotion.openBuffer.description.sizeBytes
    return [dirty.Range(*each) for each in hints.within(promotion.hints, sizeBytes)]


def _prefetchOne(promotion: Promotion, window: dirty.Range) -> None:
    arena, room = arenaOf(promotion.openBuffer.context), promotion.room(window)
    content = promotion.content(window)
    if arena.covering(content) is not None:
        return
    memory, _, filler = promotion.filled(window, room)
    if not promotion.isShared:
        content = content._replace(generation=filler.generation)
    untilMs = promotion.hints.untilMs
    seconds = (untilMs - monotonicMs()) / 1e3 if untilMs else KEPT_SECONDS
    until = clock.now() + seconds
    arena.keep(Prefetched(content, room, memory, promotion.hints.priority, until))
