"""A fixed-size array of any dtype arrives in another process unchanged; a dtype that
can not live in shared memory is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

import muninn
from muninn.errors import ControlBlockInvalid, DeviceUnavailable, InvalidArgument, InvalidDtype
from muninn.interop.dtypes import _described, encoded, nameOf, plain
from muninn.interop.elements import asElement
from support import Actor, leftovers

Start = Callable[..., Actor]

_RANDOM = np.random.default_rng(20261123)
_NESTED = np.dtype(
    [("id", "<u4"), ("at", [("x", ">f8"), ("y", "<f8")]), ("tags", "S5", (2,)), ("when", "M8[ms]")],
    align=True,
)


@pytest.mark.parametrize(
    "text",
    [
        *"?bBhHiIlLqQefdgFDG",
        "S5",
        "U3",
        "V7",
        ">f8",
        ">U2",
        "M8",
        "M8[ns]",
        ">m8[25s]",
        "m8",
        "M8[D]",
    ],
)
def test_aTypeIsNamedAsByNumpy(text: str) -> None:
    assert nameOf(asElement(text)) == np.dtype(text).name


def _records() -> np.ndarray[Any, Any]:
    made = np.zeros(7, _NESTED)
    made["id"], made["at"]["x"], made["tags"][:, 1] = np.arange(7), np.arange(7) / 3, b"abc"
    made["when"] = np.arange(7).astype("M8[ms]")
    return made


_ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "float64": _RANDOM.random((3, 5)),
    "float16": _RANDOM.random(9).astype(np.float16),
    "longDouble": np.arange(3, dtype=np.longdouble),
    "complex": _RANDOM.random((2, 2)) + 1j,
    "bool": _RANDOM.random(17) > 0.5,
    "eightDimensions": _RANDOM.integers(-9, 9, (1, 2, 1, 3, 1, 2, 1, 2)).astype(np.int8),
    "oneByte": np.array([7], np.uint8),
    "noDimensions": np.array(2.5),
    "bigEndian": np.arange(6, dtype=">i4").reshape(2, 3),
    "datetime": np.array(["2026-11-23T12:00", "NaT"], "M8[m]"),
    "timedelta": np.arange(4).astype("m8[25us]"),
    "bytes": np.array([b"a", b"longer"]),
    "unicode": np.array(["ä", "日本語"]),
    "void": np.frombuffer(b"0123456789abcdef", "V8"),
    "structured": _records(),
    "structuredWithoutDimensions": np.array((1, 2.5), "i4,f8"),
    "manyFields": np.zeros(2, [(f"field{number}", "<f4") for number in range(200)]),
    "unaligned": np.zeros(4, [("a", "u1"), ("b", "<i8")]),
    "columnOrder": np.asfortranarray(_RANDOM.random((4, 6))),
    "strided": _RANDOM.random((8, 9))[::2, ::3],
    "reversed": np.arange(11)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "structuredStrided": np.arange(9).astype("i4,f8")[::2],
    "readOnlySource": np.frombuffer(b"immutable", np.uint8),
    "severalChunks": np.arange((17 << 20) // 8),
    "severalChunksStrided": np.arange((34 << 20) // 8)[::2],
}

_READER = """
import hashlib
def seen(name):
    with muninn.open(name) as buffer:
        array = buffer.array
        return [list(array.shape), repr(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()]
"""


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_everyKindOfArrayArrivesInAnotherProcess(domain: str, actor: Start, mode: str) -> None:
    reader = actor(_READER)
    for name, source in _ARRAYS.items():
        with muninn.share(source, name=name, mode=mode) as shared:
            assert (shared.shape, shared.dtype, shared.nbytes) == (
                source.shape,
                source.dtype,
                source.nbytes,
            ), name
            assert shared.array.flags.c_contiguous and shared.array.tobytes() == source.tobytes(), (
                name
            )
            expected = [
                list(source.shape),
                repr(shared.dtype),
                hashlib.sha256(source.tobytes()).hexdigest(),
            ]
            assert reader.do(f"seen({name!r})") == expected, name
            shared.free()
    assert leftovers(domain) == []


def test_arraysOfTheSourcesOwnTypeAreCopies(domain: str) -> None:
    source = np.arange(1000)
    shared = muninn.share(source, name="a")
    source[:] = -1
    assert shared.array.sum() == 499500
    shared.array[0] = 5
    assert source[0] == -1


class _OnlyDlpack:
    """An array of a library that has DLPack but not numpy's own protocols."""

    def __init__(self, array: np.ndarray[Any, Any], device: tuple[int, int] = (1, 0)) -> None:
        self.array, self._device = array, device

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


class _OnlyInterface:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = array.__array_interface__
        self.array = array


class _OnlyArray:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.array


@pytest.mark.parametrize("kind", [_OnlyDlpack, _OnlyInterface, _OnlyArray])
@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.arange(9)[::2]], ids=["contiguous", "strided"]
)
def test_sharesWhatSpeaksAnArrayProtocol(
    domain: str, kind: Callable[..., Any], array: np.ndarray[Any, Any]
) -> None:
    shared = muninn.share(kind(array), name="a")
    assert shared.dtype == array.dtype
    np.testing.assert_array_equal(muninn.open("a").array, array)


def test_sharesABufferOfItsOwn(domain: str) -> None:
    first = muninn.share(np.arange(6).reshape(2, 3), name="a")
    second = muninn.share(first, name="b")
    first.array[:] = 0
    assert second.array.sum() == 15


@pytest.mark.parametrize("value", [[1, 2], (1.0,), 3, None, "text", {1, 2}, object()])
def test_doesNotGuessWhatIsNoArray(domain: str, value: Any) -> None:
    with pytest.raises(TypeError, match="pass an array"):
        muninn.share(value, name="a")
    assert muninn.listBuffers() == []


def test_refusesMaskedArraysInsteadOfLosingTheMask(domain: str) -> None:
    with pytest.raises(TypeError, match="mask"):
        muninn.share(np.ma.masked_array([1, 2], [0, 1]), name="a")


def test_refusesMemoryOfARealGpuOnTheHostBackEnd(domain: str) -> None:
    class OnGpu:
        __cuda_array_interface__ = {
            "version": 3,
            "shape": (4,),
            "typestr": "<f4",
            "data": (0x7F0000000000, False),
        }

    for value in (OnGpu(), _OnlyDlpack(np.arange(3), (2, 0))):
        with pytest.raises(DeviceUnavailable):
            muninn.share(value, name="a")
    assert muninn.listBuffers() == [] and leftovers(domain) == []


_OVERLAPPING = np.dtype(
    {"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2], "itemsize": 8}
)


@pytest.mark.parametrize(
    "dtype",
    [
        "O",
        object,
        "S0",
        "V0",
        "U",
        "nonsense",
        "(2",
        "f8,,x",
        "6)",
        [("a", "O")],
        [("a", "i4"), ("a", "i4")],
        {"names": ["a"], "formats": []},
        5,
        _OVERLAPPING,
        np.dtypes.StringDType(),
    ],
    ids=str,
)
def test_refusesTypesThatCanNotLiveInSharedMemory(domain: str, dtype: Any) -> None:
    with pytest.raises(InvalidDtype):
        muninn.array("a", 4, dtype)
    assert muninn.listBuffers() == [] and leftovers(domain) == []


def test_refusesArraysOfSuchTypes(domain: str) -> None:
    for value in (
        np.array([object()]),
        np.zeros(2, [("a", "i4"), ("b", "O")]),
        np.zeros(3, _OVERLAPPING),
        np.array(["a"], np.dtypes.StringDType()),
    ):
        with pytest.raises(InvalidDtype):
            muninn.share(value, name="a")
    assert muninn.listBuffers() == [] and leftovers(domain) == []


def test_aFieldOfATypeThatALibraryAddedIsRefused(domain: str) -> None:
    """numpy describes it by its size alone, so another process would read it as that."""
    import ml_dtypes

    records = np.zeros(3, [("x", ml_dtypes.bfloat16)])
    with pytest.raises(InvalidDtype, match=r"bfloat16.*view\('u2'\)"):
        muninn.share(records, name="a")
    assert muninn.listBuffers() == [] and leftovers(domain) == []


def test_anElementMayBeAnArray(domain: str, actor: Start) -> None:
    """numpy.zeros accepts this too. Broken: the array was made, but not as requested,
    so each later call made a mismatch.
    """
    for _ in range(2):
        assert muninn.array("a", 5, ("<f4", (3,))).array.shape == np.zeros(5, ("<f4", (3,))).shape
    assert actor().do("muninn.open('a').array.shape, str(muninn.open('a').dtype)") == [
        [5, 3],
        "float32",
    ]
    with pytest.raises(InvalidArgument, match="at most 8 lengths"):
        muninn.array("b", (1,) * 8, ("<f4", (3,)))


@pytest.mark.parametrize("text", ["", "f8,,", "(2", "O", "garbage"])
def test_theTypeInARowIsCheckedBeforeItIsUsed(text: str) -> None:
    with pytest.raises(ControlBlockInvalid):
        plain(text)


def test_plainTypesNeedNoManifest() -> None:
    for text in ("<f8", ">i4", "|b1", "<M8[25us]", "<U7", "|S128", "|V8"):
        assert encoded(asElement(text)) == (text, b"")
    text, manifest = encoded(asElement(_NESTED))
    assert text == f"|V{_NESTED.itemsize}" and manifest


def test_describesTheFieldsOfAStructuredArray(domain: str) -> None:
    assert (
        muninn.share(np.zeros(3, "i4,>f8")).describe()["dtype"] == "[('f0', '<i4'), ('f1', '>f8')]"
    )
    assert muninn.share(np.zeros(3, "f4")).describe()["dtype"] == "float32"


@pytest.mark.parametrize(
    "description", [",f8", "2**9,f8", [["a"]], {"tuple": 7}, [{"tuple": ["a", "<f8", "x"]}], 3]
)
def test_aDamagedDescriptionIsATypedError(description: object) -> None:
    with pytest.raises(ControlBlockInvalid, match="damaged"):
        _described(msgpack.packb({"descr": description}))
