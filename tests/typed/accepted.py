"""Calls that type checkers must accept; `tests/test_options.py` runs mypy and pyright
on them. It is read, and not run.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

import muninn
from muninn.kernels import markDirty

A = np.arange(3)


def told(sizeBytes: int) -> None:
    print(sizeBytes)


def filled(view: np.ndarray[Any, np.dtype[Any]]) -> None:
    view[:] = 1


assert_type(muninn.share(A, "name"), muninn.MuninnBuffer)
muninn.share(A, "name", "fastMode", "readWrite", "tenant", 0, "lastClose")
muninn.share(
    array=A,
    name="name",
    lifetimeMs=5,
    reserve="lazy",
    renew="onUse",
    numaNode=0,
    progress=told,
    copy=False,
)
assert_type(
    muninn.MuninnBuffer(4096, "bigMode", None, "readMostly", "name", "tenant"), muninn.MuninnBuffer
)
muninn.MuninnBuffer(
    size="1G", mode="fastMode", preferredGpu=1, lifetime="keep", renew="auto", progress=told
)
assert_type(muninn.array("name", (3, 4)), muninn.MuninnBuffer)
muninn.array(
    "name",
    shape=3,
    dtype="f8",
    access="readOnly",
    timeout=1.5,
    mode="fastMode",
    preferredGpu=0,
    tenant="t",
)
muninn.loadArray((3,), "f4", filled, "name", mode="bigMode", access="readOnly", numaNode=1)
muninn.shareOnce("name", lambda: A, timeout=3, access="readWrite", copy=True, lifetime="lastClose")
assert_type(muninn.shareOnce("name", lambda: A), muninn.MuninnBuffer)
assert_type(muninn.shareOnce("name", lambda: {"a": A}, access="readOnly"), muninn.Bundle)
assert_type(muninn.shareOnce("name", "model.safetensors"), muninn.Bundle | muninn.MuninnBuffer)
assert_type(
    muninn.load("model.safetensors", "name", mode="fastMode", preferredGpu=1, progress=told),
    muninn.Bundle | muninn.MuninnBuffer,
)
assert_type(muninn.shareBundle({"a": A}, "name", mode="fastMode", access="readOnly"), muninn.Bundle)
muninn.loadBundle(
    {"a": ((3,), "f4")}, lambda spec: None, name="name", reserve="full", renew="onUse"
)
assert_type(muninn.publish("name", A), muninn.MuninnBuffer)
assert_type(muninn.publish("name", {"a": A}, timeout=1.5, tenant="t"), muninn.Bundle)
muninn.publish("name", source=A, mode="fastMode", preferredGpu=0, access="readOnly", renew="auto")
assert_type(muninn.open("name").isCurrent, bool)
muninn.open("name").waitNewer(timeout=1.0)
muninn.openBundle("name").waitNewer()
muninn.open("name", "readWrite", 1.0, tenant="t", renew="onUse")
muninn.openBundle("name", access="readMostly")
muninn.open("name", access="copyOnWrite")
muninn.openBundle("name", "copyOnWrite")
muninn.array("name", 3, access="copyOnWrite")
assert_type(markDirty(np.zeros(9, np.uint8), 65536, offset=0, length=8), None)
B = muninn.open("name")
assert_type(B.copyTo(1), muninn.MuninnBuffer)
B.copyTo(1, name="name", access="readOnly", route="staged", timeout=1.5, progress=told)
assert_type(B.startCopyTo(1, route="p2p").result(3), muninn.MuninnBuffer)
assert_type(B.copyFrom(B, route="p2p", timeout=1), int)
assert_type(B.startCopyFrom(B, progress=told).result(), int)
assert_type(muninn.open("name", targetGpu=1, route="mapped"), muninn.MuninnBuffer)
assert_type(B.startCopyTo(1).reason, str | None)
assert_type(B.startCopyTo(1).seconds, float)
if B.transfer is not None:
    assert_type(B.transfer.seconds, float)


async def awaited() -> None:
    """A transfer is awaited for what it makes."""
    assert_type(await B.startCopyTo(1), muninn.MuninnBuffer)
    assert_type(await B.startCopyFrom(B), int)
