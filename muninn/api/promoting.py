"""Promotion and hints, as methods of a buffer object: `promote`, `prefetch`, `hints`.

`api/promotion.py` and `api/prefetch.py` do the work. They are imported at the first
use: most processes promote nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Unpack

from muninn.api import hints as hinting
from muninn.api.copying import Copies
from muninn.api.hints import HintKeywords
from muninn.api.transfers import Progress
from muninn.arguments import asInteger, checkKeywords
from muninn.errors import InvalidArgument, TransferCancelled
from muninn.observe.calls import named
from muninn.sync.asyncwait import waited

if TYPE_CHECKING:
    from muninn.api.scratch import Scratch
    from muninn.transfer.handle import Transfer


class Promotes(Copies):
    """The part of a buffer object that promotes."""

    __slots__ = ()

    # --- hints -------------------------------------------------------------------------

    @property
    def hints(self) -> dict[str, Any]:
        """What its users have said about its use: ``hotRanges``, ``endsInMs`` (None: as
        long as the buffer) and ``priority``, of all processes.
        """
        openBuffer = self._checked()
        return hinting.described(
            hinting.hintsOf(openBuffer.tables, openBuffer.row).get(), self.nbytes
        )

    @named
    def setHints(self, **hints: Unpack[HintKeywords]) -> None:
        """Say how the buffer will be used, for all processes; what is left out stays as it
        is. Hints make promotions faster, and change no result.

        Parameters
        ----------
        **hints
            ``hotRanges``: up to 15 pairs (offset, length) in bytes, the hottest first, which
            `prefetch` brings to a GPU; they are rounded out to pages of 4096 bytes.
            ``lifetimeMs``: milliseconds from now for which the hints hold; None: as long as
            the buffer.
            ``priority``: ``"low"``, ``"normal"`` or ``"high"``: whose windows get room in
            VRAM first.

        Raises
        ------
        InvalidArgument
            This is a bundle, of which no window is promoted.
        """
        checkKeywords("setHints", hints, hinting.KEYWORDS)
        openBuffer = self._checked()
        hinting.requireArray("setHints", openBuffer.description.kind)
        words = hinting.hintsOf(openBuffer.tables, openBuffer.row)
        words.set(hinting.changed("setHints", words.get(), hints, self.nbytes))

    @named
    def prefetch(
        self,
        targetGpu: int = 0,
        *,
        timeout: float | None = 10.0,
        track: bool = False,
        sliceBytes: int | None = None,
        progress: Progress | None = None,
    ) -> Transfer[int]:
        """Begin to promote the hot ranges of the hints, the hottest first. Returns at once:
        ``transfer.result()`` waits, and is how many bytes are on the GPU.

        A `promote` of a prefetched range, with the same `track` and `sliceBytes`, then
        copies nothing, and one of a part of it copies within the GPU. The windows are
        kept until the hints end, or for a minute; until the buffer is written; or until
        another promotion needs the room. If not all find room, the hottest are there.

        Parameters
        ----------
        targetGpu, timeout, track, sliceBytes
            As for `promote`.
        progress
            Called with the bytes that are ready since the last call.

        Raises
        ------
        PromotionDenied
            By the transfer: there is room for none of them.
        """
        from muninn.api.prefetch import prefetch

        return prefetch(
            self,
            targetGpu,
            timeout=timeout,
            isTracked=track,
            sliceBytes=sliceBytes,
            progress=progress,
        )

    # --- promotion ---------------------------------------------------------------------

    @named
    def promote(
        self,
        offset: int = 0,
        length: int | None = None,
        targetGpu: int = 0,
        *,
        timeout: float | None = 10.0,
        stream: Any = None,
        track: bool = False,
        sliceBytes: int | None = None,
        progress: Progress | None = None,
    ) -> Scratch:
        """Copy a window of the buffer to scratch memory of a GPU, for the time of a block:
        ``with buffer.promote(offset, length, gpu) as scratch:``. Kernels take
        ``scratch.deviceArray()``, or C ``scratch.address``.

        At the end of the block, what was written is copied back and published, if the
        buffer is readWrite; if it is readMostly, ``scratch.writeback()`` does that.
        Nothing is copied back when the block is left by an exception.

        Parameters
        ----------
        offset, length
            The window, in bytes; all of the buffer by default.
        targetGpu
            The GPU whose kernels use the window.
        timeout
            Seconds to wait for room in the budgets, and for writers; the copy is made in
            any case. ``scratch.usedFlags`` waits for room as long, at most for 10 s.
        stream
            The stream of the kernels, of this GPU. The end of the block waits for its
            work; without it, or if it was closed meanwhile, for all work of this process.
        track
            Kernels and ``scratch.markDirty()`` say what they write, by
            ``scratch.dirtyFlags``. By default the window is compared with a second copy
            of it on the GPU, which takes as much room again.
        sliceBytes
            The unit in which writes are told apart, from 4096 on; 64 KiB unless
            configured otherwise.
        progress
            Called with the bytes that have arrived since the last call; not at all if
            nothing is copied. An exception that it raises ends the promotion.

        Raises
        ------
        PromotionDenied
            The budget of the GPU or of the tenant has no room, or too many windows are
            under way, for `timeout` seconds; the figures are in the text.
        QuotaExceeded
            The GPU, or the tenant's quota of VRAM, has no room for it, and no window of
            another process is there whose end could be waited for.
        WritebackConflict
            At the end: the buffer was written meanwhile.
        WriterDied, DeviceUnavailable, BarPressureHigh
        """
        from muninn.api.promotion import Asked, promoted
        from muninn.api.scratchroom import askedRange

        window = askedRange("promote", self.nbytes, offset, length)
        asked = Asked("promote", targetGpu, timeout, track, sliceBytes, progress=progress)
        return promoted(self, window, asked, stream)

    @named
    async def promoteAsync(
        self,
        offset: int = 0,
        length: int | None = None,
        targetGpu: int = 0,
        *,
        timeout: float | None = 10.0,
        stream: Any = None,
        track: bool = False,
        sliceBytes: int | None = None,
        progress: Progress | None = None,
    ) -> Scratch:
        """`promote` for asyncio: ``with await buffer.promoteAsync(…) as scratch:``. The
        copy is made on a thread of its own, so that other tasks, and kernels, go on; that
        thread calls `progress`.
        """
        from muninn.api.promotion import Asked, promoted
        from muninn.api.scratchroom import askedRange

        window = askedRange("promoteAsync", self.nbytes, offset, length)

        def made(cancelled: threading.Event) -> Scratch:
            def look() -> None:
                if cancelled.is_set():
                    raise TransferCancelled("the task that awaited the promotion was cancelled")

            asked = Asked(
                "promoteAsync",
                targetGpu,
                timeout,
                track,
                sliceBytes,
                look=look,
                progress=progress,
            )
            scratch = promoted(self, window, asked, stream)
            if cancelled.is_set():  # nobody gets it
                scratch.close()
            return scratch

        return await waited(made, lambda: None)

    @named
    def writeback(self, offset: int, length: int, sourceGpu: int, scratchPtr: Any) -> int:
        """Mark a range of a promoted window, by the address of its scratch memory, and copy
        all back that is dirty (`Scratch.writeback`); returns the new generation.

        Parameters
        ----------
        offset, length
            The range, in bytes of the buffer.
        sourceGpu, scratchPtr
            The GPU, and what `promote` returned, or its address.

        Raises
        ------
        InvalidArgument
            No window of this buffer is promoted there.
        WritebackConflict, PermissionDenied
        """
        from muninn.api.windowtable import windowAt

        scratch = windowAt(self, sourceGpu, scratchPtr)
        begin = asInteger(offset)
        if begin is None:
            raise TypeError("writeback: offset is a number of bytes")
        if begin < scratch.offset:
            raise InvalidArgument(
                f"writeback: offset {begin} is before the window, which begins at {scratch.offset}",
                "Pass offset and length in bytes of the buffer",
            )
        scratch.markDirty(begin - scratch.offset, length)
        return scratch.writeback()
