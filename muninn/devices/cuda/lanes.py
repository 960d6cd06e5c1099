"""Lanes: the addresses of the driver's functions, and a stream, with which C copies
between two GPUs (`cshim/repeat.h`).
"""

from __future__ import annotations

import functools

from cuda.bindings import driver as cu

from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.cuda.streams import CudaStream
from muninn.devices.port.lanes import Lane
from muninn.devices.ways import drain
from muninn.system.structures import LaneCalls

#: The functions as of this driver have the parameters that `repeat.h` declares.
_API_VERSION = 12000
_FUNCTIONS = (
    b"cuCtxPushCurrent",
    b"cuCtxPopCurrent",
    b"cuThreadExchangeStreamCaptureMode",
    b"cuMemcpyPeerAsync",
    b"cuStreamSynchronize",
)


class PeerLane(Lane):
    """The lane of a GPU that sends."""

    def __init__(self, source: Gpu, target: Gpu, stream: CudaStream) -> None:
        self._stream = stream
        self.calls = LaneCalls(
            *map(_addressOf, _FUNCTIONS), int(source.context), int(target.context), stream.handle
        )

    def fail(self, code: int) -> None:
        try:
            name = cu.CUresult(code).name
        except ValueError:  # of a driver that is newer than the bindings
            name = str(code)
        raise typed(DriverError("cuMemcpyPeerAsync", name), "the bytes were not copied across")

    def settle(self) -> None:
        drain((self._stream,))


@functools.cache
def _addressOf(name: bytes) -> int:
    return int(call(cu.cuGetProcAddress, name, _API_VERSION, 0)[0])
