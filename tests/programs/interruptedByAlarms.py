"""Shares VRAM, and is interrupted at random moments by a handler that raises: also just
after a driver call, before the next bytecode has its answer.
"""

import gc
import os
import random
import signal

import muninn
import numpy as np
from cuda.bindings import driver as cu
from muninn.session import membership


class Interruption(BaseException):
    pass


isOn = False
_random = random.Random(1)


def interrupt(*_):
    if isOn:
        raise Interruption


signal.signal(signal.SIGALRM, interrupt)


def share():
    muninn.share(np.zeros(1000), mode="fastMode", preferredGpu=0).close()


def settled():
    """(descriptors, allocations of 2 MiB on the GPU) once all is given back."""
    gc.collect()
    membership.current().gpus.chosen().awaitWork(30)
    share()
    gc.collect()
    with membership.current().gpus.chosen().onGpu(0):
        _, free, total = cu.cuMemGetInfo()
    return len(os.listdir("/proc/self/fd")), (total - free) >> 21


def interrupted(times):
    """How often it was interrupted."""
    global isOn
    count = 0
    for _ in range(times):
        try:
            isOn = True
            signal.setitimer(signal.ITIMER_REAL, _random.random() * 0.004)
            share()
            isOn = False
        except Interruption:
            count += 1
        isOn = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    return count
