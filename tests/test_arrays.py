"""Arrays of other libraries: what they say of themselves is checked; DLPack by hand, both ways."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.devices import arrays, dlpack
from muninn.errors import InvalidArgument


class Producer:
    """An array as a library offers it that has nothing but DLPack."""

    def __init__(self, array: np.ndarray[Any, Any], device: tuple[int, int] = (dlpack.CPU, 0), readOnly: bool = False) -> None:
        self.array, self.device, self.readOnly = array, device, readOnly

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        address, owner = self.array.ctypes.data, self
        return dlpack.exportCapsule(
            address, self.array.shape, self.array.dtype, self.device, owner, readOnly=self.readOnly, maxVersion=max_version
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Faced:
    def __init__(self, **fields: Any) -> None:
        self.__cuda_array_interface__ = {"version": 3, "shape": (4,), "typestr": "<f4", "data": (4096, False)} | fields


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 0, 3), (2, 3, 4, 5)])
def test_numpyTakesWhatIsExported(dtype: str, shape: tuple[int, ...]) -> None:
    source = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    taken = np.from_dlpack(Producer(source))  # type: ignore[arg-type]
    assert taken.dtype == source.dtype and np.array_equal(taken, source)
    if source.size:
        assert taken.ctypes.data == source.ctypes.data
    del taken
    gc.collect()
    assert not dlpack._exported


def test_readOnlyStaysReadOnly() -> None:
    taken = np.from_dlpack(Producer(np.arange(3), readOnly=True))  # type: ignore[arg-type]
    assert not taken.flags.writeable
    with pytest.raises(BufferError, match="read-only"):
        Producer(np.arange(3), readOnly=True).__dlpack__()


@pytest.mark.parametrize("dtype", [np.dtype([("a", "i4")]), np.dtype("S3"), np.dtype("M8[s]"), np.dtype(">i4")])
def test_whatDlpackHasNoNameForIsRefused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(BufferError, match="DLPack"):
        dlpack.exportCapsule(4096, (1,), dtype, (dlpack.CPU, 0), None)


@pytest.mark.parametrize("maxVersion", [None, (0, 8), (1, 0), (1, 1), (2, 0)])
def test_roundTripThroughBothKindsOfCapsule(maxVersion: tuple[int, int] | None) -> None:
    source = np.arange(12.0).reshape(3, 4)
    taken = dlpack.importCapsule(Producer(source).__dlpack__(max_version=maxVersion))
    assert (taken.address, taken.shape, taken.dtype, taken.strides) == (source.ctypes.data, (3, 4), np.float64, None)
    assert (taken.deviceType, taken.deviceId, taken.readOnly) == (dlpack.CPU, 0, False)
    del taken
    assert not dlpack._exported


def test_theOwnerIsKeptAsLongAsTheTensor() -> None:
    producer = Producer(np.arange(3))
    reference = weakref.ref(producer)
    taken = dlpack.takeTensor(producer, None)
    del producer
    gc.collect()
    assert reference() is not None
    del taken
    gc.collect()
    assert reference() is None


def test_aCapsuleThatNobodyTakesLetsGo() -> None:
    for _ in range(1000):
        Producer(np.arange(3)).__dlpack__()
    assert not dlpack._exported


def test_aCapsuleIsTakenOnce() -> None:
    capsule = Producer(np.arange(3)).__dlpack__()
    kept = dlpack.importCapsule(capsule)
    with pytest.raises(BufferError, match="consumed"):
        dlpack.importCapsule(capsule)
    for wrong in (object(), None, 3):
        with pytest.raises(BufferError):
            dlpack.importCapsule(wrong)
    del kept


def test_theDeleterMayBeCalledFromAnyThreadWithoutTheInterpretersLock() -> None:
    capsule = Producer(np.arange(3)).__dlpack__(max_version=(1, 1))
    place = dlpack._pointerOf(capsule, b"dltensor_versioned")
    dlpack._setName(capsule, b"used_dltensor_versioned")
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(dlpack._Versioned.from_address(place).deleter)
    thread = threading.Thread(target=deleter, args=(place,))  # ctypes lets the lock go around the call
    thread.start()
    thread.join()
    assert not dlpack._exported


def test_whatStillLivesAtExitIsNoTrouble() -> None:
    code = (
        "import numpy as np; from muninn.devices import dlpack\n"
        "class P:\n"
        "    def __init__(self): self.a = np.arange(5)\n"
        "    def __dlpack_device__(self): return (1, 0)\n"
        "    def __dlpack__(self, *, max_version=None, **_):\n"
        "        return dlpack.exportCapsule(self.a.ctypes.data, (5,), self.a.dtype, (1, 0), self, maxVersion=max_version)\n"
        "x, y, z = np.from_dlpack(P()), dlpack.takeTensor(P(), None), P().__dlpack__()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_torchTakesAndGives() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: make interop")
    source = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_dlpack(Producer(source))
    tensor += 1
    assert source[0, 0] == 1
    mine = torch.arange(6).reshape(2, 3)
    taken = dlpack.takeTensor(mine, None)
    assert (taken.address, taken.shape, taken.strides, taken.dtype) == (mine.data_ptr(), (2, 3), None, np.int64)
    turned = dlpack.takeTensor(mine.T, None)
    assert turned.strides == (8, 24)
    assert not arrays.isOnDevice(mine)


def test_isOnDeviceAsksOnlyWhatIsThere() -> None:
    assert arrays.isOnDevice(Faced())
    assert arrays.isOnDevice(Producer(np.arange(3), (dlpack.CUDA, 1)))
    assert not arrays.isOnDevice(Producer(np.arange(3), (dlpack.CUDA_HOST, 0)))
    for value in (np.arange(3), [1, 2], "text", None, object()):
        assert not arrays.isOnDevice(value)


def test_theInterfaceIsRead() -> None:
    described = arrays.describeArray(Faced(strides=(4,), stream=7, data=(8192, True)))
    assert described[:6] == (8192, (4,), None, np.float32, True, 7)
    assert arrays.describeArray(Faced(shape=(2, 3), strides=(4, 8))).strides == (4, 8)
    assert arrays.describeArray(Faced(shape=(0, 3), data=(0, False))).shape == (0, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (-1,)}, {"shape": (1 << 60,)}, {"shape": 4}, {"shape": ("4",)}, {"shape": (1,) * 65}, {"typestr": "|O8"},
        {"typestr": "nonsense"}, {"typestr": None}, {"data": (0, False)}, {"data": (1 << 60, False)}, {"data": ("4096", False)}, {"data": 4096},
        {"strides": (4, 4)}, {"strides": ("4",)}, {"stream": 0}, {"stream": -3}, {"stream": "1"}, {"shape": (True,)},
    ],
)  # fmt: skip
def test_whatCanNotBeIsRefused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="__cuda_array_interface__"):
        arrays.describeArray(Faced(**fields))


def test_masksAndStrangersAreTypeErrors() -> None:
    with pytest.raises(TypeError, match="mask"):
        arrays.describeArray(Faced(mask=object()))
    with pytest.raises(TypeError, match="no array"):
        arrays.describeArray(object())


@given(
    st.dictionaries(
        st.sampled_from(["shape", "typestr", "data", "strides", "stream", "version"]),
        st.none() | st.integers() | st.text() | st.tuples(st.integers(), st.booleans()) | st.lists(st.integers(), max_size=4),
    )
)
def test_noInterfaceIsMoreThanAnError(fields: dict[str, Any]) -> None:
    try:
        described = arrays.describeArray(Faced(**fields))
    except (InvalidArgument, TypeError):
        return
    assert described.address >= 0 and len(described.shape) <= 64


@pytest.mark.parametrize(("stream", "expected"), [(None, 1), (1, 1), (2, 2), (12345, 12345), (-1, None)])
def test_theConsumersStreamIsTheOneThatWaits(stream: int | None, expected: int | None) -> None:
    assert arrays.consumerStream(stream) == expected


@pytest.mark.parametrize("stream", [0, -2])
def test_ambiguousStreamsAreRefused(stream: int) -> None:
    with pytest.raises(InvalidArgument):
        arrays.consumerStream(stream)
