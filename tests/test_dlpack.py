"""Memory that is lent by DLPack comes back exactly once, in every order of releases;
memory that others lend is checked before it is used.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.errors import InvalidArgument
from muninn.interop import capsules
from muninn.interop.dlpack import (
    Imported,
    exportCapsule,
    exportCapsules,
    importCapsule,
    takeTensor,
)
from muninn.interop.elements import asElement
from support import BOUND_SECONDS, program

_VERSIONED = (1, 1)
_FAKE_ADDRESS = 0x7F0000001000
_DTYPES = [
    np.dtype(name)
    for name in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
]

needsVersioned = pytest.mark.skipif(
    not capsules.NUMPY_IS_VERSIONED,
    reason="numpy 2.0 makes legacy capsules only: pip install 'numpy>=2.1'",
)
_bothKinds = pytest.mark.parametrize(
    "maxVersion",
    [
        pytest.param(None, id="legacy"),
        pytest.param(_VERSIONED, id="versioned", marks=needsVersioned),
    ],
)

_newCapsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))


class Owner:
    """An object that owns memory, and whose end a test can see."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array


class Lender:
    """An object that lends its memory by our exporter, as DLPack 1.x requests it."""

    def __init__(
        self,
        array: np.ndarray[Any, Any],
        device: tuple[int, int] = (capsules.CPU, 0),
        **keywords: Any,
    ) -> None:
        self.owner, self.device, self.keywords = Owner(array), device, keywords
        self.asked: list[tuple[Any, Any]] = []

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any:  # pylint: disable=invalid-name
        self.asked.append((stream, max_version))
        return lend(self.owner, maxVersion=max_version, device=self.device, **self.keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class LegacyLender(Lender):
    """An object that lends its memory as before DLPack 1.0."""

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        self.asked.append((stream, None))
        return lend(self.owner, maxVersion=None, device=self.device, **self.keywords)


def lend(owner: Owner, device: tuple[int, int] = (capsules.CPU, 0), **keywords: Any) -> Any:
    array = owner.array
    return exportCapsule(
        array.ctypes.data,
        array.shape,
        array.dtype,
        device,
        owner,
        **{"strides": array.strides, **keywords},
    )


@needsVersioned
def test_manyRangesOfAMemoryAreLentAsEachIsAlone() -> None:
    owner = Owner(np.arange(96, dtype="u1"))
    address, gone = owner.array.ctypes.data, weakref.ref(owner)
    parts = [
        (0, (2, 3), asElement("f4")),
        (32, (), asElement("i8")),
        (40, (0, 7), asElement("f4")),
        (40, (4, 1, 2), asElement("bfloat16")),
        (56, (3,), asElement("int4")),
    ]
    for readOnly in (True, False):
        together = exportCapsules(
            address, parts, (1, 0), owner, readOnly=readOnly, maxVersion=capsules.MAX_VERSION
        )
        alone = [
            exportCapsule(
                address + offset,
                shape,
                element,
                (1, 0),
                owner,
                readOnly=readOnly,
                maxVersion=capsules.MAX_VERSION,
            )
            for offset, shape, element in parts
        ]
        names = [name for name in Imported.__slots__ if name not in ("__weakref__", "holder")]
        found, expected = (
            [[getattr(taken, name) for name in names] for taken in map(importCapsule, each)]
            for each in (together, alone)
        )
        assert found == expected
    kept = importCapsule(
        exportCapsules(address, parts, (1, 0), owner, maxVersion=capsules.MAX_VERSION)[1]
    )
    del owner, together, alone
    assert gone() is not None
    del kept
    assert gone() is None
    with pytest.raises(BufferError, match="padded to a byte"):
        exportCapsules(address, parts, (1, 0), None)
    with pytest.raises(InvalidArgument, match="is no device"):
        exportCapsules(address, parts, (1, 1), None)


def managedAddress(capsule: Any) -> int:
    """The address of the structure in an unconsumed capsule."""
    return next(
        ctypes.addressof(capsules.managedOf(capsule, name))
        for name in capsules.MANAGED
        if capsules.isCapsuleOf(capsule, name)
    )


def sample(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.arange(24).reshape(2, 3, 4).astype(dtype)


# --- Lending ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param(Lender, marks=needsVersioned), LegacyLender])
@pytest.mark.parametrize("dtype", _DTYPES, ids=str)
def test_numpySeesTheLentMemoryItself(kind: type[Lender], dtype: np.dtype[Any]) -> None:
    array = sample(dtype)
    seen = np.from_dlpack(kind(array))
    assert (seen.shape, seen.strides, seen.dtype) == (array.shape, array.strides, dtype)
    assert np.shares_memory(seen, array)
    # numpy takes memory for read-only if its lender can not say that it is not, and
    # some versions of numpy take everything.
    assert seen.flags.writeable == (kind is Lender and np.from_dlpack(array).flags.writeable)
    np.testing.assert_array_equal(seen, array)


_LAYOUTS = {
    "noDimensions": np.array(2.5),
    "oneElement": np.array([[7]]),
    "empty": np.empty((3, 0, 2)),
    "columnOrder": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(72.0).reshape(8, 9)[::2, ::3],
    "reversed": np.arange(11)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)).view(),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "manyDimensions": np.arange(2.0).reshape((1,) * 63 + (2,)),
}


@_bothKinds
@pytest.mark.parametrize("array", _LAYOUTS.values(), ids=_LAYOUTS)
def test_keepsEveryLayout(array: np.ndarray[Any, Any], maxVersion: Any) -> None:
    seen = np.from_dlpack(Lender(array) if maxVersion else LegacyLender(array))
    np.testing.assert_array_equal(seen, array)
    if array.size:
        assert seen.ctypes.data == array.ctypes.data and seen.shape == array.shape
    back = importCapsule(lend(Owner(array), maxVersion=maxVersion))
    assert (back.shape, back.element.dtype, back.readOnly) == (array.shape, array.dtype, False)
    assert back.address == (array.ctypes.data if array.size else 0)
    assert back.strides == (None if array.flags.c_contiguous else array.strides)


@needsVersioned
@pytest.mark.parametrize(
    ("maxVersion", "name"),
    [
        (None, "dltensor"),
        ((0, 9), "dltensor"),
        ((1, 0), "dltensor_versioned"),
        ((2, 0), "dltensor_versioned"),
    ],
)
def test_aConsumerGetsTheNewestKindThatItUnderstands(maxVersion: Any, name: str) -> None:
    assert f'"{name}"' in repr(
        exportCapsule(_FAKE_ADDRESS, (2,), "f4", (2, 0), None, maxVersion=maxVersion)
    )


@needsVersioned
def test_stridesAreAlwaysStated() -> None:
    capsule = exportCapsule(_FAKE_ADDRESS, (2, 3), "f4", (2, 0), None, maxVersion=_VERSIONED)
    tensor = capsules.managedOf(capsule, b"dltensor_versioned").tensor
    assert list((ctypes.c_int64 * 2).from_address(tensor.strides)) == [3, 1]
    assert list((ctypes.c_int64 * 2).from_address(tensor.shape)) == [2, 3]


@pytest.mark.parametrize("device", [(capsules.CPU, 0), (capsules.CUDA, 3), (capsules.CUDA_HOST, 1)])
@_bothKinds
def test_memoryOfADeviceIsNeverTouched(device: tuple[int, int], maxVersion: Any) -> None:
    """The address leads nowhere: a read would end this process."""
    owner = Owner(np.empty(0))
    back = importCapsule(
        exportCapsule(
            _FAKE_ADDRESS, (2, 3), "f2", device, owner, maxVersion=maxVersion, strides=(2, 4)
        )
    )
    assert (back.deviceType, back.deviceId) == device
    assert (back.address, back.shape, back.strides, back.element.dtype) == (
        _FAKE_ADDRESS,
        (2, 3),
        (2, 4),
        np.float16,
    )


def test_numpyRefusesMemoryOfADevice() -> None:
    lender = Lender(np.arange(3.0), (capsules.CUDA, 0))
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(lender)


@needsVersioned
def test_readOnlyMemoryStaysReadOnly() -> None:
    seen = np.from_dlpack(Lender(np.arange(3), readOnly=True))
    assert not seen.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    assert takeTensor(Lender(np.arange(3), readOnly=True), None).readOnly


def test_readOnlyMemoryIsNotLentWhereThatCanNotBeSaid() -> None:
    with pytest.raises(BufferError, match="read-only"):
        lend(Owner(np.arange(3)), readOnly=True)
    with pytest.raises(BufferError, match="read-only"):
        np.from_dlpack(LegacyLender(np.arange(3), readOnly=True))


@pytest.mark.parametrize(
    "dtype", ["i4,f8", "S4", "U3", "M8[s]", "m8[ms]", "V7", "g", "G", ">i4", ">f8"]
)
def test_refusesElementsThatDlpackHasNoWordFor(dtype: str) -> None:
    with pytest.raises(BufferError, match="DLPack"):
        exportCapsule(_FAKE_ADDRESS, (1,), dtype, (2, 0), None)


@pytest.mark.parametrize(
    ("address", "shape", "strides", "device"),
    [
        (-1, (1,), None, (2, 0)),
        (1 << 64, (1,), None, (2, 0)),
        ((1 << 64) - 4, (2,), None, (2, 0)),
        (4, (2,), (-8,), (2, 0)),
        (_FAKE_ADDRESS, (-1,), None, (2, 0)),
        (_FAKE_ADDRESS, (1 << 62, 1 << 62), None, (2, 0)),
        (_FAKE_ADDRESS, (1 << 62, 1 << 62, 0), None, (2, 0)),
        (_FAKE_ADDRESS, (2,), (1 << 70,), (2, 0)),
        (_FAKE_ADDRESS, (2,), (4, 4), (2, 0)),
        (_FAKE_ADDRESS, (1,) * 65, None, (2, 0)),
        (_FAKE_ADDRESS, (2,), None, (1, 1)),
        (_FAKE_ADDRESS, (2,), None, (2, -1)),
        (_FAKE_ADDRESS, (2,), None, (4, 0)),
    ],
)
def test_refusesToLendWhatCanNotBe(
    address: int, shape: tuple[int, ...], strides: Any, device: tuple[int, int]
) -> None:
    with pytest.raises(InvalidArgument):
        exportCapsule(address, shape, "f4", device, None, strides=strides)


def test_refusesStridesBetweenElements() -> None:
    with pytest.raises(BufferError, match="whole elements"):
        exportCapsule(_FAKE_ADDRESS, (2,), "f4", (2, 0), None, strides=(6,))


@pytest.mark.parametrize("maxVersion", [1, (1,), [1, 0], ("1", 0)])
def test_refusesAVersionThatIsNone(maxVersion: Any) -> None:
    with pytest.raises(TypeError):
        exportCapsule(_FAKE_ADDRESS, (2,), "f4", (2, 0), None, maxVersion=maxVersion)


# --- Giving back --------------------------------------------------------------------


@_bothKinds
def test_thousandLoansLeaveNothingBehind(maxVersion: Any) -> None:
    owners = []
    for number in range(1000):
        owner = Owner(np.arange(8.0))
        owners.append(weakref.ref(owner))
        capsule = lend(owner, maxVersion=maxVersion)
        if number % 2:
            imported = importCapsule(capsule)
            del imported
        del owner, capsule
        assert owners[-1]() is None
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        importCapsule(
            exportCapsule(_FAKE_ADDRESS, (2, 3), "f4", (2, 0), None, maxVersion=maxVersion)
        )
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500


@_bothKinds
def test_anUnconsumedCapsuleFreesItsOwner(maxVersion: Any) -> None:
    owner = Owner(np.arange(3))
    seen, capsule = weakref.ref(owner), lend(owner, maxVersion=maxVersion)
    del owner
    assert seen() is not None
    del capsule
    assert seen() is None


@_bothKinds
def test_theOwnerLivesAsLongAsTheConsumer(maxVersion: Any) -> None:
    owner = Owner(np.arange(3))
    seen, capsule = weakref.ref(owner), lend(owner, maxVersion=maxVersion)
    imported = importCapsule(capsule, holder := Owner(np.arange(1)))
    assert imported.holder is holder
    del owner, capsule
    gc.collect()
    assert seen() is not None
    del imported
    assert seen() is None


@_bothKinds
def test_aCapsuleIsConsumedOnce(maxVersion: Any, torch: Any) -> None:
    for take in (importCapsule, torch.utils.dlpack.from_dlpack):
        capsule = lend(Owner(np.arange(3)), maxVersion=maxVersion)
        taken = take(capsule)
        with pytest.raises(BufferError, match="consumed already"):
            importCapsule(capsule)
        del taken
        with pytest.raises(BufferError, match="consumed already"):
            importCapsule(capsule)


def test_onlyOneThreadGetsACapsule() -> None:
    for _ in range(50):
        owner = Owner(np.arange(3))
        seen, capsule = weakref.ref(owner), lend(owner, maxVersion=_VERSIONED)
        taken: list[Any] = []
        barrier = threading.Barrier(4)

        def take(
            capsule: Any = capsule, taken: list[Any] = taken, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(BOUND_SECONDS)
            try:
                taken.append(importCapsule(capsule))
            except BufferError:
                taken.append(None)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND_SECONDS)
        assert sorted(each is None for each in taken) == [False, True, True, True]
        del owner, capsule, taken, take, threads, thread
        gc.collect()
        assert seen() is None


def takenByHand(maxVersion: Any) -> tuple[weakref.ref[Owner], int, int]:
    """(owner, structure, deleter) of a capsule that was renamed, as a consumer written
    in C renames it.
    """
    owner = Owner(np.arange(3))
    seen, capsule = weakref.ref(owner), lend(owner, maxVersion=maxVersion)
    name = b"dltensor_versioned" if maxVersion else b"dltensor"
    managed = capsules.managedOf(capsule, name)
    capsules.renameCapsule(capsule, capsules.USED[name])
    return seen, ctypes.addressof(managed), managed.deleter


@_bothKinds
def test_theDeleterNeedsNoGil(maxVersion: Any) -> None:
    seen, managed, deleter = takenByHand(maxVersion)
    assert seen() is not None
    giveBack = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)  # the call releases the GIL
    thread = threading.Thread(target=giveBack, args=(managed,))
    thread.start()
    thread.join(BOUND_SECONDS)
    assert not thread.is_alive() and seen() is None


@_bothKinds
def test_theDeleterMayRunOnAThreadThatPythonDoesNotKnow(maxVersion: Any) -> None:
    seen, managed, deleter = takenByHand(maxVersion)
    libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
    assert (
        libc.pthread_create(
            ctypes.byref(thread), None, ctypes.c_void_p(deleter), ctypes.c_void_p(managed)
        )
        == 0
    )
    assert libc.pthread_join(thread, None) == 0
    assert seen() is None


@_bothKinds
def test_givingBackKeepsTheExceptionThatIsInFlight(maxVersion: Any, torch: Any) -> None:
    """The interpreter drops the arguments of a failed call while its exception is
    pending; a deleter in Python code would lose the exception.
    """
    for take in (lambda capsule: capsule, importCapsule, torch.utils.dlpack.from_dlpack):
        owner = Owner(np.arange(3.0))
        seen = weakref.ref(owner)
        with pytest.raises(TypeError, match="at most 2 arguments"):
            int(take(lend(owner, maxVersion=maxVersion)), 1, 2, 3)
        del owner
        gc.collect()
        assert seen() is None


@pytest.mark.parametrize("withTorch", [False, True], ids=["numpy", "torch"])
def test_exitWithLiveLoansIsClean(withTorch: bool, request: pytest.FixtureRequest) -> None:
    if withTorch:
        request.getfixturevalue("torch")
    code = program(
        "loansAtExit",
        TORCH="import torch" if withTorch else "",
        TENSORS="made += [torch.utils.dlpack.from_dlpack(lend(version)), importCapsule(torch.arange(3).__dlpack__(max_version=version))]"
        if withTorch
        else "",
    )
    root = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
        cwd=root,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")


_AFTER_EXIT = """
import ctypes
import numpy as np
from muninn.interop import capsules, dlpack
for name, version in ((b"dltensor", None), (b"dltensor_versioned", (1, 1)))[: 1 + capsules.NUMPY_IS_VERSIONED]:
    capsule = dlpack.exportCapsule(4096, (3,), "f4", (2, 0), object(), maxVersion=version)
    managed = capsules.managedOf(capsule, name)
    capsules.renameCapsule(capsule, capsules.USED[name])
    ctypes.CDLL(None).__cxa_atexit(ctypes.c_void_p(managed.deleter), ctypes.c_void_p(ctypes.addressof(managed)), None)
"""


def test_theDeleterMayBeCalledAfterTheInterpreterHasEnded() -> None:
    """A C++ library that keeps a tensor in a static variable calls the deleter so late."""
    root = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", _AFTER_EXIT],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
        cwd=root,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")


# --- Borrowing ----------------------------------------------------------------------


def test_borrowsFromNumpy() -> None:
    array = np.arange(12.0).reshape(3, 4)[:, ::2]
    seen, taken = weakref.ref(array.base), takeTensor(array, stream=7)
    assert (taken.address, taken.shape, taken.strides, taken.element.dtype) == (
        array.ctypes.data,
        (3, 2),
        (32, 16),
        np.float64,
    )
    assert (taken.deviceType, taken.deviceId, taken.readOnly) == (capsules.CPU, 0, False)
    array = None  # type: ignore[assignment]
    assert seen() is not None
    del taken
    assert seen() is None


@needsVersioned
def test_borrowsReadOnlyMemoryAsSuch() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    assert takeTensor(array, None).readOnly


def test_torchSeesTheLentMemoryItself(torch: Any) -> None:
    for kind in (Lender, LegacyLender):
        for dtype in _DTYPES:
            array = sample(dtype)
            lender = kind(array)
            seen, tensor = weakref.ref(lender.owner), torch.from_dlpack(lender)
            assert tensor.data_ptr() == array.ctypes.data and tuple(tensor.shape) == array.shape
            np.testing.assert_array_equal(tensor.numpy(), array)
            del lender
            assert seen() is not None
            del tensor
            assert seen() is None


def test_borrowsFromTorch(torch: Any) -> None:
    for dtype in (
        torch.bool,
        torch.int8,
        torch.uint8,
        torch.int64,
        torch.float16,
        torch.float32,
        torch.complex64,
    ):
        tensor = torch.arange(12).reshape(3, 4).to(dtype).t()
        taken = takeTensor(tensor, stream=7)
        itemBytes = tensor.element_size()
        assert (taken.address, taken.shape, taken.strides) == (
            tensor.data_ptr(),
            (4, 3),
            (itemBytes, 4 * itemBytes),
        )
        assert (taken.deviceType, taken.element.dtype) == (capsules.CPU, tensor.numpy().dtype)
    assert takeTensor(torch.tensor(3.5), None).shape == ()


def test_tellsAStreamToDevicesOnly() -> None:
    for device, told in (
        ((capsules.CPU, 0), None),
        ((capsules.CUDA_HOST, 0), None),
        ((capsules.CUDA, 1), 7),
    ):
        lender = Lender(np.arange(3), device)
        assert takeTensor(lender, 7).deviceType == device[0]
        assert lender.asked == [(told, capsules.MAX_VERSION)]


def test_asksOldProducersInTheOldWay() -> None:
    lender = LegacyLender(np.arange(3), (capsules.CUDA, 1))
    assert takeTensor(lender, 7).shape == (3,)
    assert lender.asked == [(7, None)]


class _Stating:
    def __init__(self, device: Any, capsule: Any = None) -> None:
        self.__dlpack_device__ = lambda: device
        self.__dlpack__ = lambda **keywords: capsule


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        object(),
        _Stating(None),
        _Stating((1,)),
        _Stating(("cpu", 0)),
        _Stating((1, 0)),
        _Stating((1, 0), 5),
    ],
)
def test_refusesWhatDoesNotSpeakDlpack(value: Any) -> None:
    with pytest.raises(TypeError):
        takeTensor(value, None)


def test_refusesOtherCapsules() -> None:
    text = ctypes.create_string_buffer(80)
    for name in (None, b"", b"tensor", b"dltensor2"):
        with pytest.raises(TypeError, match="not a DLPack capsule"):
            importCapsule(_newCapsule(ctypes.addressof(text), name, None))


class Hostile:
    """A capsule with any content that a producer chose, and a count of how often it was
    given back.
    """

    def __init__(self, versioned: bool, withoutLengths: bool = False, **fields: Any) -> None:
        self.released = 0
        self._deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._release)
        self._extents = (ctypes.c_int64 * 128)()
        shape, strides = fields.pop("shape", (2,)), fields.pop("strides", None)
        self._extents[: len(shape)] = shape
        self.managed = (
            capsules.ManagedVersioned(major=1, minor=1) if versioned else capsules.Managed()
        )
        self.managed.deleter = ctypes.cast(self._deleter, ctypes.c_void_p).value
        tensor = self.managed.tensor
        tensor.data, tensor.deviceType, tensor.ndim, tensor.code, tensor.bits, tensor.lanes = (
            _FAKE_ADDRESS,
            2,
            len(shape),
            2,
            32,
            1,
        )
        tensor.shape = 0 if withoutLengths else ctypes.addressof(self._extents)
        if strides is not None:
            self._extents[64 : 64 + len(strides)] = strides
            tensor.strides = ctypes.addressof(self._extents) + 8 * 64
        for key, value in fields.items():
            setattr(self.managed if hasattr(self.managed, key) else tensor, key, value)
        self.name = b"dltensor_versioned" if versioned else b"dltensor"
        self.capsule = _newCapsule(ctypes.addressof(self.managed), self.name, None)

    def _release(self, managed: int) -> None:
        assert managed == ctypes.addressof(self.managed)
        self.released += 1


_IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "negativeDimensions": {"ndim": -1},
    "tooManyDimensions": {"ndim": 65},
    "mostDimensions": {"ndim": 2**31 - 1},
    "noLengths": {"withoutLengths": True},
    "negativeLength": {"shape": (-1,)},
    "tooManyBytes": {"shape": (2**40, 2**40)},
    "tooManyBytesOfNothing": {"shape": (2**40, 2**40, 0)},
    "noMemory": {"data": 0},
    "offsetBeyondAddresses": {"byteOffset": 2**64 - 4096},
    "beyondAddresses": {"data": 2**64 - 4},
    "beforeAddresses": {"data": 4096, "shape": (2,), "strides": (-4096,)},
    "noBits": {"bits": 0},
    "oddBits": {"bits": 33},
    "subByte": {"code": 17, "bits": 4},
    "noLanes": {"lanes": 0},
    "lanes": {"lanes": 4},
    "opaqueHandle": {"code": 3, "bits": 64},
    "unknownCode": {"code": 255},
}


@pytest.mark.parametrize("versioned", [False, True], ids=["legacy", "versioned"])
@pytest.mark.parametrize("fields", _IMPOSSIBLE.values(), ids=_IMPOSSIBLE)
def test_refusesTensorsThatCanNotBe(fields: dict[str, Any], versioned: bool) -> None:
    hostile = Hostile(versioned, **fields)
    with pytest.raises(BufferError):
        importCapsule(hostile.capsule)
    # The producer still owns the tensor: the capsule is as it was, and the deleter was
    # not called.
    assert capsules.isCapsuleOf(hostile.capsule, hostile.name) and hostile.released == 0


@pytest.mark.parametrize("major", [0, 2, 2**32 - 1])
def test_refusesVersionsThatItDoesNotKnow(major: int) -> None:
    hostile = Hostile(True, major=major, ndim=-5)
    with pytest.raises(BufferError, match=f"DLPack {major}"):
        importCapsule(hostile.capsule)
    assert hostile.released == 0


@pytest.mark.parametrize("versioned", [False, True], ids=["legacy", "versioned"])
def test_givesBackExactlyOnce(versioned: bool) -> None:
    hostile = Hostile(versioned, byteOffset=16)
    imported = importCapsule(hostile.capsule)
    assert imported.address == _FAKE_ADDRESS + 16 and hostile.released == 0
    del imported
    gc.collect()
    assert hostile.released == 1


def test_aProducerNeedsNoDeleter() -> None:
    imported = importCapsule(Hostile(True, deleter=0).capsule)
    assert imported.shape == (2,)
    del imported


_INT64 = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
_WORD = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1), st.just(_FAKE_ADDRESS))


@given(
    versioned=st.booleans(),
    shape=st.lists(_INT64, max_size=64),
    strides=st.none() | st.lists(_INT64, min_size=64, max_size=64),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "data": _WORD,
            "byteOffset": _WORD,
            "ndim": st.integers(-(2**31), 2**31 - 1),
            "code": st.integers(0, 255),
            "bits": st.integers(0, 255) | st.sampled_from([8, 16, 32, 64, 128]),
            "lanes": st.integers(0, 2**16 - 1) | st.just(1),
            "deviceType": st.integers(-(2**31), 2**31 - 1),
            "deviceId": st.integers(-(2**31), 2**31 - 1),
            "flags": st.integers(0, 2**64 - 1),
            "major": st.integers(0, 3),
        },
    ),
)
def test_hostileTensorsAreRefusedOrDescribeWhatCanBe(
    versioned: bool, shape: list[int], strides: Any, fields: dict[str, Any]
) -> None:
    if not versioned:
        fields = {key: value for key, value in fields.items() if key not in ("flags", "major")}
    hostile = Hostile(versioned, shape=shape, strides=strides, **fields)
    try:
        imported = importCapsule(hostile.capsule)
    except BufferError:
        assert hostile.released == 0
        return
    assert 0 <= imported.address < 2**64 and all(length >= 0 for length in imported.shape)
    assert (
        np.prod([int(length) for length in imported.shape], dtype=object)
        * imported.element.itemBytes
        < 2**63
    )
    del imported
    assert hostile.released == 1
