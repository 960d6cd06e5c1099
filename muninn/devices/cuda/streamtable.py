"""The streams of this process. A caller names one by a `Stream`, a handle, or the
stream object of another library.

The table wraps a stream of another library once and keeps the wrapper, because its
error must outlive the call that wrapped it. It finds streams by the driver's id,
because the driver uses a handle again. Only this process reads and writes the table.
"""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.contexts import Contexts
from muninn.devices.cuda.driver import NON_BLOCKING, DriverError, call, refuseCaptured
from muninn.devices.cuda.gpu import Entered, Gpu
from muninn.devices.cuda.hostparts import HostParts
from muninn.devices.cuda.streams import CudaStream
from muninn.devices.port import Stream
from muninn.errors import InvalidArgument
from muninn.interop.streams import DEFAULT_HANDLES, LEGACY_HANDLE, PER_THREAD_HANDLE, streamHandle
from muninn.system import green

#: How many wrappers of other libraries' streams are kept.
_MAX_FOREIGN = 256


class StreamTable:
    """Our own streams, those of other libraries, and the default ones.

    Parameters
    ----------
    gpuAt
        The GPU of an index; raises `DeviceUnavailable` if there is none.
    """

    def __init__(
        self, contexts: Contexts, hostParts: HostParts, gpuAt: Callable[[int], Gpu]
    ) -> None:
        self._contexts, self._hostParts, self._gpuAt = contexts, hostParts, gpuAt
        self._defaults: dict[int, CudaStream] = {}
        #: The per-thread default streams of each thread, in its attribute `streams`.
        self._perThread = green.Local()
        #: By the stream's id.
        self._own: weakref.WeakValueDictionary[int, CudaStream] = weakref.WeakValueDictionary()
        self._foreign: dict[int, CudaStream] = {}
        self._making = _thread.RLock()

    def create(self, gpu: Gpu) -> CudaStream:
        """A stream of our own. The caller has entered the GPU's context."""
        raw = int(call(cu.cuStreamCreate, NON_BLOCKING))
        stream = CudaStream(
            gpu.index, raw, self._contexts.eventsOf(gpu.context), self._hostParts, isOwned=True
        )
        self._own[int(call(cu.cuStreamGetId, raw))] = stream
        return stream

    def find(self, stream: object, gpu: int = 0) -> CudaStream:
        """The stream that the caller means: the port's `asStream`."""
        driver.guard()
        if isinstance(stream, CudaStream):
            stream.checkOpen()
            return stream
        if isinstance(stream, Stream):
            raise InvalidArgument(
                f"{type(stream).__name__} is a stream of another back-end",
                "Use a stream of muninn.createStream, or None",
            )
        raw = streamHandle(stream)
        if raw in DEFAULT_HANDLES:
            return self._default(raw, gpu)
        try:
            refuseCaptured(raw)  # before `cuStreamGetId`, which ends a capture
            streamId = int(call(cu.cuStreamGetId, raw))
            known = self._own.get(streamId) or self._foreign.get(streamId)
            if known is None or not (known.isOwned or known.isOpen()):
                known = self._adopt(raw, streamId)
        except DriverError as error:
            raise InvalidArgument(f"{raw:#x} is no stream of this process: {error}") from error
        known.checkOpen()
        return known

    def _default(self, raw: int, gpu: int) -> CudaStream:
        """A default stream of a GPU, in this thread's current context if that is one of
        this GPU, else in the primary context.
        """
        chosen = self._gpuAt(gpu)
        context, current = chosen.context, call(cu.cuCtxGetCurrent)
        if int(current) not in (0, int(context)) and int(call(cu.cuCtxGetDevice)) == gpu:
            context = current
        events = self._contexts.eventsOf(context)
        handle = raw if raw == PER_THREAD_HANDLE else LEGACY_HANDLE
        with self._making:
            known = (
                vars(self._perThread).setdefault("streams", {})
                if handle == PER_THREAD_HANDLE
                else self._defaults
            )
            if id(events) not in known:
                known[id(events)] = CudaStream(
                    gpu, handle, events, self._hostParts, isOwned=False, isDefault=True
                )
            return known[id(events)]

    def _adopt(self, raw: int, streamId: int) -> CudaStream:
        """A stream that another library made, perhaps in a context of its own."""
        context = call(cu.cuStreamGetCtx, raw)
        context = context[0] if isinstance(context, tuple) else context
        with Entered(context):
            gpu = int(call(cu.cuCtxGetDevice))
        made = CudaStream(
            gpu, raw, self._contexts.eventsOf(context), self._hostParts, isOwned=False
        )
        with self._making:
            for old in [each for each, wrapper in self._foreign.items() if wrapper.isQuiet()][
                : max(0, len(self._foreign) - _MAX_FOREIGN)
            ]:
                del self._foreign[old]
            there = self._foreign.get(streamId)
            # A program may have closed the wrapper; that does not close the stream.
            if there is None or not there.isOpen():
                there = self._foreign[streamId] = made
            return there
