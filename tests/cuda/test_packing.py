"""Arrays with strides on a GPU: shared by a copy in C order, wherever the copy goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import muninn
from muninn.api import packing
from muninn.devices.cuda.copies import Copies
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.session import gpus, membership
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]
Free = Callable[[], int]
RECORD = np.dtype([("key", "<u4"), ("place", "<f8")])  # 12 bytes
CUBE = np.arange(6 * 40 * 50, dtype=np.float32).reshape(6, 40, 50)
#: By what is special: views of numpy arrays, as which an array on a GPU is made.
VIEWS: dict[str, np.ndarray[Any, Any]] = {
    "transposed": CUBE.T,
    "transposed sheets": CUBE.transpose(0, 2, 1),
    "turned bytes": CUBE.view(np.uint8)[::-1, :, ::-1].T,
    "sliced": CUBE[1::2, 3:20, 4:45:3],
    "rows": CUBE[:, :, 10:20],
    "negative": CUBE[::-1, ::-2, ::-3],
    "expanded": np.broadcast_to(CUBE[:, :, None, :], (6, 40, 3, 50)),
    "one element everywhere": np.broadcast_to(CUBE[2:3, 3:4, 4:5], (4, 4, 4)),
    "bytes": CUBE.view(np.uint8)[:, ::-1, 1::4],
    "halves": CUBE.astype(np.float16)[:, :, 1::2],
    "complex": CUBE.astype(np.complex128).transpose(1, 0, 2),
    "records": np.zeros((5, 7), RECORD).T,
    "eight axes": as_strided(CUBE, (2,) * 8, tuple(44 + 8 * axis for axis in range(8))),
    "strides of no whole elements": as_strided(CUBE, (9, 5), (14, 6)),
}
VIEWS["records"]["key"] = np.arange(35).reshape(7, 5)


class OnGpu:
    """A view of a numpy array, in the memory of a GPU."""

    def __init__(self, view: np.ndarray[Any, Any], gpu: int = 0) -> None:
        base = view
        while isinstance(base.base, np.ndarray):
            base = base.base
        start = base.__array_interface__["data"][0]
        muninn.domainInfo()  # joins
        device = gpus.deviceOf(membership.current())
        self._memory = device.allocate(gpu, base.nbytes)
        device.copyNow(self._memory.address, start, base.nbytes, gpu)
        offset = view.__array_interface__["data"][0] - start
        self.__cuda_array_interface__ = {
            **view.__array_interface__,
            "strides": view.strides,
            "data": (self._memory.address + offset, True),
            "stream": None,
        }


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> np.ndarray[Any, Any]:
    return VIEWS[request.param]


@pytest.mark.parametrize("mode", ["fastMode", "bigMode"])
def test_anArrayWithStridesIsCopiedInCOrder(
    domain: str, view: np.ndarray[Any, Any], mode: str
) -> None:
    """Broken: it was refused as not C-contiguous."""
    buffer = muninn.share(OnGpu(view), "a", mode=mode)
    assert (buffer.shape, buffer.dtype, buffer.mode) == (view.shape, view.dtype, mode)
    assert buffer.read().tobytes() == view.tobytes()


def test_aBundleTakesArraysWithStrides(domain: str) -> None:
    views = {name: view for name, view in VIEWS.items() if view.dtype.fields is None}
    bundle = muninn.shareBundle({name: OnGpu(view) for name, view in views.items()})
    for name, view in views.items():
        assert np.asarray(bundle[name]).tobytes() == view.tobytes(), name


def _needTwoGpus() -> None:
    muninn.domainInfo()
    if gpus.deviceOf(membership.current()).gpuCount < 2:
        pytest.skip("there is one GPU only")


@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0), (1, 1), (1, None)])
def test_itIsCopiedOnTheGpuThatHasIt(domain: str, source: int, target: int | None) -> None:
    _needTwoGpus()
    view = VIEWS["negative"]
    buffer = muninn.share(OnGpu(view, source), preferredGpu=target)
    assert buffer.gpu == (source if target is None else target)
    assert np.array_equal(buffer.read(), view)
    assert np.array_equal(muninn.share(OnGpu(view, source), mode="bigMode").read(), view)


def test_memoryThatTheGpuMayNotReachGetsItInPieces(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_PIECE_BYTES", 4096)
    for view in VIEWS.values():
        assert muninn.share(OnGpu(view), mode="bigMode").read().tobytes() == view.tobytes()


def test_itIsNotSharedWhereItLies(domain: str) -> None:
    with pytest.raises(InvalidArgument, match=r"has strides \(4, 200, 8000\).*copy=True"):
        muninn.share(OnGpu(VIEWS["transposed"]), copy=False)


def test_moreThanEightAxesAreRefused(domain: str) -> None:
    view = as_strided(CUBE, (2,) * 9, tuple(44 + 8 * axis for axis in range(9)))
    with pytest.raises(InvalidArgument, match="9 axes that do not follow each other, and 8"):
        muninn.shareBundle({"a": OnGpu(view)})


def test_withoutNumbaAContiguousCopyIsAskedFor(domain: str, actor: Start) -> None:
    other = actor(
        "import sys; from numba import cuda\nmine = cuda.to_device(np.arange(60.0).reshape(6, 10))\nsys.modules['muninn.kernels.device'] = None"
    )
    for call in ("share(mine[:, 2:4], 'a')", "shareBundle({'a': mine[:, ::2]}, 'a')"):
        with pytest.raises(
            ActorError, match="kernels need numba-cuda.*Share a contiguous"
        ) as raised:
            other.do(f"muninn.{call}")
        assert raised.value.kind == DeviceUnavailable.__name__
    assert muninn.listBuffers() == []
    assert other.do("float(muninn.share(mine, 'a').read().sum())") == 1770


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("mode", "faults"),
    [
        ("fastMode", ["cuStreamCreate:2:1", "cuLaunchKernelEx:1:1"]),
        (
            "bigMode",
            [
                "cuStreamCreate:2:1",
                "cuMemCreate:800:1",
                "cuLaunchKernelEx:1:1",
                "cuMemcpyAsync:2:1",
            ],
        ),
    ],
)
def test_aCopyThatFailsLeavesNothing(
    domain: str, actor: Start, freeBytes: Free, mode: str, faults: list[str]
) -> None:
    """Each attempt comes one fault further; what numba-cuda raises is passed on."""
    maker = actor(
        "from numba import cuda\nmine = cuda.to_device(np.zeros((1024, 2048)))",
        STANDIN_FAULTS=",".join(faults),
    )
    before = freeBytes()
    for fault in faults:
        with pytest.raises(ActorError) as raised:
            maker.do(f"muninn.share(mine[:, ::2], 'a', mode={mode!r})")
        kind = "CUDAError" if "Launch" in fault else "DeviceUnavailable|QuotaExceeded"
        assert raised.value.kind in kind.split("|"), fault
        assert muninn.listBuffers() == []
        # Less the block by which the maker waits for its context.
        eventually(lambda: freeBytes() >= before - (2 << 20), "the memory is free again")
    assert maker.do(f"muninn.share(mine[:, ::2], 'a', mode={mode!r}).nbytes") == 8 << 20


def test_aBundleOfArraysOnAGpuIsThereToo(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes do not go through the host: no copy to it is made."""
    _needTwoGpus()
    weight = OnGpu(CUBE[:, :, 10:20], gpu=1)
    twin, nothing = OnGpu(CUBE, gpu=1), OnGpu(CUBE, gpu=1)
    nothing.__cuda_array_interface__ |= {"shape": (0, 3), "strides": None}
    device = gpus.deviceOf(membership.current())
    copied: list[bool] = []
    now = Copies.now

    def counted(self: Copies, copies: list[tuple[int, int, int]], gpu: int) -> None:
        for target, source, sizeBytes in copies:
            if sizeBytes > 10_000:  # not the manifest
                copied.append(None not in (device.gpuOf(target), device.gpuOf(source)))
        now(self, copies, gpu)

    monkeypatch.setattr(Copies, "now", counted)
    arrays = {"weight": weight, "tied": weight, "whole": twin, "again": twin}
    assert muninn.share(nothing).shape == (0, 3)
    with muninn.shareBundle(arrays, name="model") as bundle:
        assert copied == [True], "the packed one is written by its kernel"
        monkeypatch.undo()
        assert (bundle.buffer.mode, bundle.buffer.gpu) == ("fastMode", 1)
        np.testing.assert_array_equal(bundle["weight"], CUBE[:, :, 10:20])
        np.testing.assert_array_equal(bundle["whole"], CUBE)
        np.testing.assert_array_equal(bundle["tied"], CUBE[:, :, 10:20])
        assert bundle.nbytes < 2 * CUBE.nbytes
        bundle.free()


def test_arraysOfSeveralPlacesNeedAWord(domain: str) -> None:
    _needTwoGpus()
    arrays = {"a": OnGpu(CUBE, gpu=0), "b": OnGpu(CUBE, gpu=1), "c": np.ones(3)}
    with pytest.raises(InvalidArgument, match=r"GPU 0 and GPU 1 and the host.*fastMode"):
        muninn.shareBundle(arrays, name="model")
    with muninn.shareBundle(arrays, name="model", mode="fastMode") as bundle:
        assert [bundle[key].gpu for key in "abc"] == [0, 1, 0]
        bundle.free()
    with muninn.shareBundle({"b": arrays["b"]}, name="model", preferredGpu=0) as bundle:
        assert bundle.gpus == (0,)
        bundle.free()
    for mode, gpu in (("bigMode", None), ("fastMode", 1)):
        with muninn.shareBundle(arrays, name="model", mode=mode, preferredGpu=gpu) as bundle:
            assert bundle.buffer.gpu == gpu
            for key in "ab":
                np.testing.assert_array_equal(bundle[key], CUBE)
            assert np.asarray(bundle["c"]).tolist() == [1, 1, 1]
            bundle.free()


def test_arraysOfSeveralGpusStayThereUnderOneName(
    domain: str, actor: Start, freeBytes: Free
) -> None:
    """One segment a GPU, one name, one open; and nothing goes through the host."""
    _needTwoGpus()
    arrays = {
        "far": OnGpu(CUBE.T, gpu=1),
        "near": OnGpu(CUBE, gpu=0),
        "tied": OnGpu(CUBE[0], gpu=1),
    }
    arrays["also tied"] = arrays["tied"]
    before = 0
    for _ in range(2):  # in the first round the driver loads what it needs into VRAM
        bundle = muninn.shareBundle(arrays, "model")
        assert bundle.gpus == (0, 1) and [bundle[key].gpu for key in bundle] == [1, 0, 1, 1]
        other = actor("theirs = muninn.openBundle('model')")
        assert other.do("theirs.gpus, theirs['far'].gpu, theirs.nbytes") == [
            [0, 1],
            1,
            bundle.nbytes,
        ]
        assert other.do("float(np.asarray(theirs['far']).sum())") == float(CUBE.sum())
        newer = muninn.publish("model", {key: arrays[key] for key in ("near", "tied")})
        assert other.do("theirs.isCurrent, muninn.openBundle('model').gpus") == [False, [0, 1]]
        np.testing.assert_array_equal(np.asarray(newer["tied"]), CUBE[0])
        bundle.close()
        assert other.do("float(np.asarray(theirs['far']).sum())") == float(CUBE.sum())
        other.kill()
        newer.free()
        newer.close()
        eventually(lambda: muninn.listBuffers() == [], "both versions are gone")
        eventually(lambda: freeBytes() >= before, "the memory is free again")
        before = freeBytes()
