import atexit, builtins, sys
import numpy as np
from muninn.interop.dlpack import exportCapsule, importCapsule

TORCH


class Owner:
    def __init__(self):
        self.array = np.arange(4.0)


class Lender:
    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return lend(max_version)

    def __dlpack_device__(self):
        return (1, 0)


def lend(version):
    owner = Owner()
    return exportCapsule(owner.array.ctypes.data, (4,), "f8", (1, 0), owner, maxVersion=version)


def all():
    made = []
    for version in (None, (1, 1)):
        consumed = lend(version)
        made += [lend(version), importCapsule(lend(version)), importCapsule(consumed), consumed]
        TENSORS
    made += [np.from_dlpack(Lender()), importCapsule(np.arange(3).__dlpack__())]
    return made


kept = all()
builtins.kept = all()
np.kept = all()
sys.kept = all()
circle = all()
circle.append(circle)
builtins.circle = all()
builtins.circle.append(builtins.circle)
late = []
atexit.register(lambda: late.extend(all()))
atexit.register(kept.pop)
