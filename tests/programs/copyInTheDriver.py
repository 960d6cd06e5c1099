"""A stream waits for Python, a thread has the driver's lock until the stream is done, and
another one copies again meanwhile.
"""

import threading
import time

import numpy as np
from cuda.bindings import driver as cu

import muninn
from muninn.session import gpus, membership

source, target = (
    muninn.share(
        np.full(65536, fill, np.uint8), mode="fastMode", preferredGpu=0, access="readWrite"
    )
    for fill in (1, 2)
)
target.copyFrom(source)
assert target._repeats, "C copies from now on"
stream = gpus.deviceOf(membership.current()).createStream(0)
context = cu.cuDevicePrimaryCtxRetain(0)[1]
cu.cuCtxSetCurrent(context)
memory = cu.cuMemAlloc(1 << 20)[1]
go, freed = threading.Event(), []
stream.submit(lambda: go.wait(40))


def free():
    cu.cuCtxSetCurrent(context)
    freed.append(cu.cuMemFree(memory))


freeing = threading.Thread(target=free)
freeing.start()
threading.Timer(1, go.set).start()
time.sleep(0.5)
assert target.copyFrom(source) == target.generation
freeing.join(40)
assert freed == [(cu.CUresult.CUDA_SUCCESS,)]
