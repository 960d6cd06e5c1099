"""`MuninnBuffer`: what users get, one object per open.

It is a view of a holding (the process's one lease and one mapping of that buffer) with rights of its own. Closing it twice is fine;
arrays taken from it keep the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Unpack

import numpy as np

from muninn.api import views
from muninn.api.handles import held
from muninn.api.listing import describeRow, htmlOf
from muninn.api.options import BufferKeywords, describesOptions, optionsOf, takesOptions
from muninn.api.specs import asSize, specOf
from muninn.arguments import named, secondsOf, timeoutOf
from muninn.config.sizes import asText
from muninn.control import layout
from muninn.errors import BufferFreed, ControlBlockInvalid, PermissionDenied
from muninn.interop import arrays, readonly
from muninn.interop.dtypes import dtypeOf, shown
from muninn.interop.hostarrays import flatOf
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.session.lateimports import load
from muninn.session.membership import current
from muninn.session.openbuffers import Holding, checkExpiry
from muninn.sync import fences
from muninn.sync.access import WITHOUT_STREAM, Reading, Writing
from muninn.sync.asyncwait import waited
from muninn.sync.publications import nextOf
from muninn.sync.snapshots import READ_BOUND_SECONDS, snapshot
from muninn.system import aside
from muninn.system.clock import monotonicMs
from muninn.terms import Access, AccessWord, ModeWord, Renew, asRenew


@describesOptions
class MuninnBuffer:
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
    UnsupportedMode, InvalidArgument, BufferExists, QuotaExceeded, HostMemoryFull, DomainDraining
    """

    __slots__ = ("__weakref__", "_array", "_expiresMs", "_holding", "_isLender", "_renewal", "_writable")

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
        given = optionsOf(MuninnBuffer.__init__, mode=mode, preferredGpu=preferredGpu, access=access, name=name, tenant=tenant, **options)
        sizeBytes, renewal = asSize(size), asRenew(given.renew, "MuninnBuffer")
        spec = specOf("MuninnBuffer", (sizeBytes,), np.dtype(np.uint8), given)
        self._bind(creation.create(spec, progress=given.progress), spec.access, renewal)

    @classmethod
    def _of(cls, holding: Holding, access: Access, renew: Renew = Renew.AUTO) -> MuninnBuffer:
        """A buffer object on a holding."""
        buffer = cls.__new__(cls)
        buffer._bind(holding, access, renew)
        return buffer

    def _bind(self, holding: Holding, access: Access, renew: Renew) -> None:
        self._writable = access is not Access.READ_ONLY
        if self._writable:
            holding.allowWriting()
        self._renewal = holding.renewal() if renew is Renew.AUTO else None
        self._expiresMs = 0 if renew is Renew.AUTO else monotonicMs() + holding.ttlMs
        self._holding: Holding | None = holding
        self._isLender = False
        self._array: np.ndarray[Any, np.dtype[Any]] | None = None

    def _checked(self) -> Holding:
        """The holding, for one more operation: open, not freed, lease in force. After a fork it is taken anew."""
        holding = self._held()
        if holding.holdings.isStale():
            holding = self._reopen(holding)
        if self._expiresMs:
            checkExpiry(holding.description.name, self._expiresMs)
            self._expiresMs = monotonicMs() + holding.ttlMs
        holding.check()
        return holding

    def _held(self) -> Holding:
        """The holding, whatever has become of what it holds. Raises `BufferFreed` once this object is closed."""
        if self._holding is None:
            raise BufferFreed("this buffer object is closed", "Open the name again")
        return self._holding

    def _reopen(self, old: Holding) -> Holding:
        """In a forked child: the parent's lease is not ours, so take one, in the same control block."""
        holding = current().requireSame(old.tables, old.description.name).holdings.hold(old.row, old.incarnation)
        if holding is None:
            raise BufferFreed(f"{old.description.name!r} was freed")
        self._bind(holding, Access.READ_WRITE if self._writable else Access.READ_ONLY, Renew.ON_USE if self._expiresMs else Renew.AUTO)
        return holding

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def _description(self) -> Any:
        return self._held().description

    @property
    def name(self) -> str:
        return str(self._description.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._description.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtypeOf(self._held())

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return int(self._description.sizeBytes)

    size = nbytes

    @property
    def mode(self) -> str:
        return str(self._description.mode.value)

    @property
    def gpu(self) -> int | None:
        """The GPU whose VRAM it is, as this process counts them, or None."""
        return self._held().memory.gpu

    @property
    def access(self) -> str:
        """What the buffer allows; `writable` says what this object may."""
        return str(self._description.access.value)

    @property
    def writable(self) -> bool:
        return self._writable

    @property
    def tenant(self) -> str:
        return str(self._description.tenant)

    @property
    def generation(self) -> int:
        """The publication counter: even, or odd while somebody writes."""
        return self._checked().generation.value()

    @property
    def handle(self) -> bytes:
        """64 opaque bytes that open this buffer, with the rights of this object, wherever they are taken in this domain."""
        holding = self._checked()
        secret = holding.tables.block.secret
        access = Access.READ_WRITE if self._writable else Access.READ_ONLY
        description = holding.description
        issued: bytes = load().handles.issue(secret, holding.row, holding.incarnation, access, description.sizeBytes, description.tenant)
        return issued

    def describe(self) -> dict[str, Any]:
        """Everything there is to say about the buffer, as a plain dict."""
        holding = self._checked()
        described = describeRow(holding.tables, holding.holdings.gpus, holding.row, holding.description)
        if holding.description.kind == layout.ROW_KIND_ARRAY and self.dtype.fields is not None:
            described["dtype"] = shown(self.dtype)  # the row alone knows no fields
        if self.gpu is not None:
            described["gpu"] = self.gpu  # as this process counts them, and not as the one that made it
        return described

    # --- the bytes ---------------------------------------------------------------------------------------------------

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The live bytes as an array of `shape` and `dtype`: no copy, no fence. Read-only unless opened for writing.

        `torch.from_dlpack` takes a read-only array without a warning, where `torch.from_numpy` has one; see `Bundle.__getitem__`.
        """
        return self._view(self._checked())

    @named
    def deviceArray(self, gpu: int | None = None) -> Any:
        """The live bytes as an array that kernels take: Numba's device array of `shape` and `dtype`, no copy, no fence.

        On pretended GPUs, where kernels are their CPU twins, it is `array`.

        Parameters
        ----------
        gpu
            Whose kernels will use it; the buffer's own GPU, or the one that is worked on, when not given.

        Raises
        ------
        DeviceUnavailable
            There is no such GPU, or Numba is not installed.
        BarPressureHigh
            The host memory can not be mapped for GPUs: the budget is used up.
        """
        holding = self._checked()
        memory, description = holding.memory, holding.description
        memory.device = deviceOf(holding.holdings)
        return views.deviceArray(memory, 0, description.shape, dtypeOf(holding), self._writable, gpu)

    def _view(self, holding: Holding) -> np.ndarray[Any, np.dtype[Any]]:
        if self._array is None:
            description = holding.description
            flat = flatOf(holding.memory, description.sizeBytes, writable=self._writable)
            try:
                self._array = flat.view(dtypeOf(holding)).reshape(description.shape)
            except ValueError as error:
                raise ControlBlockInvalid(f"the row of {description.name!r} states a shape that its bytes do not have: {error}") from error
        return self._array.view()  # an array of the caller's own, whose shape and flags it may change

    @named
    def write(self, timeout: float | None = None, *, stream: Any = WITHOUT_STREAM) -> Writing:
        """Publish: ``with buffer.write() as view:`` gives the array to one writer at a time, and readers see all of it or nothing.

        Parameters
        ----------
        timeout
            Seconds to wait for another writer; None waits as long as that one lives. `TimeoutError` when they are over.
        stream
            If given, kernels write: the view is `deviceArray()`, the stream waits for those who still read or write, and leaving
            signals. None is the default stream, and what is meant for a buffer in VRAM.

        Raises
        ------
        RuntimeError
            This thread is inside a turn of this buffer already.
        """
        if not self._writable:
            raise PermissionDenied(f"{self.name!r} is open for reading", 'Open it with access="readWrite"')
        return Writing(self, timeoutOf("write", timeout), stream)

    @named
    def read(self, out: np.ndarray[Any, Any] | None = None, timeout: float | None = None, *, stream: Any = WITHOUT_STREAM) -> Any:
        """A private copy of one whole generation on the host, never torn; with a stream, a reader's turn for kernels.

        Parameters
        ----------
        out
            A C-contiguous array of the same shape and dtype that takes the copy; None makes one.
        timeout
            Seconds after which there is no whole copy yet: `TimeoutError`; 10 when not given. A buffer that is written without a pause is
            copied in a reader's turn. Of a stream's turn: seconds to wait for a writer, as long as that one lives when not given; its
            stream then waits for at most as long.
        stream
            ``with buffer.read(stream=s) as view:`` copies nothing: the view is `deviceArray()`, the stream waits for who writes, and
            the next writer's stream waits for what this one was given inside. None is the default stream.

        Raises
        ------
        WriterDied
            The last writer died or gave up half way; the next one repairs it.
        OwnerDied
            The last writer died before its kernels were done.
        RuntimeError
            This thread is inside a writer's turn of this buffer: its bytes are in that turn's view.
        """
        if stream is not WITHOUT_STREAM:
            return Reading(self, stream, timeoutOf("read", timeout))
        return snapshot(self._checked(), out, READ_BOUND_SECONDS if timeout is None else secondsOf("read", timeout))

    @named
    def waitNext(self, timeout: float | None = None, after: int | None = None, out: np.ndarray[Any, Any] | None = None) -> int:
        """Wait until a newer generation is published; returns it.

        To take each publication once, ``known = buffer.waitNext(after=known, out=frame)``. A `read()` behind it may copy a later one than
        was returned, which the next wait then returns again.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as the buffer lives. `TimeoutError` when they are over.
        after
            The generation that is known already; the present one when not given.
        out
            Takes a copy, as `read(out)` makes one; what is returned is then the generation that is in it.

        Raises
        ------
        WriterDied, BufferFreed, LeaseRevoked
        """
        return nextOf(self, timeoutOf("waitNext", timeout), after, out)

    @named
    async def waitNextAsync(self, timeout: float | None = None, after: int | None = None, out: np.ndarray[Any, Any] | None = None) -> int:
        """`waitNext` for asyncio: it waits in a thread of its own, which ends at once when the task is cancelled."""
        bound = timeoutOf("waitNextAsync", timeout)
        generation = self._checked().generation
        return await waited(lambda cancelled: nextOf(self, bound, after, out, cancelled), generation.wake)

    # --- fences ------------------------------------------------------------------------------------------------------

    @named
    def signal(self, stream: Any = None) -> int:
        """Promise: what `stream` was given so far is done when this ticket is. Returns the ticket."""
        return fences.signal(self._checked(), stream)

    @named
    def wait(self, stream: Any = None, ticket: int | None = None, timeout: float | None = None) -> int:
        """Make `stream` wait for a ticket, the last one issued when none is given; with no stream, wait here and now.

        Raises
        ------
        OwnerDied
            The member that issued the ticket died before it was done, or the stream that was to complete it failed.
        TimeoutError
            `timeout` seconds passed since this call. Of a stream that waits, these errors are the stream's.
        """
        return fences.wait(self._checked(), stream, ticket, timeoutOf("wait", timeout))

    # --- the life of it ----------------------------------------------------------------------------------------------

    @named
    def open(self, *, progress: Callable[[int], None] | None = None) -> int:
        """The address at which kernels and C of this process reach the bytes; it does not change while the buffer is open.

        On a machine with GPUs the first call maps a bigMode buffer for them, which pins its pages.

        Parameters
        ----------
        progress
            Called with the bytes that were pinned since the last call.

        Raises
        ------
        BarPressureHigh
            The budget of mapped host memory is used up.
        """
        holding = self._checked()
        holding.memory.device = device = deviceOf(holding.holdings)
        return holding.memory.devicePointer(device, progress)

    def close(self) -> None:
        """Give this object's hold back. Arrays taken from it stay valid, and keep the memory, until they are gone."""
        if self._isLender:
            aside.refuseOwn()  # it waits for who has it open
        holding, self._holding, self._renewal, self._array = self._holding, None, None, None
        if holding is not None:
            holdings = holding.holdings
            if self._isLender and not holdings.isStale():
                holdings.takeBack(holding)
            last = [holding]  # perhaps the last reference: without arrays on it, memory and lease go here and now
            del holding
            holdings.letGo(last)

    def free(self) -> None:
        """Free the name now, and the memory when its last holder lets go. Freeing what is free already is fine.

        Raises `DomainChanged`, and frees nothing, where this process is in another control block by now.
        """
        holding = self._held()
        row, incarnation, tables, client = holding.row, holding.incarnation, holding.tables, holding.holdings.client
        if tables.rows.mayBeFreed(row, incarnation):  # said by its own block; the same numbers are a stranger's buffer in any other
            membership = current().requireSame(tables, holding.description.name)
            tables, client = membership.tables, membership.client
        del holding  # `close` is to let go of the last one
        try:
            if not self._isLender:  # then first: the broker finds no hold of this process, and need not be told of its end later
                self.close()
            if tables.rows.mayBeFreed(row, incarnation):
                client.free(row, incarnation)
        finally:
            self.close()

    def __enter__(self) -> MuninnBuffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- what others take it for -----------------------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        if not self._checked().memory.isHostVisible:
            if copy is False:
                raise ValueError(f"{self.name!r} is in VRAM: an array on the host is a copy of it")
            return np.asarray(self.read(), dtype)
        array = self.array
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"a view as {shown(dtype)} is not possible without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.array)  # type: ignore[arg-type]  # numpy declares the protocol from Python 3.12 on

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For real GPUs: VRAM, and host memory that `open` or `deviceArray` has mapped. Any other buffer has no such attribute."""
        holding = self._checked()
        memory = holding.memory
        if memory.device is None or not memory.isMapped() or memory.device.runsKernelsOnHost:
            raise AttributeError(f"{self.name!r} is not mapped for a GPU")
        address = memory.devicePointer(memory.device)
        # Who takes it waits for the stream named in it: the default one, when that has to wait for a writer itself.
        stream = arrays.LEGACY_STREAM if fences.behindWriters(holding) else None
        return arrays.cudaArrayInterface(address, self.shape, None, dtypeOf(holding), not self._writable, stream)

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        holding = self._checked()
        if not self._writable:
            readonly.tellBorrower(holding.description, keywords)
        if holding.memory.isHostVisible:
            return self.array.__dlpack__(stream=stream, **keywords)
        if (consumer := arrays.consumerStream(stream)) is not None:
            fences.holdBack(holding, consumer, writing=False, timeout=None)
        return views.tensor(holding.memory, self.shape, dtypeOf(holding), self._writable, **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return views.tensorDevice(self._checked().memory)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a buffer without dimensions has no length")
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, tuple[str, bytes]]:
        return _unpickle, (self.name, self.handle)

    def __repr__(self) -> str:
        if self._holding is None:
            return "<MuninnBuffer closed>"
        description = self._holding.description
        where = description.mode.value if self.gpu is None else f"{description.mode.value} gpu={self.gpu}"
        return f"<MuninnBuffer {description.name!r} {description.dtype}{list(description.shape)} {asText(description.sizeBytes)} {where}>"

    def _repr_html_(self) -> str:
        return htmlOf(None if self._holding is None else self.describe(), self._writable)


def _unpickle(name: str, handle: bytes) -> MuninnBuffer:
    """Open what was pickled; the handle decides, the name is for the error message."""
    return MuninnBuffer._of(*held(handle, name))
