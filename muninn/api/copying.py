"""Copies between GPUs: `copyTo`, `copyFrom`, and `open` for another GPU.

A copy is of one whole generation: it is made inside a read access of the source, and
for `copyFrom` inside a write access of the target. The new buffer of `copyTo` can be
opened by others once all bytes are there. Which way the bytes go, and why, is the
engine's (`transfer/`), and each copy says so. `api/transfers.py` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from muninn.api import transfers
from muninn.api.attachment import Attachment
from muninn.api.protocols import privateForKernels
from muninn.api.transfers import Progress
from muninn.errors import InvalidArgument
from muninn.observe.calls import named
from muninn.observe.counters import count
from muninn.session.gpus import deviceOf
from muninn.terms import AccessWord, chosen
from muninn.transfer.routes import ASKABLE, Route

if TYPE_CHECKING:
    from muninn.transfer.handle import Report, Transfer

RouteWord = Literal["p2p", "staged"]
#: What `open` takes too.
OpenRouteWord = Literal["p2p", "staged", "mapped"]
MAPPED = "mapped"
_ROUTES = {str(route): route for route in ASKABLE}
_OPEN_ROUTES = {**_ROUTES, MAPPED: MAPPED}
Buffer = TypeVar("Buffer", bound="Copies")
_Asked = TypeVar("_Asked", bound=str)


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
            faster one that was seen to be right is taken. Within one GPU, and with host
            memory, there is one way only, and `transfer` names it.
        timeout
            Seconds for all of it; `TimeoutError` when they are over, and nothing is
            left of the copy.
        progress
            Called with the bytes that have arrived since the last call.

        Raises
        ------
        TopologyNotPeerable
            `route` is ``"p2p"``, and that can not be, as where host memory takes part:
            the reason is in the text.
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
        if timeout is None and progress is None:
            repeat = self._repeats.get(id(source))
            if repeat is not None:
                generation = repeat.copy(self._openBuffer, source, route)
                if generation is not None:
                    return generation
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


@named
def openedFor(buffer: Buffer, caller: str, targetGpu: int, route: str | None) -> Buffer:
    """A buffer for the kernels of a GPU: `buffer` itself if they reach it, else a copy.

    Raises
    ------
    TopologyNotPeerable
        The route that the caller demands can not be.
    InvalidArgument
        There is no such route, or `buffer` is open copyOnWrite and to be mapped.
    """
    asked = _asked(_OPEN_ROUTES, route, caller)
    openBuffer = buffer._checked()
    gpu = deviceOf(openBuffer.context).requireGpu(targetGpu)
    if not isinstance(asked, Route | None):  # MAPPED, by which nothing is copied
        if buffer._isPrivate:
            raise privateForKernels(buffer.name)
        transfers.requireLink(openBuffer, gpu)
        buffer._mapFor(gpu, openBuffer)
        count("transfers", "mapped/asked")
        return buffer
    if openBuffer.memory.gpu == gpu:
        return buffer
    return transfers.copyTo(
        buffer, caller, gpu, None, None, asked, None, None, isOpening=True
    ).run()


def _asRoute(value: object, caller: str) -> Route | None:
    """A route that a user demands, or None."""
    return _asked(_ROUTES, value, caller)


def _asked(words: Mapping[str, _Asked], value: object, caller: str) -> _Asked | None:
    if value is None:
        return None
    return chosen(words, "route", value, InvalidArgument, caller, ", or leave it out")
