"""Copies between GPUs: `copyTo`, `copyFrom`, and `open` for another GPU.

A copy is of one whole generation: it is made inside a read access of the source, and
for `copyFrom` inside a write access of the target. The new buffer of `copyTo` can be
opened by others once all bytes are there. Which way the bytes go, and why, is the
engine's (`transfer/`), and each copy says so. `api/transfers.py` does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from muninn.api import transfers
from muninn.api.attachment import Attachment
from muninn.api.protocols import privateForKernels
from muninn.api.transfers import Progress
from muninn.arguments import asInteger, named
from muninn.errors import InvalidArgument
from muninn.session.gpus import deviceOf
from muninn.sync.asyncwait import waited
from muninn.terms import AccessWord, nearest
from muninn.transfer.routes import ASKABLE, Route

if TYPE_CHECKING:
    from muninn.api.scratch import Scratch
    from muninn.transfer.handle import Report, Transfer

RouteWord = Literal["p2p", "staged"]
#: What `open` takes too.
OpenRouteWord = Literal["p2p", "staged", "mapped"]
MAPPED = "mapped"
_WORDS = tuple(map(str, ASKABLE))
Buffer = TypeVar("Buffer", bound="Copies")


class Copies(Attachment):
    """The part of a buffer object that copies."""

    __slots__ = ()

    @named
    def copyTo(
        self,
        gpu: int,
        *,
        name: str | None = None,
        access: AccessWord | None = None,
        route: RouteWord | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Copy the buffer to a GPU. Returns a new buffer in that GPU's VRAM, which any
        process can open; its `transfer` says which way the bytes went, and why.

        Parameters
        ----------
        gpu
            The GPU, by its index in this process.
        name
            The new buffer's name. Without one it is freed with its last user.
        access
            The rights of other processes on it; those of this buffer by default.
        route
            ``"p2p"`` or ``"staged"`` demands this way between two GPUs; by default the
            faster one that was seen to be right is taken.
        timeout
            Seconds for all of it; `TimeoutError` when they are over, and nothing is
            left of the copy.
        progress
            Called with the bytes that have arrived since the last call.

        Raises
        ------
        TopologyNotPeerable
            `route` is ``"p2p"``, and that can not be: the reason is in the text.
        WriterDied
            The last writer died or gave up half way.
        BufferExists, QuotaExceeded, DeviceUnavailable
        """
        copy = transfers.copyTo(
            self, "copyTo", gpu, name, access, _asRoute(route, "copyTo"), timeout, progress
        )
        return copy.run()

    @named
    def startCopyTo(
        self,
        gpu: int,
        *,
        name: str | None = None,
        access: AccessWord | None = None,
        route: RouteWord | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Transfer[Self]:
        """`copyTo` on a thread of its own. Returns at once: ``transfer.result()`` waits
        for the new buffer, as ``await transfer`` does, and ``transfer.cancel()`` stops.
        """
        copy = transfers.copyTo(
            self,
            "startCopyTo",
            gpu,
            name,
            access,
            _asRoute(route, "startCopyTo"),
            timeout,
            progress,
        )
        return copy.start()

    @named
    def copyFrom(
        self,
        source: Copies,
        *,
        route: RouteWord | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Publish the bytes of another buffer of the same shape and dtype as the next
        generation of this one; returns the generation. The other parameters and the
        errors are those of `copyTo`.

        If it fails half way, readers get `WriterDied` until the next write.

        Raises
        ------
        BufferMismatch
            The two have not the same shape and dtype.
        PermissionDenied
            This object is open for reading.
        """
        return transfers.copyFrom(
            self, "copyFrom", source, _asRoute(route, "copyFrom"), timeout, progress
        ).run()

    @named
    def startCopyFrom(
        self,
        source: Copies,
        *,
        route: RouteWord | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Transfer[int]:
        """`copyFrom` on a thread of its own; see `startCopyTo`."""
        return transfers.copyFrom(
            self, "startCopyFrom", source, _asRoute(route, "startCopyFrom"), timeout, progress
        ).start()

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
            Seconds to wait for room in the budgets, and for writers.
        stream
            The stream of the kernels. The end of the block waits for its work; without
            it, for all work of this process.
        track
            Kernels and ``scratch.markDirty()`` say what they write, by
            ``scratch.dirtyFlags``. By default the window is compared with a second copy
            of it on the GPU, which takes as much room again.
        sliceBytes
            The unit in which writes are told apart, from 4096 on; 64 KiB unless
            configured otherwise.

        Raises
        ------
        PromotionDenied
            The budget of the GPU or of the tenant has no room, or too many windows are
            under way, for `timeout` seconds; the figures are in the text.
        WritebackConflict
            At the end: the buffer was written meanwhile.
        WriterDied, DeviceUnavailable, BarPressureHigh
        """
        from muninn.api.promotion import promoted
        from muninn.api.scratch import askedRange

        return promoted(
            "promote",
            self,
            askedRange("promote", self.nbytes, offset, length),
            targetGpu,
            timeout=timeout,
            stream=stream,
            isTracked=track,
            sliceBytes=sliceBytes,
        )

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
    ) -> Scratch:
        """`promote` for asyncio: ``with await buffer.promoteAsync(…) as scratch:``. The
        copy is made on a thread of its own, so that other tasks, and kernels, go on.
        """
        from muninn.api.promotion import promoted
        from muninn.api.scratch import askedRange

        window = askedRange("promoteAsync", self.nbytes, offset, length)

        def made(_: object) -> Scratch:
            return promoted(
                "promoteAsync",
                self,
                window,
                targetGpu,
                timeout=timeout,
                stream=stream,
                isTracked=track,
                sliceBytes=sliceBytes,
            )

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
        from muninn.api.scratch import scratchAt

        scratch = scratchAt(self, sourceGpu, scratchPtr)
        begin = asInteger(offset)
        if begin is None:
            raise TypeError("writeback: offset is a number of bytes")
        scratch.markDirty(begin - scratch.offset, length)
        return scratch.writeback()

    @property
    def transfer(self) -> Report | None:
        """How the bytes came, for a buffer that `copyTo` made or that was opened for
        another GPU: `route`, `reason`, `seconds`.
        """
        return self._transfer

    @property
    def route(self) -> str | None:
        """The way of the bytes to the GPU for which it was opened: the `transfer`'s, or
        ``"mapped"``; None for any other buffer.
        """
        if self._kernelsOn is not None:
            return MAPPED
        return None if self._transfer is None else self._transfer.route


def openedFor(buffer: Buffer, caller: str, targetGpu: int, route: str | None) -> Buffer:
    """A buffer for the kernels of a GPU: `buffer` itself if they reach it, else a copy.

    Raises
    ------
    TopologyNotPeerable
        The route that the caller demands can not be.
    InvalidArgument
        There is no such route, or `buffer` is open copyOnWrite and to be mapped.
    """
    asked = None if route == MAPPED else _asRoute(route, caller, (*_WORDS, MAPPED))
    openBuffer = buffer._checked()
    gpu = deviceOf(openBuffer.context).requireGpu(targetGpu)
    if route == MAPPED:
        if buffer._isPrivate:
            raise privateForKernels(buffer.name)
        transfers.requireLink(openBuffer, gpu)
        buffer._mapFor(gpu, openBuffer)
        return buffer
    if openBuffer.memory.gpu == gpu:
        return buffer
    return transfers.copyTo(
        buffer, caller, gpu, None, None, asked, None, None, isOpening=True
    ).run()


def _asRoute(value: object, caller: str, words: tuple[str, ...] = _WORDS) -> Route | None:
    """A route that a user demands, or None."""
    if value is None:
        return None
    if value not in words:
        meant = nearest(str(value), list(words))
        hint = f" (did you mean {meant!r}?)" if meant else ""
        raise InvalidArgument(
            f"{caller}: route {value!r} is not known{hint}",
            f"Use {' or '.join(f'`{each}`' for each in words)}, or leave it out",
        )
    return Route(str(value))
