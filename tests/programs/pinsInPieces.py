"""A device that pins pieces of 64 KiB, and memory that is not aligned to them."""

import ctypes
import mmap

import numpy as np

from muninn.devices.cuda import CudaDevice
from muninn.devices.cuda.pace import PieceBounds

KIB64, SIZE = 1 << 16, 4 << 20
d = CudaDevice(mappedWindowBytes=SIZE, pieceBounds=PieceBounds(KIB64, KIB64, KIB64, restShare=0.0))
m = mmap.mmap(-1, SIZE + 4096)
base = ctypes.addressof(ctypes.c_char.from_buffer(m))
address = base + 4096 if base % KIB64 == 0 else base
bytesOf = np.frombuffer((ctypes.c_char * SIZE).from_address(address), np.uint8)


def isFree():
    """Whether nothing is pinned, and nothing is left of what was."""
    d.memoryInfo(0)
    return d._budget.usedBytes == 0 and d._seams._at == () and mapsAll()


def mapsAll():
    d.registerHost(address, SIZE, True).close()
    d.memoryInfo(0)
    return True
