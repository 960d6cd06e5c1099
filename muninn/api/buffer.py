"""`MuninnBuffer`: the object that users get, one for each call that opens a buffer.

It is a view of an open buffer (the process's one lease and one mapping of that buffer)
with rights of its own. A second `close` does nothing. Arrays taken from the object keep
the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from muninn.api import views
from muninn.api.attachment import readsOnly
from muninn.api.handles import held
from muninn.api.listing import describeRow
from muninn.api.notebooks import htmlOf, shownOr
from muninn.api.options import BufferKeywords, describesOptions, optionsOf, takesOptions
from muninn.api.promoting import Promotes
from muninn.api.protocols import Exposure, Protocols, privateForKernels
from muninn.api.specs import asSize, specOf
from muninn.api.views import Region
from muninn.arguments import secondsOf, timeoutOf
from muninn.control import layout
from muninn.interop.dtypes import elementOf
from muninn.observe.calls import named
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.openbuffer import OpenBuffer
from muninn.sync import fences
from muninn.sync.access import WITHOUT_STREAM, Reading, Writing
from muninn.sync.asyncwait import waited
from muninn.sync.publications import nextOf
from muninn.sync.snapshots import READ_BOUND_SECONDS, snapshot
from muninn.system import aside
from muninn.system.closable import Closable
from muninn.terms import Access, AccessWord, ModeWord, asRenew


@describesOptions
class MuninnBuffer(Protocols, Promotes, Closable):
    """A named region of memory that every process of this host may share.

    Calling the class creates a buffer; `muninn.open` finds one.

    Parameters
    ----------
    size
        Bytes; above 0. Also as text, ``"128G"``.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    UnsupportedMode, InvalidArgument, BufferExists, QuotaExceeded, HostMemoryFull,
    DomainDraining
    """

    __slots__ = ()

    @named
    @takesOptions
    def __init__(
        self,
        size: int | str,
        mode: ModeWord | None = "bigMode",
        preferredGpu: int | None = None,
        access: AccessWord | None = None,
        name: str | None = None,
        tenant: str | None = None,
        **options: Unpack[BufferKeywords],
    ) -> None:
        given = optionsOf(
            MuninnBuffer.__init__,
            mode=mode,
            preferredGpu=preferredGpu,
            access=access,
            name=name,
            tenant=tenant,
            **options,
        )
        sizeBytes, renewal = asSize(size), asRenew(given.renew, "MuninnBuffer")
        spec = specOf("MuninnBuffer", (sizeBytes,), np.dtype(np.uint8), given)
        self._bind(creation.create(spec, progress=given.progress), spec.access, renewal)

    def _exposed(self) -> Exposure:
        openBuffer = self._checked()
        memory = self._bytes(openBuffer)
        return Exposure(openBuffer, memory, Region.of(openBuffer), self._writable, self._kernelsOn)

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The live bytes as an array of `shape` and `dtype`: no copy, no fence.
        Read-only unless opened for writing.

        `torch.from_dlpack` takes a read-only array without a warning, where
        `torch.from_numpy` has one; see `Bundle.__getitem__`.
        """
        openBuffer = self._checked()
        if self._writable and not self._isPrivate:
            openBuffer.letWriteInPlace()
        return self._view(openBuffer)

    def _view(self, openBuffer: OpenBuffer) -> np.ndarray[Any, np.dtype[Any]]:
        if self._array is None:
            region = Region.of(openBuffer)
            self._array = views.hostArray(self._bytes(openBuffer), region, self._writable)
        # Each caller gets an array object of its own, whose shape and flags it may
        # change.
        return self._array.view()

    def describe(self) -> dict[str, Any]:
        """All properties of the buffer, as a plain dict, and the rights of this object as
        ``"openedAs"``.
        """
        openBuffer = self._checked()
        described = describeRow(
            openBuffer.tables, openBuffer.context.gpus, openBuffer.row, openBuffer.description
        )
        element = elementOf(openBuffer)
        if openBuffer.description.kind == layout.ROW_KIND_ARRAY and element.structure is not None:
            described["dtype"] = str(element)  # the row has no names of fields
        if self.gpu is not None:
            # The row has the index in the process that made the buffer.
            described["gpu"] = self.gpu
            described["gpus"] = [each.memory.gpu for each in openBuffer.segments]
        described["openedAs"] = self._rights.value
        return described

    @named
    def write(self, timeout: float | None = None, *, stream: Any = WITHOUT_STREAM) -> Writing:
        """Publish: ``with buffer.write() as view:`` gives the array to one writer at a
        time, and readers see all of it or nothing.

        Parameters
        ----------
        timeout
            Seconds to wait for another writer; None waits as long as that writer lives.
            `TimeoutError` when they are over.
        stream
            With a stream, kernels write: the view is `deviceArray()`, the stream waits
            for the accesses that still read or write, and leaving the block signals.
            None is the default stream, which is also used for a buffer in VRAM if no
            stream is given.

        Raises
        ------
        RuntimeError
            This thread is inside an access of this buffer already.
        """
        if not self._writable or self._isPrivate:
            raise readsOnly(self)
        return Writing(self, timeoutOf("write", timeout), stream)

    @named
    def read(
        self,
        out: np.ndarray[Any, Any] | None = None,
        timeout: float | None = None,
        *,
        stream: Any = WITHOUT_STREAM,
    ) -> Any:
        """A private copy of one whole generation on the host, never torn; with a
        stream, a read access for kernels.

        Parameters
        ----------
        out
            A C-contiguous array of the same shape and dtype that takes the copy; None
            makes one.
        timeout
            Seconds to wait for a whole copy, 10 by default; `TimeoutError` when they
            are over. A buffer that is written without a pause is copied in a read
            access. With a stream: seconds to wait for a writer, by default as long as
            that writer lives; the stream itself then waits for at most as long.
        stream
            ``with buffer.read(stream=s) as view:`` copies nothing: the view is
            `deviceArray()`, the stream waits for the accesses that write, and the next
            writer's stream waits for the work that the block gives this stream. None is
            the default stream.

        Raises
        ------
        WriterDied
            The last writer died or gave up half way; the next one repairs it.
        OwnerDied
            The last writer died before its kernels were done.
        RuntimeError
            This thread is inside a write access of this buffer: its bytes are in that
            access's view.
        """
        if stream is not WITHOUT_STREAM:
            return Reading(self, stream, timeoutOf("read", timeout))
        return snapshot(
            self._checked(),
            out,
            READ_BOUND_SECONDS if timeout is None else secondsOf("read", timeout),
        )

    @named
    def waitNext(
        self,
        timeout: float | None = None,
        after: int | None = None,
        out: np.ndarray[Any, Any] | None = None,
    ) -> int:
        """Wait until a newer generation is published; returns it.

        To take each publication once, call ``known = buffer.waitNext(after=known,
        out=frame)``. A `read()` after the wait may copy a later generation than the
        wait returned, which the next wait then returns again.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as the buffer lives. `TimeoutError` when they
            are over.
        after
            The generation that the caller knows already; by default the present one.
        out
            An array that takes a copy, as for `read(out)`; the call then returns the
            generation that is in the copy.

        Raises
        ------
        WriterDied, BufferFreed, LeaseRevoked
        """
        return nextOf(self, timeoutOf("waitNext", timeout), after, out)

    @named
    async def waitNextAsync(
        self,
        timeout: float | None = None,
        after: int | None = None,
        out: np.ndarray[Any, Any] | None = None,
    ) -> int:
        """`waitNext` for asyncio: it waits in a thread of its own, which ends at once
        when the task is cancelled.
        """
        bound = timeoutOf("waitNextAsync", timeout)
        generation = self._checked().generation
        return await waited(
            lambda cancelled: nextOf(self, bound, after, out, cancelled), generation.wake
        )

    # --- fences ----------------------------------------------------------------------

    @named
    def signal(self, stream: Any = None) -> int:
        """Issue a ticket that is done when the work of `stream` up to now is done.
        Returns the ticket.
        """
        return fences.signal(self._checked(), stream)

    @named
    def wait(
        self, stream: Any = None, ticket: int | None = None, timeout: float | None = None
    ) -> int:
        """Make `stream` wait for a ticket, by default the last one issued. Without a
        stream, this call waits.

        Raises
        ------
        InvalidArgument
            The ticket was never issued for this buffer.
        OwnerDied
            The member that issued the ticket died before it was done, or the stream
            that was to complete it failed.
        TimeoutError
            `timeout` seconds passed since this call. If a stream waits, these errors
            become the stream's.
        """
        return fences.wait(self._checked(), stream, ticket, timeoutOf("wait", timeout))

    # --- opening and closing ---------------------------------------------------------

    @named
    def open(self, *, progress: Callable[[int], None] | None = None) -> int:
        """The address at which kernels and C of this process reach the bytes; it does
        not change while the buffer is open.

        On a machine with GPUs the first call maps a bigMode buffer for them, which pins
        its pages, piece by piece.

        Parameters
        ----------
        progress
            Called with the bytes that were pinned since the last call, on this thread,
            after each piece (some 25 ms). An exception that it raises cancels the
            mapping, as Ctrl-C does: what was pinned is unpinned, and the call raises
            that exception. The buffer stays open, and a later call maps it.

        Raises
        ------
        BarPressureHigh
            The budget of mapped host memory is used up.
        InvalidArgument
            This object is open copyOnWrite; the address of `array` is for the CPU.
        """
        if self._isPrivate:
            raise privateForKernels(self.name)
        openBuffer = self._checked()
        openBuffer.memory.device = device = deviceOf(openBuffer.context)
        if self._writable:
            openBuffer.letWriteInPlace()
        return openBuffer.memory.devicePointer(device, progress)

    def close(self) -> None:
        """Close this object. Arrays taken from it stay valid, and keep the memory until
        they are collected.
        """
        if self._isLender:
            aside.refuseOwn()  # it waits until no other process has the buffer open
        openBuffer, private = self._openBuffer, self._private
        self._openBuffer = self._private = self._renewal = self._array = None
        self._repeats.clear()
        if openBuffer is not None:
            context = openBuffer.context
            if self._isLender and not context.isStale():
                context.lent.takeBack(
                    openBuffer.row, openBuffer.incarnation, openBuffer.description.name
                )
            # This may be the last reference. Without arrays on the memory, the lease
            # and the mapping are given back in this call.
            last = [openBuffer, private]
            del openBuffer, private
            context.releases.letGo(last)

    def free(self) -> None:
        """Free the name now, and the memory when its last holder closes it. A second
        call does nothing.

        Raises
        ------
        DomainChanged
            This process is in another control block by now. Nothing is freed.
        BufferFreed
            This object was closed before. Nothing is freed; `muninn.free` takes a name.
        """
        if self._isFreed:
            return
        openBuffer = self._held()
        row, incarnation, tables, client = (
            openBuffer.row,
            openBuffer.incarnation,
            openBuffer.tables,
            openBuffer.context.client,
        )
        # The buffer's own block decides: in another block the same numbers may be a
        # different buffer.
        if tables.rows.mayBeFreed(row, incarnation):
            membership = current().requireSame(tables, openBuffer.description.name)
            tables, client = membership.tables, membership.client
        del openBuffer  # so that `close` drops the last reference
        try:
            # Close first: then the broker finds no lease of this process, and needs no
            # second message when it ends.
            if not self._isLender:
                self.close()
            if tables.rows.mayBeFreed(row, incarnation):
                client.free(row, incarnation)
            self._isFreed = True
        finally:
            self.close()

    def __reduce__(self) -> tuple[Any, tuple[str, bytes, Access | None]]:
        """A pickle, and a copy by `copy`, open the buffer anew. If this object is open
        copyOnWrite, so is the new one, with the shared bytes and private memory of its own.
        """
        access = Access.COPY_ON_WRITE if self._isPrivate else None
        return _unpickle, (self.name, self.handle, access)

    def _repr_html_(self) -> str:
        return shownOr(
            "MuninnBuffer", lambda: htmlOf(None if self._openBuffer is None else self.describe())
        )


def _unpickle(name: str, handle: bytes, access: Access | None = None) -> MuninnBuffer:
    """Open a buffer that was pickled, by its handle, with its rights or with `access`. The
    name is for the error message.
    """
    return MuninnBuffer._of(*held(handle, name, access))
