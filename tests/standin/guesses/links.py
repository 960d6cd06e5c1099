"""Questions about two GPUs: access to mappings, copies between GPUs, and batches."""

from __future__ import annotations

from collections.abc import Iterator

from asking import NotAsked, actors, question

#: `told` waits, since a copy may be refused only when it runs.
_WORDS = """first()
def told(answer): return [code(answer), code(cu.cuCtxSynchronize())]
"""
_TWO = "a, b = vmm(0, 2 * MIB), vmm(1, 2 * MIB)"
_PEER = "cu.cuMemcpyPeerAsync(b, contexts[1], a, contexts[0], 4096, s)"


def _eachAlone(*asked: tuple[str, str, str]) -> Iterator[tuple[str, object]]:
    """Ask in a process for each, because an error of work stays: (what, how to prepare,
    how to ask).
    """
    for what, prepare, ask in asked:
        with actors(1, _WORDS) as (one,):
            if one.do("len(contexts)") < 2:
                yield what, NotAsked("there is one device")
                continue
            one.do(f"{prepare}; s = stream()")
            yield what, one.do(ask)


@question("37")
def accessOfSeveral() -> Iterator[tuple[str, object]]:
    absent = "code(cu.cuMemSetAccess(a, 2 * MIB, [access(True, 1), access(True, 99)], 2)), held(a)"
    yield from _eachAlone(
        ("access for device 1 and for one that is not there", _TWO, absent),
        ("access given back to device 1", _TWO, "reach(a, 2 * MIB, 1, flags=0), held(a)"),
        (
            "access for device 1 given, and given back",
            _TWO,
            "reach(a, 2 * MIB, 1), held(a), reach(a, 2 * MIB, 1, flags=0), held(a)",
        ),
    )


@question("38-39")
def copiesBetweenDevices() -> Iterator[tuple[str, object]]:
    yield from _eachAlone(
        ("38 cuMemcpyPeerAsync of VMM without access", _TWO, f"told({_PEER})"),
        (
            "38 the same with access of the source's device",
            f"{_TWO}; reach(b, 2 * MIB, 0)",
            f"told({_PEER})",
        ),
        (
            "38 the same with access of the target's device",
            f"{_TWO}; reach(a, 2 * MIB, 1)",
            f"told({_PEER})",
        ),
        ("38 cuMemcpyAsync of VMM without access", _TWO, "told(cu.cuMemcpyAsync(b, a, 4096, s))"),
        (
            "38 from VMM to cuMemAlloc of the other device",
            "a, b = vmm(0, 2 * MIB), allocOn(1, 4096)",
            "told(cu.cuMemcpyAsync(b, a, 4096, s))",
        ),
        (
            "39 the target readable, not writable",
            f"{_TWO}; reach(b, 2 * MIB, 0, flags=1)",
            "told(cu.cuMemcpyAsync(b, a, 4096, s))",
        ),
        (
            "39 within device 0, in a stream of device 1 without access",
            "a, b = vmm(0, 2 * MIB), vmm(0, 2 * MIB); enter(1)",
            "told(cu.cuMemcpyAsync(b, a, 4096, s))",
        ),
        (
            "39 device 0 has both, in a stream of device 1",
            f"{_TWO}; reach(b, 2 * MIB, 0); enter(1)",
            "told(cu.cuMemcpyAsync(b, a, 4096, s))",
        ),
        (
            "39 from the host, in a stream of device 1 without access",
            "a, h = vmm(0, 2 * MIB), pinned(4096); enter(1)",
            "told(cu.cuMemcpyAsync(a, h, 4096, s))",
        ),
        (
            "39 a fill in a stream of device 1 without access",
            "a = vmm(0, 2 * MIB); enter(1)",
            "told(cu.cuMemsetD8Async(a, 1, 4096, s))",
        ),
    )


@question("40")
def batches() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        if one.do("ok(cu.cuDriverGetVersion())") < 13000:
            yield "a batch", NotAsked("the driver is older than CUDA 13.0")
            return
        one.do("a, b, s = alloc(4096), alloc(4096), stream(); x = np.zeros(4096, np.uint8)")
        for what, given in (
            ("a batch of two copies", "[(b, a, 64), (b + 64, a + 64, 64)], s"),
            ("one of no bytes in it", "[(b, a, 64), (b + 64, a + 64, 0)], s"),
            ("no copies, no attributes", "[], s, orders=[]"),
            ("in the default stream", "[(b, a, 64)], 0"),
            ("in that of the thread", "[(b, a, 64)], 2"),
            ("without attributes", "[(b, a, 64)], s, orders=[]"),
            ("flags 2", "[(b, a, 64)], s, flags=2"),
            ("one beyond its memory", "[(b, a, 64), (b, a, 64 * MIB)], s"),
            ("from pageable memory, in stream order", "[(b, x.ctypes.data, 4096)], s"),
            ("from pageable memory, within the call", "[(b, x.ctypes.data, 4096)], s, orders=[2]"),
        ):
            yield what, one.do(f"told(batch({given}))")


@question("41")
def figuresOfALink() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        if one.do("len(contexts)") < 2:
            yield "attributes of the link 0 to 1", NotAsked("there is one device")
            return
        yield (
            "attributes 1 to 5 of the link 0 to 1",
            one.do(
                "[ok(cu.cuDeviceGetP2PAttribute(cu.CUdevice_P2PAttribute(each), 0, 1)) for each in range(1, 6)]"
            ),
        )
