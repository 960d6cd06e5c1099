"""The part of a buffer object that refers to an open buffer, with rights of its own,
the properties that are read from it, and the wait for a newer version of its name.

Each method gets the open buffer by `_checked`. That refuses a buffer that was freed and
a lease that was revoked or has expired, and in a forked child it takes a new lease.
`_held` is for properties that the description alone states: they stay true after the
end of the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from muninn.api.repeats import Repeat
from muninn.arguments import timeoutOf
from muninn.config.sizes import asText
from muninn.errors import BufferFreed, MuninnError, PermissionDenied
from muninn.interop.dtypes import elementOf
from muninn.observe.calls import countError, named
from muninn.session.gpus import deviceOf
from muninn.session.lateimports import load
from muninn.session.membership import current
from muninn.session.openbuffer import OpenBuffer, checkExpiry
from muninn.session.privatememory import PrivateMemory
from muninn.sync.asyncwait import waited
from muninn.sync.versions import awaitNewer, watchOf
from muninn.system.clock import monotonicMs
from muninn.terms import Access, Renew

if TYPE_CHECKING:
    from muninn.session.mappings import Memory
    from muninn.transfer.handle import Report


class Attachment:
    """The reference of one `MuninnBuffer` to an open buffer, and the properties of the
    buffer.
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_expiresMs",
        "_isFreed",
        "_isLender",
        "_kernelsOn",
        "_openBuffer",
        "_private",
        "_renewal",
        "_repeats",
        "_rights",
        "_transfer",
        "_writable",
    )

    @classmethod
    def _of(cls, openBuffer: OpenBuffer, access: Access, renew: Renew = Renew.AUTO) -> Self:
        """A buffer object on an open buffer."""
        buffer = cls.__new__(cls)
        buffer._bind(openBuffer, access, renew)
        return buffer

    @property
    def _renewed(self) -> Renew:
        """How the lease is renewed."""
        return Renew.ON_USE if self._expiresMs else Renew.AUTO

    #: The GPU whose kernels use it by default; None: its own.
    _kernelsOn: int | None
    #: The transfer by which its bytes came.
    _transfer: Report | None

    def _bind(
        self,
        openBuffer: OpenBuffer,
        access: Access,
        renew: Renew,
        private: PrivateMemory | None = None,
    ) -> None:
        """Refer to an open buffer. With copyOnWrite `private` is the private memory that
        this object has already, if there is one.
        """
        self._writable = access is not Access.READ_ONLY
        if access is Access.COPY_ON_WRITE:
            private = private or openBuffer.openPrivate()
            openBuffer.keepFor(private)
        elif self._writable:
            openBuffer.allowWriting()
            access = Access.READ_WRITE
        self._rights, self._private = access, private
        self._renewal = openBuffer.renewal() if renew is Renew.AUTO else None
        self._expiresMs = 0 if renew is Renew.AUTO else monotonicMs() + openBuffer.ttlMs
        self._openBuffer: OpenBuffer | None = openBuffer
        self._isLender = self._isFreed = False
        self._kernelsOn = self._transfer = None
        self._repeats: dict[int, Repeat] = {}
        self._array: np.ndarray[Any, np.dtype[Any]] | None = None

    def _checked(self) -> OpenBuffer:
        """The open buffer, for one more operation. Raises if this object is closed, the
        buffer was freed, or its lease is not in force. A forked child opens it again.
        """
        try:
            openBuffer = self._held()
            if openBuffer.context.isStale():
                openBuffer = self._reopen(openBuffer)
            if self._expiresMs:
                checkExpiry(openBuffer.description.name, self._expiresMs)
                self._expiresMs = monotonicMs() + openBuffer.ttlMs
            openBuffer.check()
        except MuninnError as error:
            # Here, because `array` and `with` are no calls that count their errors.
            countError(error)
            raise
        return openBuffer

    def _held(self) -> OpenBuffer:
        """The open buffer, also when the buffer was freed meanwhile. Raises
        `BufferFreed` once this object is closed.
        """
        # Read once, because a finalizer may close this object between two reads.
        openBuffer = self._openBuffer
        if openBuffer is None:
            raise _closed()
        return openBuffer

    def _reopen(self, old: OpenBuffer) -> OpenBuffer:
        """Open the buffer again in a forked child, in the same control block: the lease
        is the parent's, so the child takes one of its own.
        """
        openBuffer = (
            current()
            .requireSame(old.tables, old.description.name)
            .openBuffers.hold(old.row, old.incarnation)
        )
        if openBuffer is None:
            raise _ended(old)
        gpu, transfer = self._kernelsOn, self._transfer
        self._bind(openBuffer, self._rights, self._renewed, self._private)
        self._transfer = transfer
        if gpu is not None:
            self._mapFor(gpu, openBuffer)
        return openBuffer

    def _mapFor(self, gpu: int, openBuffer: OpenBuffer) -> None:
        """Let kernels of a GPU use the bytes where they are."""
        openBuffer.memory.letReach(gpu, deviceOf(openBuffer.context))
        self._kernelsOn = gpu

    @property
    def _isPrivate(self) -> bool:
        """Whether this object is open copyOnWrite."""
        return self._rights is Access.COPY_ON_WRITE

    def _bytes(self, openBuffer: OpenBuffer) -> Memory | PrivateMemory:
        """The memory of which this object gives arrays. Raises `BufferFreed` if it was
        private, and this object was closed meanwhile: the shared memory is no substitute.
        """
        if not self._isPrivate:
            return openBuffer.memory
        private = self._private
        if private is None:
            raise _closed()
        return private

    @property
    def isClosed(self) -> bool:
        """Whether this object was closed."""
        return self._openBuffer is None

    @property
    def _isInherited(self) -> bool:
        """Whether this process is yet to open the buffer: it is a forked child of the one
        that did, or has left the domain since.
        """
        openBuffer = self._openBuffer
        return openBuffer is not None and openBuffer.context.isStale()

    @property
    def isCurrent(self) -> bool:
        """Whether `open` would give this version of the name. False for a buffer that
        was freed, or whose name a newer version has (`muninn.publish`), and for a
        closed object.
        """
        openBuffer = self._openBuffer
        return openBuffer is not None and openBuffer.isLive()

    @named
    def waitNewer(self, timeout: float | None = None) -> None:
        """Wait until a newer version (`muninn.publish`) can be opened by the name.
        Returns at once if there is one already. This object stays on its own version:
        open the name again.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as the buffer lives. `TimeoutError` when they
            are over.

        Raises
        ------
        BufferFreed
            The name was freed, and nothing was published since. If this object is an
            older version, it can still be used.
        LeaseRevoked
        """
        awaitNewer(self, timeoutOf("waitNewer", timeout))

    @named
    async def waitNewerAsync(self, timeout: float | None = None) -> None:
        """`waitNewer` for asyncio: it waits in a thread of its own, which ends soon after
        the task is cancelled.
        """
        bound = timeoutOf("waitNewerAsync", timeout)
        watch = watchOf(self)
        await waited(lambda cancelled: awaitNewer(self, bound, cancelled), watch.wake)

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
        """numpy's dtype. Raises `InvalidDtype` where numpy has none, or only by
        ml_dtypes, and that is not installed.
        """
        return elementOf(self._held()).dtype

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
        """The GPU in whose VRAM it is, by its index in this process, or None."""
        return self._held().memory.gpu

    @property
    def access(self) -> str:
        """The access with which the buffer was shared; `writable` says whether this object
        may write, and ``describe()["openedAs"]`` how it was opened.
        """
        return str(self._description.access.value)

    @property
    def writable(self) -> bool:
        """Whether the arrays of this object may be written: for all processes, or for
        this object only if it is open copyOnWrite.
        """
        return self._writable

    @property
    def tenant(self) -> str:
        return str(self._description.tenant)

    @property
    def generation(self) -> int:
        """The publication counter: even, or odd while a process writes."""
        return self._checked().generation.value()

    @property
    def handle(self) -> bytes:
        """64 opaque bytes by which any process of this domain opens this buffer, with
        the rights of this object. One that is open copyOnWrite may read what is shared.
        """
        openBuffer = self._checked()
        secret = openBuffer.tables.block.secret
        access = Access.READ_ONLY if self._isPrivate else self._rights
        description = openBuffer.description
        issued: bytes = load().handles.issue(
            secret,
            openBuffer.row,
            openBuffer.incarnation,
            access,
            description.sizeBytes,
            description.tenant,
        )
        return issued

    def __repr__(self) -> str:
        if self._openBuffer is None:
            return "<MuninnBuffer closed>"
        description = self._openBuffer.description
        where = (
            description.mode.value
            if self.gpu is None
            else f"{description.mode.value} gpu={self.gpu}"
        )
        return (
            f"<MuninnBuffer {description.name!r} "
            f"{description.dtype}{list(description.shape)} {asText(description.sizeBytes)} "
            f"{where}>"
        )


def readsOnly(buffer: Attachment) -> PermissionDenied:
    """The error for a write of the shared bytes by an object that may not write them."""
    name = buffer.name
    if buffer._held().description.access is Access.READ_ONLY:
        return PermissionDenied(
            f"{name!r} was shared readOnly: nobody may write it",
            'Share the data anew with access="readWrite"',
        )
    if buffer._isPrivate:
        return PermissionDenied(
            f"{name!r} is open copyOnWrite: its changes are this object's, and are not published",
            'Open it with access="readWrite" as well, for the write() or copyFrom() of that object',
        )
    return PermissionDenied(f"{name!r} is open for reading", 'Open it with access="readWrite"')


def _closed() -> BufferFreed:
    return BufferFreed("this buffer object is closed", "Open the name again")


def _ended(openBuffer: OpenBuffer) -> BufferFreed:
    """The error for a buffer that this process can not open again."""
    name = openBuffer.description.name
    if openBuffer.tables.rows.isReplaced(openBuffer.row, openBuffer.incarnation):
        return BufferFreed(
            f"{name!r} has a newer version, and this process had not opened the older one "
            "before its fork",
            "Open the name again",
        )
    return BufferFreed(f"{name!r} was freed")
