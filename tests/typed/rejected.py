"""Calls that type checkers must reject, each on its line; `tests/test_options.py` runs
mypy and pyright on them. It is read, and not run.
"""

from __future__ import annotations

import numpy as np

import muninn
from muninn.kernels import markDirty

A = np.arange(3)

# A word that is none.
muninn.share(A, mode="fastmode")  # rejected
muninn.share(A, "name", "gpu")  # rejected
muninn.share(A, access="write")  # rejected
muninn.share(A, lifetime="lastclose")  # rejected
muninn.share(A, reserve="all")  # rejected
muninn.share(A, renew="never")  # rejected
muninn.MuninnBuffer(4096, "fast")  # rejected
muninn.MuninnBuffer(4096, lifetime="long")  # rejected
muninn.array("name", 3, access="readwrite")  # rejected
muninn.array("name", 3, mode="big")  # rejected
muninn.loadArray(3, "f4", print, reserve="some")  # rejected
muninn.shareOnce("name", lambda: A, access="rw")  # rejected
muninn.shareOnce("name", 3)  # rejected
muninn.load("file", "name", mode="fast")  # rejected
muninn.load("file", gpu=1)  # rejected
muninn.load(3)  # rejected
muninn.shareBundle({"a": A}, mode="fast")  # rejected
muninn.loadBundle({"a": (3, "f4")}, print, renew="on")  # rejected
muninn.publish("name", A, access="rw")  # rejected
muninn.open("name", "rw")  # rejected
muninn.open("name", renew="no")  # rejected
muninn.openBundle("name", access="rw")  # rejected
muninn.open("name", access="copyonwrite")  # rejected
muninn.share(A, access="copyOnWrite")  # rejected
muninn.MuninnBuffer(4096, access="copyOnWrite")  # rejected
muninn.shareBundle({"a": A}, access="copyOnWrite")  # rejected
markDirty(A, "64K", 0, 8)  # rejected
markDirty(A, 65536, 0)  # rejected
B = muninn.open("name")
B.copyTo(1, route="mapped")  # rejected
B.startCopyTo(1, route="direct")  # rejected
B.copyTo(1, access="rw")  # rejected
B.copyFrom(B, route="fast")  # rejected
muninn.open("name", targetGpu=1, route="upload")  # rejected
# A keyword that is misspelt, or another function's.
B.copyTo(targetGpu=1)  # rejected
B.copyFrom(B, gpu=1)  # rejected
muninn.open("name", targetgpu=1)  # rejected
muninn.share(A, nmae="x")  # rejected
muninn.share(A, lifetime_ms=5)  # rejected
muninn.MuninnBuffer(4096, mod="fastMode")  # rejected
muninn.MuninnBuffer(4096, copy=True)  # rejected
muninn.array("name", 3, mod="fastMode")  # rejected
muninn.array("name", 3, copy=True)  # rejected
muninn.loadArray(3, "f4", print, progres=print)  # rejected
muninn.shareOnce("name", lambda: A, tenat="t")  # rejected
muninn.shareBundle({"a": A}, mod="fastMode")  # rejected
muninn.loadBundle({"a": (3, "f4")}, print, kind=1)  # rejected
muninn.publish("name", A, copy=False)  # rejected
muninn.publish("name", A, name="x")  # rejected
# A value of another kind.
B.copyTo("1")  # rejected
B.copyTo(1, progress=3)  # rejected
B.copyFrom(A)  # rejected
muninn.share(A, preferredGpu="0")  # rejected
muninn.share(A, lifetimeMs="5")  # rejected
muninn.array("name", 3, progress=3)  # rejected
