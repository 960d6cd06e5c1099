"""`python -m bench.gpu`: measure Muninn's CUDA operations beside the same operations of
the driver alone, in one run. It needs a GPU; on the stand-in it is a rehearsal.

Rows whose title begins with "beside" have no limit. On the stand-in only the figures
"without the driver's time" mean anything.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver as cu
from rich.console import Console

import muninn
from bench.driver import GIB, IS_REHEARSAL, MIB, device, inScope, sizesOf, timedDriver, title
from bench.fences import fencing
from bench.harness import Options, Peer, Row, newDomain
from bench.hints import useful
from bench.loading import toVram
from bench.pinning import pinning
from bench.promotions import promoting
from bench.routes import betweenGpus
from bench.table import RESULTS, tableOf, write
from bench.versions import attached, publishingInVram, swapped
from muninn.devices.cuda.driver import call
from muninn.kernels import launch

# --- opening -------------------------------------------------------------------------


def opening(options: Options) -> list[Row]:
    """The open in another process: of VRAM by `vmm`, by `cudaIpc`, and as PyTorch does
    it; and of host memory.
    """
    rows: list[Row] = []
    rounds = options.pick(21, 5)
    for sizeBytes in sizesOf(options):
        newDomain()
        from numba import cuda

        owned = muninn.MuninnBuffer(sizeBytes, mode="fastMode", name="vmm", access="readWrite")
        ours, driver = told("openVram", "vmm", rounds)
        owned.free()
        lent = muninn.share(
            cuda.device_array(sizeBytes, np.uint8), "ipc", copy=False, access="readWrite"
        )
        legacy, _ = told("openVram", "ipc", rounds)
        lent.free()
        size = title(sizeBytes)
        rows.append(Row(f"open fastMode {size}, vmm, p50", "ms", ours, [], "", 2.0, 0.5))
        rows.append(
            Row(
                f"beside: open {size}, vmm: the driver's time in it",
                "ms",
                driver,
                [],
                "",
                None,
                None,
            )
        )
        rows.append(
            Row(
                f"beside: open {size}, vmm",
                "ms",
                ours,
                legacy,
                "cudaIpc through Muninn",
                None,
                None,
            )
        )
        if torchs := openedByTorch(sizeBytes, options.pick(7, 2)):
            rows.append(
                Row(
                    f"beside: open {size}, vmm",
                    "ms",
                    ours[: len(torchs)],
                    torchs,
                    "torch.multiprocessing",
                    None,
                    None,
                )
            )
    newDomain()
    sizeBytes = sizesOf(options)[-1]
    with muninn.array("big", sizeBytes, np.uint8, lifetime="lastClose"):
        rows.append(
            Row(
                f"open bigMode {title(sizeBytes)}, p50",
                "ms",
                told("openBig", "big", rounds),
                [],
                "",
                2.0,
                0.5,
            )
        )
    return rows


def told(function: str, *arguments: object) -> Any:
    """The answer of another process that has run a function of `bench.parts`."""
    peer = Peer(function, *arguments)
    said = peer.line()
    peer.end()
    return said


def openedByTorch(sizeBytes: int, rounds: int) -> list[float]:
    """The milliseconds in which a receiver of `torch.multiprocessing` rebuilds a tensor
    from its handle; empty where torch has no CUDA.
    """
    try:
        import torch
        from torch.multiprocessing.reductions import reduce_tensor
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    import pickle

    times = []
    for _ in range(rounds):
        tensor = torch.empty(sizeBytes, dtype=torch.uint8, device="cuda")
        peer = Peer("openTorch", pickle.dumps(reduce_tensor(tensor)).hex())
        times.append(peer.line())
        peer.end()
        del tensor
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()
    return times


def ownShare(options: Options) -> list[Row]:
    """The time of an open in this process without the driver's part: Muninn's own
    share.
    """
    newDomain()
    owner = Peer("shareVram", "own", MIB)
    owner.line()
    muninn.open("own").close()
    shares = []
    with timedDriver() as spent:
        for _ in range(options.pick(200, 20)):
            spent[0] = 0.0
            started = time.perf_counter()
            buffer = muninn.open("own")
            buffer.open()
            shares.append((time.perf_counter() - started - spent[0]) * 1e6)
            buffer.close()
            device().memoryInfo(0)  # after this wait the memory is given back
    owner.end()
    return [
        Row(
            "open fastMode 1 MiB, without the driver's time",
            "µs",
            [statistics.median(shares)],
            [],
            "",
            150.0,
            None,
        )
    ]


# --- streaming ----------------------------------------------------------------------


def streaming(options: Options) -> list[Row]:
    """A kernel that reads every byte: shared VRAM against private, a bigMode mapping
    against plain pinned memory.
    """
    newDomain()
    from numba import cuda

    sizeBytes = 16 * MIB if IS_REHEARSAL or options.quick else 4 * GIB
    rounds, passes = options.pick(15, 3), options.pick(5, 1)
    result = cuda.to_device(np.zeros(1, np.uint64))
    maker = Peer("shareVram", "streamed", sizeBytes)
    maker.line()
    shared = muninn.open("streamed", access="readWrite").deviceArray().view(np.uint64)
    private = cuda.device_array(sizeBytes // 8, np.uint64)
    launch.launch("copyElements", private, shared)
    ours, peers = inScope(
        rounds, lambda: read(shared, result, passes), lambda: read(private, result, passes)
    )
    maker.end()
    rows = [
        Row(
            f"kernel reads {title(sizeBytes)} of shared VRAM",
            "ms",
            ours,
            peers,
            "private VRAM",
            1 / 0.99,
            1.0,
        )
    ]
    hostBytes = sizeBytes if sizeBytes < GIB else 2 * GIB
    mapped = muninn.array("mapped", hostBytes // 8, np.uint64)
    view = mapped.deviceArray()
    flags = cu.CU_MEMHOSTALLOC_PORTABLE | cu.CU_MEMHOSTALLOC_DEVICEMAP
    plain = int(call(cu.cuMemHostAlloc, hostBytes, flags))
    ctypes.memset(plain, 1, hostBytes)
    pinned = cuda.as_cuda_array(Exposed(plain, hostBytes // 8), sync=False)
    ours, peers = inScope(rounds, lambda: read(view, result, 1), lambda: read(pinned, result, 1))
    call(cu.cuMemFreeHost, plain)
    rows.append(
        Row(
            f"kernel reads {title(hostBytes)} of a bigMode mapping",
            "ms",
            ours,
            peers,
            "cuMemHostAlloc",
            1 / 0.97,
            1.0,
        )
    )
    gigabytes = hostBytes / statistics.median(ours) / 1e6
    rows.append(Row("beside: bigMode read by a kernel", "GB/s", [gigabytes], [], "", None, None))
    mapped.free()
    return rows


class Exposed:
    """Memory at an address, as Numba takes it."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": (count,),
            "typestr": "<u8",
            "data": (address, False),
            "strides": None,
        }


def read(array: Any, result: Any, passes: int) -> float:
    """Milliseconds of `passes` kernels, by the GPU's own clock."""
    begin, end = (call(cu.cuEventCreate, 0) for _ in range(2))
    call(cu.cuEventRecord, begin, 0)
    for _ in range(passes):
        launch.launch("readSum", array, result)
    call(cu.cuEventRecord, end, 0)
    call(cu.cuEventSynchronize, end)
    elapsed = float(call(cu.cuEventElapsedTime, begin, end))
    for event in (begin, end):
        call(cu.cuEventDestroy, event)
    return elapsed


# --- registration -------------------------------------------------------------------


def registering(options: Options) -> list[Row]:
    """Mapping a bigMode buffer for kernels, beside the bare call on memory of the same
    size and kind.
    """
    newDomain()
    sizeBytes = 64 * MIB if IS_REHEARSAL or options.quick else 4 * GIB
    buffer = muninn.array("registered", sizeBytes, np.uint8)
    descriptor = os.memfd_create("bare")
    os.posix_fallocate(descriptor, 0, sizeBytes)
    bare = mmap.mmap(descriptor, sizeBytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(bare))
    ctypes.memset(address, 1, sizeBytes)
    call(cu.cuCtxSetCurrent, call(cu.cuDevicePrimaryCtxRetain, 0))

    def ours() -> float:
        with muninn.open("registered", access="readWrite") as opened:
            memory = opened._checked().memory
            started = time.perf_counter()
            opened.open()
            elapsed = time.perf_counter() - started
            memory._mapped.pop().close()
        device().memoryInfo(0)
        return elapsed / (sizeBytes / GIB)

    def plain() -> float:
        started = time.perf_counter()
        call(
            cu.cuMemHostRegister,
            address,
            sizeBytes,
            cu.CU_MEMHOSTREGISTER_PORTABLE | cu.CU_MEMHOSTREGISTER_DEVICEMAP,
        )
        elapsed = time.perf_counter() - started
        call(cu.cuMemHostUnregister, address)
        return elapsed / (sizeBytes / GIB)

    mine, theirs = inScope(options.pick(5, 2), ours, plain)
    buffer.free()
    os.close(descriptor)
    return [
        Row(
            "mapping host memory for kernels, a GiB",
            "s",
            mine,
            theirs,
            "bare cuMemHostRegister",
            None,
            None,
        )
    ]


def loading(options: Options) -> list[Row]:
    """The first load of a model from the page cache."""
    return toVram(options, _modelBytes(options))


def publishing(options: Options) -> list[Row]:
    """A new version of a model that is in VRAM already, beside the copy alone."""
    return publishingInVram(options, _modelBytes(options))


def attaching(options: Options) -> list[Row]:
    """A worker attaches 1,000 tensors; and the driver's part in that."""
    whole, driver = attached(4096, "fastMode", options.pick(101, 5))
    what = "attach 1,000 tensors of 4 KiB in VRAM"
    own = statistics.median(whole) - statistics.median(driver)
    return [
        Row(f"{what}, without the driver's time", "ms", [own], [], "", 20.0, 5.0),
        Row(f"beside: {what}", "ms", whole, [], "", None, None),
    ]


def swapping(options: Options) -> list[Row]:
    """Requests in VRAM while versions are published."""
    return swapped(options, "fastMode", MIB if IS_REHEARSAL or options.quick else 64 * MIB)


def _modelBytes(options: Options) -> int:
    return 64 * MIB if IS_REHEARSAL or options.quick else 8 * GIB


GROUPS: dict[str, Callable[[Options], list[Row]]] = {
    "open": opening,
    "own": ownShare,
    "stream": streaming,
    "register": registering,
    "pinning": pinning,
    "fence": fencing,
    "load": loading,
    "publication": publishing,
    "attach": attaching,
    "swaps": swapping,
    "routes": betweenGpus,
    "promotion": promoting,
    "hints": useful,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description="Measure the CUDA back-end beside the driver alone."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes and few rounds: whether it runs, not what it shows",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(GROUPS),
        help="only this group of rows (may be repeated)",
    )
    parser.add_argument(
        "--pinned",
        type=int,
        default=0,
        metavar="MIB",
        help="how much host memory `pinning` pins (64 GiB, or half of what is free)",
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args()
    options, rows = Options(arguments.quick, arguments.pinned * MIB), list[Row]()
    newDomain()
    name = device().gpuName(0) if device().gpuCount and not device().runsKernelsOnHost else ""
    if not name:
        print(f"there is no GPU to measure: {device().reason}", file=sys.stderr)
        return 2
    for group, measure in GROUPS.items():
        if not arguments.only or group in arguments.only:
            rows += measure(options)
    Console().print(tableOf(rows, f"On {name}, in one run"))
    path = RESULTS / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}.csv"
    write(rows, path)
    print(f"\nwritten to {path}")
    if arguments.json:
        shown = [{**row._asdict(), "median": row.compared, "verdict": row.verdict} for row in rows]
        arguments.json.write_text(json.dumps({"device": name, "rows": shown}))
    return (
        1
        if any(row.verdict == "SHORT" for row in rows) and not (arguments.quick or IS_REHEARSAL)
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
