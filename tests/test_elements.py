"""The table of element types: what each library gives arrives as the same type and the
same bits in each of them, in another process too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import muninn
from muninn.errors import ControlBlockInvalid, InvalidArgument, InvalidDtype
from muninn.interop import capsules, elements
from muninn.interop.arrays import describeArray
from muninn.interop.dlpack import exportCapsule, importCapsule
from muninn.interop.dtypes import plain
from muninn.interop.elements import TABLE, asElement
from support import Actor, leftovers

Start = Callable[..., Actor]

_FAKE_ADDRESS = 0x7F00_0000_0000
_TEXTS = [words.text for words in TABLE]
#: The texts that numpy has itself, and those that ml_dtypes adds to it.
_IN_NUMPY = [
    text for text in _TEXTS if text[0] in "|<" or getattr(ml_dtypes, text, None) is not None
]
_IN_TORCH = [words.text for words in TABLE if words.torch]
#: The types that JAX has on a CPU.
_IN_JAX = [text for text in _IN_NUMPY if text != "complex32" and not text.startswith("float6")]


def bitsOf(text: str) -> np.ndarray[Any, Any]:
    """Six elements, as bytes, in which no two are the same."""
    if text == "|b1":
        return np.array([1, 0, 1, 1, 0, 0], np.uint8)
    # Values below 4 are right for the types of two bits, and for those of more.
    return np.arange(6 * asElement(text).itemBytes, dtype=np.uint8) % 4


def numpyOf(text: str) -> np.ndarray[Any, Any]:
    return bitsOf(text).view(asElement(text).dtype).reshape(2, 3)


@pytest.fixture(scope="module")
def jax() -> Any:
    return pytest.importorskip("jax", reason="JAX is not installed: make interop")


def test_theTableIsConsistent() -> None:
    for words in TABLE:
        element = asElement(words.text)
        assert (element.text, element.itemBytes) == (words.text, words.itemBytes)
        assert element.words is words and plain(words.text) == element
        if words.dlpack is not None:
            bits = words.dlpack.bits * words.dlpack.lanes
            assert words.itemBytes == -(-bits // 8)
            assert words.dlpack.isPadded == (bits < 8)
        if words.text in _IN_NUMPY:
            assert element.dtype.itemsize == words.itemBytes
            assert asElement(element.dtype) == element
        assert element.bits.itemsize == words.itemBytes
        assert elements.fileElement(words.safetensors) in (element, None)
    for column in ("text", "dlpack", "torch", "safetensors"):
        named = [value for words in TABLE if (value := getattr(words, column)) is not None]
        assert len(set(named)) == len(named), column


@pytest.mark.parametrize("text", _IN_TORCH)
def test_theTableSaysWhatTorchSays(torch: Any, text: str) -> None:
    words = asElement(text).words
    assert words is not None and words.dlpack is not None
    tensor = torch.zeros(4, dtype=torch.uint8).repeat(16).view(getattr(torch, words.torch))
    managed = capsules.managedOf(tensor.__dlpack__(max_version=(1, 0)), capsules.VERSIONED)
    stated = managed.tensor
    assert (stated.code, stated.bits, stated.lanes) == words.dlpack[:3]
    assert tensor.element_size() == words.itemBytes
    assert asElement(tensor.dtype) == asElement(text)


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_numpyKeepsEachType(domain: str, actor: Start, mode: str) -> None:
    reader = actor("import ml_dtypes")
    for text in _IN_NUMPY:
        source = numpyOf(text)
        with muninn.share(source.T, name="x", mode=mode) as shared:
            assert (shared.dtype, shared.shape) == (source.dtype, (3, 2))
            assert shared.array.tobytes() == source.T.tobytes()
            assert shared.describe()["dtype"] in (source.dtype.name, text)
            assert reader.do("repr(muninn.open('x').array)") == repr(source.T.copy())
            assert shared.read().tobytes() == source.T.tobytes()
            shared.free()
    assert leftovers(domain) == []


def test_torchKeepsEachType(domain: str, torch: Any) -> None:
    for text in _IN_TORCH:
        kind = getattr(torch, str(asElement(text).words.torch))  # type: ignore[union-attr]
        source = torch.from_numpy(bitsOf(text)).view(kind).reshape(2, 3)
        with muninn.share(source.t(), name="x", access="readWrite") as shared:
            back = torch.from_dlpack(shared)
            assert (back.dtype, back.shape) == (kind, (3, 2))
            assert torch.equal(back.view(torch.uint8), source.t().contiguous().view(torch.uint8))
            shared.free()
        with muninn.shareBundle({"w": source}, "b", access="readWrite") as bundle:
            back = torch.from_dlpack(bundle["w"])
            assert back.dtype == kind
            assert torch.equal(back.view(torch.uint8), source.view(torch.uint8))
            assert bundle.describe()["entries"]["w"]["dtype"] == text
            bundle.free()


def test_jaxKeepsEachType(domain: str, jax: Any) -> None:
    jax.config.update("jax_enable_x64", True)
    for text in _IN_JAX:
        source = jax.numpy.asarray(numpyOf(text))
        with muninn.share(source, name="x", access="readWrite") as shared:
            assert shared.dtype == source.dtype
            assert jax.numpy.asarray(shared).dtype == source.dtype
            word = asElement(text).words.dlpack  # type: ignore[union-attr]
            if word is not None and not word.isPadded:  # JAX lends no type of less than a byte
                back = jax.dlpack.from_dlpack(shared)
                assert back.dtype == source.dtype
                assert np.asarray(back).tobytes() == bitsOf(text).tobytes()
            shared.free()


@pytest.mark.parametrize("text", _TEXTS)
def test_dlpackCarriesEachTypeBothWays(text: str) -> None:
    for version in ((1, 1), None):
        element = asElement(text)
        if version is None and element.words.dlpack.isPadded:  # type: ignore[union-attr]
            continue
        back = importCapsule(
            exportCapsule(_FAKE_ADDRESS, (4, 2), element, (2, 0), None, maxVersion=version)
        )
        assert (back.element, back.shape, back.strides) == (element, (4, 2), None)


def test_aLegacyCapsuleCanNotSayThatValuesArePadded() -> None:
    with pytest.raises(BufferError, match=r"padded.*max_version=\(1, 1\)"):
        exportCapsule(_FAKE_ADDRESS, (4,), "int4", (2, 0), None)


@pytest.mark.parametrize(
    ("code", "bits", "lanes", "flags"),
    [(0, 4, 1, 0), (17, 4, 1, 0), (2, 32, 4, 0), (0, 24, 1, 0), (4, 32, 1, 0), (3, 64, 1, 0)],
)
def test_aWordThatIsNotInTheTableIsRefused(code: int, bits: int, lanes: int, flags: int) -> None:
    capsule = exportCapsule(_FAKE_ADDRESS, (4,), "u1", (2, 0), None, maxVersion=(1, 1))
    managed = capsules.managedOf(capsule, capsules.VERSIONED)
    managed.tensor.code, managed.tensor.bits, managed.tensor.lanes = code, bits, lanes
    managed.flags = flags  # type: ignore[union-attr]
    with pytest.raises(BufferError, match=f"type code {code} with {bits} bits"):
        importCapsule(capsule)


def test_aWholeByteIsNeverPadded() -> None:
    capsule = exportCapsule(_FAKE_ADDRESS, (4,), "u1", (2, 0), None, maxVersion=(1, 1))
    capsules.managedOf(capsule, capsules.VERSIONED).flags = capsules.FLAG_PADDED  # type: ignore[union-attr]
    assert importCapsule(capsule).element == asElement("u1")


class _OnGpu:
    """An array of CuPy's kind: a typestr that tells only the size, and DLPack."""

    def __init__(self, typestr: str, text: str) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": (4,),
            "typestr": typestr,
            "data": (_FAKE_ADDRESS, False),
            "stream": 1,
        }
        self._text = text

    def __dlpack__(self, **keywords: Any) -> Any:
        return exportCapsule(_FAKE_ADDRESS, (4,), self._text, (2, 0), None, maxVersion=(1, 1))

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


@pytest.mark.parametrize(
    ("typestr", "text"), [("<V2", "bfloat16"), ("<f1", "float8_e5m2"), ("|V1", "float8_e4m3fn")]
)
def test_dlpackTellsATypeThatATypestrDoesNot(typestr: str, text: str) -> None:
    assert describeArray(_OnGpu(typestr, text)).element == asElement(text)


def test_aTypestrIsBelievedWhereDlpackHasNoWord() -> None:
    class Silent(_OnGpu):
        def __dlpack__(self, **keywords: Any) -> Any:
            raise BufferError("no word for it")

    assert describeArray(Silent("|V12", "u1")).element == asElement("V12")


def test_aTypeThatOnlyHasTheNameIsRefused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library may register a type of that name, with other bits."""
    elements._libraryDtype.cache_clear()
    monkeypatch.setattr(ml_dtypes, "float8_e4m3", ml_dtypes.float8_e5m2)
    try:
        with pytest.raises(InvalidDtype, match=r"float8_e4m3.*view\('u1'\)"):
            asElement(_FLOAT8_E4M3)
    finally:
        elements._libraryDtype.cache_clear()


_FLOAT8_E4M3 = np.dtype(ml_dtypes.float8_e4m3)


def test_withoutMlDtypesTheBitsAndDlpackRemain(
    domain: str, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    elements._libraryDtype.cache_clear()
    source = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    with muninn.share(source, name="x", access="readWrite") as shared:
        for use in (
            lambda: shared.array,
            lambda: shared.dtype,
            lambda: np.asarray(shared),
            lambda: shared.read(),
            lambda: shared.write().__enter__(),
        ):
            with pytest.raises(InvalidDtype, match=r"not installed.*from_dlpack.*view\('u2'\)"):
                use()
        assert torch.equal(torch.from_dlpack(shared), source)
        assert shared.view("i2").tolist() == source.view(torch.int16).tolist()
        out = np.empty((2, 2), np.uint16)
        assert shared.read(out).tobytes() == source.view(torch.uint8).numpy().tobytes()
        assert shared.describe()["dtype"] == "bfloat16"
        assert "bfloat16[2, 2]" in repr(shared)
        with muninn.share(shared, name="y") as again:
            assert again.describe()["dtype"] == "bfloat16"
            again.free()
        shared.free()
    elements._libraryDtype.cache_clear()


@pytest.mark.parametrize("text", ["bfloat17", "float4_e2m1fn_x4", "torch.bfloat16"])
def test_aRowOfAnUnknownTypeIsDamage(text: str) -> None:
    with pytest.raises(ControlBlockInvalid):
        plain(text)


def test_aCopyGoesIntoItsOwnTypeOrItsBits(domain: str) -> None:
    source = np.arange(3).astype(ml_dtypes.bfloat16)
    with muninn.share(source) as shared:
        assert shared.read(np.empty(3, ml_dtypes.bfloat16)).tolist() == [0, 1, 2]
        assert shared.read(np.empty(3, "u2")).tolist() == source.view("u2").tolist()
        for dtype in ("i2", "f2", "V2", ">u2"):
            with pytest.raises(InvalidArgument, match="the buffer.*bfloat16"):
                shared.read(np.empty(3, dtype))


def test_aViewMayHaveAnotherType(domain: str) -> None:
    with muninn.share(np.arange(6, dtype="<u4").reshape(2, 3), access="readWrite") as shared:
        assert shared.view("<f4").shape == (2, 3)
        assert shared.view("u1").shape == (2, 12)
        assert shared.view("<u2")[1, 0] == 3
        shared.view("<u4")[0, 0] = 77
        assert shared.array[0, 0] == 77
        with pytest.raises(InvalidArgument, match="no multiple"):
            shared.view("<u8")
    with muninn.share(np.float64(2)) as single:
        assert single.view("<u8").shape == ()
        with pytest.raises(InvalidArgument, match="no multiple"):
            single.view("<u4")


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (2, 0, 4)])
def test_anArrayMayHaveNoElementsOrNoDimensions(
    domain: str, actor: Start, shape: tuple[int, ...], mode: str
) -> None:
    source = np.full(shape, 7, "<i4")
    with muninn.share(source, name="e", mode=mode) as shared:
        assert (shared.shape, shared.nbytes) == (shape, source.nbytes)
        assert actor().do("list(muninn.open('e').shape), muninn.open('e').array.tolist()") == [
            list(shape),
            source.tolist(),
        ]
        assert shared.read().tolist() == source.tolist()
        assert np.from_dlpack(shared).shape == shape
        with shared.write() as view:
            view[...] = 8
        del view
        shared.free()
    with muninn.shareBundle({"a": source, "b": np.ones(2)}, "e", mode=mode) as bundle:
        assert np.asarray(bundle["a"]).tolist() == source.tolist()
        assert np.asarray(bundle["b"]).tolist() == [1, 1]
        bundle.free()
    assert muninn.array("e", shape, "f4", mode=mode).array.shape == shape
    muninn.free("e")
    assert leftovers(domain) == []


def test_anEmptyTensorIsShared(domain: str, torch: Any) -> None:
    for source in (torch.empty(0), torch.empty(3, 0, dtype=torch.bfloat16), torch.tensor(2.5)):
        with muninn.share(source, access="readWrite") as shared:
            back = torch.from_dlpack(shared)
            assert (back.shape, back.dtype) == (source.shape, source.dtype)
            assert torch.equal(back, source)
