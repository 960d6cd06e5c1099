import os
import signal
from muninn.devices import ways
from muninn.devices.host import device, links
from muninn.errors import WritebackConflict, WriterDied
from muninn.session import mappings
from muninn.system import atomics


class Fuse:
    """In the place of the primitives. When it is lit, one of the next copies kills this
    process half way.
    """

    left = None

    def __getattr__(self, name):
        return getattr(atomics, name)

    def copy(self, target, source, sizeBytes):
        if self.left == 0:
            atomics.copy(target, source, sizeBytes // 2)
            die()
        if self.left is not None:
            self.left -= 1
        atomics.copy(target, source, sizeBytes)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


fuse = Fuse()
for each in (device, links, mappings, ways):
    each.atomics = fuse
base = muninn.open("base", access="readWrite")
window = isTracked = None


def write(at, length, value, moment):
    """Write a range, and die before, within or after that, at one of five moments."""
    half = at + length // 2
    dies = lambda number: moment == number and die()
    dies(0)
    with base.write() as view:
        dies(1)
        view[at:half] = value
        dies(2)
        view[half : at + length] = value
        dies(3)
    dies(4)


def copyFrom(name, moment):
    fuse.left = moment
    with muninn.open(name) as source:
        base.copyFrom(source)
    fuse.left = None


def promote(offset, length, gpu, track, moment):
    global window, isTracked
    if window is not None:
        window.close()
        window = None
    fuse.left = moment
    try:
        window, isTracked = base.promote(offset, length, gpu, track=track), track
    except WriterDied as error:
        return type(error).__name__
    finally:
        fuse.left = None
    return window.array.tobytes().hex()


def kernel(at, length, value):
    window.array[at : at + length] = value
    if isTracked:
        window.markDirty(at, length)


def back(moment, isLast):
    """Write back; at the end of the block if it is the last time."""
    global window
    fuse.left = moment
    used, window = window, None if isLast else window
    try:
        used.__exit__(None, None, None) if isLast else used.writeback()
    except WritebackConflict:
        return False
    finally:
        fuse.left = None
    return True
