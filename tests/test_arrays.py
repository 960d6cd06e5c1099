"""A foreign array on a GPU has the same description in every protocol, and each value
that it gives is checked first.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.errors import InvalidArgument, InvalidDtype
from muninn.interop import capsules, dlpack
from muninn.interop.arrays import (
    ForeignArray,
    consumerStream,
    cudaArrayInterface,
    describeArray,
    isOnDevice,
)
from muninn.interop.elements import asElement

_FAKE_ADDRESS = 0x7F0000001000
_STRUCTURE = np.dtype([("id", "<u4"), ("at", "<f8", (2,))], align=True)


class Interface:
    """An array that speaks `__cuda_array_interface__`."""

    def __init__(self, **changes: Any) -> None:
        stated = {
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (_FAKE_ADDRESS, False),
            "version": 3,
            **changes,
        }
        self.__cuda_array_interface__ = {
            key: value for key, value in stated.items() if value is not ...
        }


class Tensor:
    """An array that speaks DLPack only."""

    def __init__(
        self,
        device: tuple[int, int] = (capsules.CUDA, 1),
        exported: tuple[int, int] | None = None,
        **keywords: Any,
    ) -> None:
        self.owner, self.device, self.exported, self.keywords = (
            set[int](),
            device,
            exported or device,
            keywords,
        )
        self.streams: list[Any] = []

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:  # pylint: disable=invalid-name
        self.streams.append(stream)
        return dlpack.exportCapsule(
            _FAKE_ADDRESS,
            (2, 3),
            "f4",
            self.exported,
            self.owner,
            **{"maxVersion": max_version, **self.keywords},
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Raising:
    """An array whose every attribute raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def __cuda_array_interface__(self) -> Any:
        raise self._error

    def __dlpack__(self) -> Any:
        raise self._error

    def __dlpack_device__(self) -> Any:
        raise self._error


class GradientTensor(Tensor):
    """Like a tensor of PyTorch on a GPU that needs a gradient: it has no interface
    until it is detached.
    """

    @property
    def __cuda_array_interface__(self) -> Any:
        raise RuntimeError("requires grad")


class WordlessTensor(Tensor):
    """Like a tensor of PyTorch whose dtype has no typestr: 2.11 on an H200 raises this
    for the 8-bit floats.
    """

    @property
    def __cuda_array_interface__(self) -> Any:
        raise KeyError("torch.float8_e4m3fn")


# --- __cuda_array_interface__ -------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_readsEveryVersionOfTheInterface(version: int) -> None:
    value = Interface(version=version)
    assert describeArray(value) == ForeignArray(
        _FAKE_ADDRESS, (2, 3), None, asElement("<f4"), False, None, None, False, value
    )
    assert describeArray(Interface(version=version, stream=None)).isOrdered


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        (..., None),
        (None, None),
        ((12, 4), None),
        ((4, 8), (4, 8)),
        ((-12, 4), (-12, 4)),
        ((0, 4), (0, 4)),
        ([24, 8], (24, 8)),
        ((np.int64(12), np.int32(4)), None),
    ],
)
def test_stridesAreNoneWhereTheyGoWithoutSaying(strides: Any, expected: Any) -> None:
    assert describeArray(Interface(strides=strides)).strides == expected


def test_anAxisOfOneElementMayHaveAnyStride() -> None:
    assert describeArray(Interface(shape=(1, 3), strides=(999, 4))).strides is None


@pytest.mark.parametrize(
    ("stream", "expected"), [(..., None), (None, None), (1, 1), (2, 2), (0x55AA1234, 0x55AA1234)]
)
def test_namesTheStreamToWaitFor(stream: Any, expected: int | None) -> None:
    assert describeArray(Interface(stream=stream)).stream == expected


def test_anEmptyArrayNeedsNoMemory() -> None:
    assert describeArray(Interface(shape=(0, 3), data=(0, False)))[:3] == (0, (0, 3), None)


def test_readOnlyIsKept() -> None:
    assert describeArray(Interface(data=(_FAKE_ADDRESS, True))).readOnly
    assert describeArray(Interface(data=(_FAKE_ADDRESS, np.True_))).readOnly


@pytest.mark.parametrize(
    "typestr",
    [
        "|b1",
        "|i1",
        "<i8",
        ">i4",
        "|u1",
        "<f2",
        "<f8",
        "<c16",
        "<M8[ns]",
        "<m8[25us]",
        "|S5",
        "<U3",
        "|V7",
    ],
)
def test_knowsEveryTypestrOfFixedSize(typestr: str) -> None:
    assert describeArray(Interface(typestr=typestr)).element.dtype == np.dtype(typestr)


def test_fieldsAreReadFromTheirDescription() -> None:
    descr = np.lib.format.dtype_to_descr(_STRUCTURE)
    # The padding has become part of the list; the dtype is the same for everything that
    # is read and written.
    found = describeArray(Interface(typestr=_STRUCTURE.str, descr=descr)).element.dtype
    assert (found.names, found.itemsize, found["at"]) == (
        ("id", "at"),
        _STRUCTURE.itemsize,
        _STRUCTURE["at"],
    )
    assert describeArray(Interface(typestr="<f4", descr=[("", "<f4")])).element.dtype == np.float32
    assert describeArray(Interface(typestr="|V8", descr=[("", "|V8")])).element.dtype == np.dtype(
        "V8"
    )


_WRONG: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "noShape": (InvalidArgument, {"shape": ...}),
    "noTypestr": (InvalidArgument, {"typestr": ...}),
    "noData": (InvalidArgument, {"data": ...}),
    "noVersion": (InvalidArgument, {"version": ...}),
    "newerVersion": (InvalidArgument, {"version": 4}),
    "negativeVersion": (InvalidArgument, {"version": -1}),
    "longVersion": (InvalidArgument, {"version": 10**5000}),
    "versionOfText": (TypeError, {"version": "3"}),
    "mask": (TypeError, {"mask": Interface()}),
    "shapeOfOne": (TypeError, {"shape": 5}),
    "shapeOfText": (TypeError, {"shape": ("2", 3)}),
    "shapeOfFloats": (TypeError, {"shape": (2.0, 3)}),
    "shapeOfBools": (TypeError, {"shape": (True, 3)}),
    "negativeLength": (InvalidArgument, {"shape": (-1, 3)}),
    "tooManyDimensions": (InvalidArgument, {"shape": (1,) * 65}),
    "tooManyBytes": (InvalidArgument, {"shape": (2**40, 2**40)}),
    "tooManyBytesOfNothing": (InvalidArgument, {"shape": (2**40, 2**40, 0)}),
    "longLength": (InvalidArgument, {"shape": (10**5000, 1)}),
    "beyondAddresses": (InvalidArgument, {"data": (2**64 - 8, False)}),
    "beforeAddresses": (InvalidArgument, {"data": (4096, False), "strides": (-8192, 4)}),
    "fewStrides": (InvalidArgument, {"strides": (4,)}),
    "longStride": (InvalidArgument, {"strides": (2**64, 4)}),
    "stridesOfOne": (TypeError, {"strides": 4}),
    "dataAlone": (TypeError, {"data": _FAKE_ADDRESS}),
    "dataOfThree": (TypeError, {"data": (_FAKE_ADDRESS, False, 0)}),
    "addressOfText": (TypeError, {"data": ("0x7f", False)}),
    "noAddress": (TypeError, {"data": (None, False)}),
    "addressOfBool": (TypeError, {"data": (True, False)}),
    "negativeAddress": (InvalidArgument, {"data": (-4096, False)}),
    "longAddress": (InvalidArgument, {"data": (2**64, False)}),
    "nullOfSomething": (InvalidArgument, {"data": (0, False)}),
    "readOnlyOfText": (TypeError, {"data": (_FAKE_ADDRESS, "no")}),
    "typestrOfBytes": (TypeError, {"typestr": b"<f4"}),
    "typestrOfDtype": (TypeError, {"typestr": np.dtype("f4")}),
    "unknownTypestr": (InvalidArgument, {"typestr": "<q4"}),
    "oddTypestr": (InvalidArgument, {"typestr": "<f5"}),
    "objects": (InvalidArgument, {"typestr": "|O8"}),
    "bits": (InvalidArgument, {"typestr": "|t8"}),
    "fieldsInTypestr": (InvalidArgument, {"typestr": "i4,f8"}),
    "nothingInTypestr": (InvalidDtype, {"typestr": "|S0"}),
    "longTypestr": (InvalidArgument, {"typestr": "<f4" * 9999}),
    "unknownUnit": (InvalidArgument, {"typestr": "<M8[zz]"}),
    "fieldsOfObjects": (InvalidDtype, {"typestr": "|V8", "descr": [("a", "|O8")]}),
    "fieldsOfAnotherSize": (InvalidArgument, {"typestr": "|V8", "descr": [("a", "<f4")]}),
    "fieldsOfNothing": (InvalidArgument, {"typestr": "|V8", "descr": [5]}),
    "streamZero": (InvalidArgument, {"stream": 0}),
    "negativeStream": (InvalidArgument, {"stream": -1}),
    "longStream": (InvalidArgument, {"stream": 2**64}),
    "streamOfText": (TypeError, {"stream": "1"}),
    "streamOfBool": (TypeError, {"stream": True}),
}


@pytest.mark.parametrize(("error", "changes"), _WRONG.values(), ids=_WRONG)
def test_refusesWhatCanNotBe(error: type[Exception], changes: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        describeArray(Interface(**changes))
    assert isinstance(caught.value, InvalidArgument | InvalidDtype) == (error is not TypeError)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("interface", [5, "text", [], (1, 2)])
def test_refusesAnInterfaceThatIsNoDictionary(interface: Any) -> None:
    value = Interface()
    value.__cuda_array_interface__ = interface
    with pytest.raises(TypeError, match="not a dict"):
        describeArray(value)


_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
_NESTED = st.recursive(
    _ODD,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
)
_LENGTHS = st.lists(st.integers(-2, 9) | st.integers(0, 2**64), max_size=6).map(tuple)
_TYPES = st.sampled_from(["<f4", ">i8", "|V8", "|S3", "|b1", "<M8[s]"]) | st.from_regex(
    r"[<>|=]?[a-zA-Z][0-9]{0,9}(\[.*\])?", fullmatch=True
)


@given(
    stated=st.fixed_dictionaries(
        {
            "shape": _LENGTHS | _NESTED,
            "typestr": _TYPES | _NESTED,
            "data": st.tuples(st.integers(0, 2**64 - 1), st.booleans()) | _NESTED,
            "version": st.integers(0, 3) | _NESTED,
        },
        optional={
            "strides": _LENGTHS | _NESTED,
            "descr": st.lists(st.tuples(st.text(max_size=2), _TYPES), max_size=3) | _NESTED,
            "mask": _NESTED,
            "stream": st.integers(1, 9) | _NESTED,
        },
    )
)
def test_hostileInterfacesAreRefusedOrDescribeWhatCanBe(stated: dict[str, Any]) -> None:
    value = Interface()
    value.__cuda_array_interface__ = stated
    with contextlib.suppress(InvalidArgument, TypeError):
        found = describeArray(value)
        sizeBytes = found.element.itemBytes
        for length in found.shape:
            assert length >= 0
            sizeBytes *= length
        assert (
            sizeBytes < 2**63 and 0 <= found.address < 2**64 and not found.element.dtype.hasobject
        )
        assert found.strides is None or len(found.strides) == len(found.shape)
        assert found.stream is None or found.stream > 0


# --- DLPack -------------------------------------------------------------------------


def test_describesATensor() -> None:
    value = Tensor(strides=(4, 8))
    found = describeArray(value)
    assert found[:7] == (_FAKE_ADDRESS, (2, 3), (4, 8), asElement("f4"), False, 1, 1)
    assert value.streams == [1]


@pytest.mark.skipif(
    not capsules.NUMPY_IS_VERSIONED,
    reason="numpy 2.0 makes legacy capsules only: pip install 'numpy>=2.1'",
)
def test_aReadOnlyTensorStaysReadOnly() -> None:
    assert describeArray(Tensor(readOnly=True)).readOnly


def test_keepsATensorsMemory() -> None:
    value = Tensor()
    seen, found = weakref.ref(value.owner), describeArray(value)
    del value
    gc.collect()
    assert seen() is not None
    del found
    assert seen() is None


class OldTensor(Tensor):
    """Like an older tensor of PyTorch: its interface is of the second version, and says
    nothing of streams.
    """

    @property
    def __cuda_array_interface__(self) -> Any:
        return {"shape": (2, 3), "typestr": "<f4", "data": (_FAKE_ADDRESS, False), "version": 2}


def test_anInterfaceThatSaysNothingOfStreamsIsNotBelieved() -> None:
    """Broken: the copy ran before a side stream had written all of the data."""
    value, entered = OldTensor(), list[int]()

    @contextlib.contextmanager
    def onGpu(gpu: int) -> Any:
        entered.append(gpu)
        assert value.streams == []
        yield
        assert value.streams == [1]

    found = describeArray(value, onGpu)
    assert entered == [1] and found.stream == 1 and found.isOrdered and found.deviceId == 1


def test_aDtypeThatDlpackLacksIsTakenByTheInterface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        dlpack, "takeTensor", lambda *_: (_ for _ in ()).throw(InvalidDtype("float4"))
    )
    assert not describeArray(OldTensor()).isOrdered


def test_anArrayThatItsProducerRefusesToLendIsRefused(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's conjugates: their bytes are not their values, and only DLPack says so."""
    monkeypatch.setattr(
        dlpack, "takeTensor", lambda *_: (_ for _ in ()).throw(BufferError("conjugate bit"))
    )
    with pytest.raises(BufferError, match="conjugate"):
        describeArray(OldTensor())


def test_managedMemoryIsCudas() -> None:
    with pytest.raises(TypeError, match="states device type 13 and exports memory of 2"):
        describeArray(Tensor((capsules.CUDA_MANAGED, 0), exported=(capsules.CUDA, 0)))


@pytest.mark.parametrize(
    ("device", "where"),
    [((1, 0), "host memory"), ((3, 0), "host memory"), ((10, 0), "device type 10")],
)
def test_refusesMemoryThatIsNotCudasUnasked(device: tuple[int, int], where: str) -> None:
    value = Tensor(device, exported=(1, 0))
    with pytest.raises(TypeError, match=where):
        describeArray(value)
    assert value.streams == []


@pytest.mark.parametrize("value", [3, None, object(), "text", np.arange(3)])
def test_refusesWhatIsNoArrayOnADevice(value: Any) -> None:
    assert not isOnDevice(value)
    with pytest.raises(TypeError):
        describeArray(value)


def test_asksByDlpackWhereAnInterfaceHasNoWord() -> None:
    assert describeArray(WordlessTensor()).deviceId == 1
    with pytest.raises(RuntimeError, match="requires grad"):
        describeArray(GradientTensor())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Interface(), True),
        (Tensor(), True),
        (Tensor((capsules.CUDA_MANAGED, 0)), True),
        (Tensor((10, 0)), True),
        (Tensor((capsules.CPU, 0)), False),
        (Tensor((capsules.CUDA_HOST, 0)), False),
        (GradientTensor(), True),
        (WordlessTensor(), True),
        (Raising(AttributeError("no")), False),
        (Raising(TypeError("no")), False),
        (Raising(RuntimeError("no")), False),
        (Raising(BufferError("no")), False),
    ],
)
def test_saysWhetherAnArrayIsOnADevice(value: Any, expected: bool) -> None:
    assert isOnDevice(value) is expected


def test_tensorsOfTheCpuAreNotOnADevice(torch: Any) -> None:
    for value in (torch.arange(3), torch.ones(3, requires_grad=True), torch.eye(3).to_sparse()):
        assert not isOnDevice(value)
        with pytest.raises((TypeError, BufferError)):
            describeArray(value)


# --- Arrays that we offer
# ---------------------------------------------------------------


@pytest.mark.parametrize("stream", [None, 1, 2, 0x55AA1234])
@pytest.mark.parametrize("readOnly", [False, True])
@pytest.mark.parametrize(
    "dtype", ["?", "i1", ">i4", "f2", "c16", "M8[us]", "S5", "V7", _STRUCTURE], ids=str
)
def test_anArrayThatWeOfferIsReadAsItWas(dtype: Any, readOnly: bool, stream: int | None) -> None:
    itemBytes = np.dtype(dtype).itemsize
    for shape, strides in (
        ((2, 3), None),
        ((2, 3), (itemBytes, 2 * itemBytes)),
        ((), None),
        ((3,), (-itemBytes,)),
    ):
        value = Interface(
            **cudaArrayInterface(_FAKE_ADDRESS, shape, strides, dtype, readOnly, stream)
        )
        found = describeArray(value)
        assert (found.address, found.shape, found.strides, found.readOnly, found.stream) == (
            _FAKE_ADDRESS,
            shape,
            strides,
            readOnly,
            stream,
        )
        assert (found.element.itemBytes, found.element.dtype.names) == (
            itemBytes,
            np.dtype(dtype).names,
        )


def test_compactStridesAreNotStated() -> None:
    assert cudaArrayInterface(_FAKE_ADDRESS, [2, 3], [12, 4], "f4", False, None) == {
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (_FAKE_ADDRESS, False),
        "version": 3,
        "strides": None,
        "stream": None,
    }


def test_nothingHasNoAddress() -> None:
    assert cudaArrayInterface(_FAKE_ADDRESS, (0, 3), None, "f4", False, None)["data"] == (0, False)


@pytest.mark.parametrize(
    "dtype",
    ["O", "S0", [("a", "O")], {"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2]}],
    ids=str,
)
def test_refusesElementsThatTheInterfaceHasNoWordFor(dtype: Any) -> None:
    with pytest.raises(InvalidDtype):
        cudaArrayInterface(_FAKE_ADDRESS, (2,), None, dtype, False, None)


def test_bfloat16IsNotOfferedAsBytes() -> None:
    library = pytest.importorskip(
        "ml_dtypes", reason="ml_dtypes is not installed: pip install ml_dtypes"
    )
    with pytest.raises(InvalidDtype, match="bfloat16"):
        cudaArrayInterface(_FAKE_ADDRESS, (2,), None, library.bfloat16, False, None)


@pytest.mark.parametrize(
    ("shape", "strides", "stream"),
    [((-1,), None, 1), ((2,), (4, 4), 1), ((2,), None, 0), ((2,), None, -1)],
)
def test_refusesToOfferWhatCanNotBe(shape: Any, strides: Any, stream: int) -> None:
    with pytest.raises(InvalidArgument):
        cudaArrayInterface(_FAKE_ADDRESS, shape, strides, "f4", False, stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(None, 1), (1, 1), (2, 2), (3, 3), (2**64 - 1, 2**64 - 1), (np.int64(7), 7), (-1, None)],
)
def test_aConsumerNamesItsStream(stream: Any, expected: int | None) -> None:
    assert consumerStream(stream) == expected


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (0, InvalidArgument),
        (-2, InvalidArgument),
        (2**64, InvalidArgument),
        (True, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
    ],
)
def test_refusesStreamsThatAreNone(stream: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        consumerStream(stream)
