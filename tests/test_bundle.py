"""Bundles: many arrays, one segment, one name."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from lab import describe

import muninn
from muninn import errors
from muninn.api.manifests import unpacked
from support import Actor, leftovers

Start = Callable[..., Actor]
ARRAYS = {
    "wte": np.arange(12, dtype="f4").reshape(3, 4),
    "ln/β": np.array([1, 2], ">i8"),
    "flag": np.array(True),
}


def test_anotherProcessFindsEveryArray(domain: str, actor: Start) -> None:
    bundle = muninn.shareBundle(ARRAYS, name="model")
    other = actor("bundle = muninn.openBundle('model')")
    assert other.do(
        "sorted(bundle), float(bundle['wte'].sum()), bundle['ln/β'].tolist(), bool(bundle['flag'])"
    ) == [
        sorted(ARRAYS),
        66.0,
        [1, 2],
        True,
    ]
    assert other.do("bundle['wte'].flags.writeable") is False
    assert all(array.ctypes.data % 256 == 0 for array in bundle.values())
    assert len(leftovers(domain)) == 1
    assert bundle.describe()["entries"]["wte"] == {"shape": [3, 4], "dtype": "<f4"}


@pytest.mark.parametrize("reserve", ["full", "lazy"])
@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_arraysOfEverySizeAndLayoutArriveWhole(domain: str, mode: str, reserve: str) -> None:
    """Those in C order are copied while the memory is allocated, by several threads;
    the others one after the other.
    """
    values = np.random.default_rng(1).integers(0, 255, 10_000_003, np.uint8)
    arrays = {
        "small": values[:7],
        "large": values,
        "empty": values[:0],
        "transposed": values[:600].reshape(20, 30).T,
        "page": values[5 : 5 + 4096],
        "backwards": values[::-1],
        "again": values[: 9 << 20].view(np.uint64),
        "tied": values,
        "single": np.array(7.5),
    }
    told: list[int] = []
    bundle = muninn.shareBundle(arrays, mode=mode, reserve=reserve, progress=told.append)
    for key, array in arrays.items():
        assert np.array_equal(np.asarray(bundle[key]), array), key
    assert sum(told) >= bundle.nbytes


def test_theKeysOfABundleAreCheckedOnce(domain: str) -> None:
    class Key(str):
        def encode(self, *given: str) -> bytes:  # type: ignore[override]
            checked.append(str(self))
            return super().encode(*given)

    checked = list[str]()
    muninn.shareBundle({Key("a"): ARRAYS["wte"], Key("b"): ARRAYS["flag"]})
    muninn.loadBundle({Key("c"): ((2,), "f4")}, lambda draft: None)
    assert checked == ["a", "b", "c"]


def test_pickledBundlesOpenElsewhere(domain: str, actor: Start) -> None:
    bundle = muninn.shareBundle(ARRAYS)
    text = pickle.dumps(bundle).hex()
    assert (
        actor("import pickle").do(f"int(pickle.loads(bytes.fromhex('{text}'))['wte'].sum())") == 66
    )


def test_bundlesAndArraysAreNotMistakenForEachOther(domain: str) -> None:
    muninn.shareBundle(ARRAYS, name="bundle")
    muninn.share(np.zeros(3), name="array")
    with pytest.raises(errors.BufferMismatch):
        muninn.open("bundle")
    with pytest.raises(errors.BufferMismatch):
        muninn.openBundle("array")


def test_aLoaderThatFailsLeavesNothing(domain: str) -> None:
    def fail(spec: muninn.BundleDraft) -> None:
        spec["a"][:] = 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        muninn.loadBundle({"a": ((1000,), "f8")}, fail, name="half")
    assert leftovers(domain) == []
    assert muninn.listBuffers() == []
    muninn.shareBundle(ARRAYS, name="half").free()


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({}, errors.InvalidArgument),
        ({"a": np.zeros((1,) * 9)}, errors.InvalidArgument),
        ({"a": np.array([{}], object)}, errors.InvalidDtype),
        ({1: np.zeros(1)}, TypeError),
        ({"a": np.zeros(1, "i4,f4")}, errors.InvalidDtype),
        ({"a": [1, 2]}, TypeError),
    ],
)
def test_refusesWhatCanNotBeShared(
    domain: str, arrays: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        muninn.shareBundle(arrays, name="bad")
    assert muninn.listBuffers() == []


def test_aDamagedManifestIsRefused(domain: str) -> None:
    with muninn.shareBundle(ARRAYS, name="model") as bundle:
        path, size = f"/dev/shm{bundle.buffer.describe()['segment']}", bundle.buffer._description
        for damage in (b"\xc1" * 8, b"\x91\x94\xa1a\xcd\xff\xff\x91\x01\xa2u1"):
            with open(path, "r+b") as file:
                file.seek(size.metaOffset)
                file.write(damage.ljust(8, b"\0"))
            with pytest.raises(errors.ControlBlockInvalid, match="manifest"):
                muninn.openBundle("model")
    assert os.path.exists(path)


def test_aBundleIsPublishedAsAWhole(domain: str) -> None:
    """The arrays of a bundle are one buffer: one writer at a time, generations, and
    reads that are never torn.
    """
    with muninn.shareBundle({"a": np.arange(5), "b": np.ones(3, "f4")}, name="model") as bundle:
        with bundle.buffer.write():
            bundle["a"][:] = 7
            bundle["b"][:] = 2
        assert bundle.buffer.generation == 2
        with muninn.openBundle("model") as seen:
            whole = seen.buffer.read()
            assert (whole.dtype, whole.shape) == (np.uint8, (bundle.nbytes,)) and np.array_equal(
                whole, seen.buffer.array
            )
            assert whole[:40].view("i8").tolist() == [7] * 5 and seen["b"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        {},
        [[1, 0, [1], "u1", 0]],
        [["a", 0.5, [1], "u1", 0]],
        [["a", True, [1], "u1", 0]],
        [["a", -1, [1], "u1", 0]],
        [["a", 0, "12", "u1", 0]],
        [["a", 0, [1e308, 1e308], "u1", 0]],
        [["a", 0, [1] * 9, "u1", 0]],
        [["a", 0, [1 << 63, 1 << 63], "u1", 0]],
        [["a", 0, [-1], "u1", 0]],
        [["a", 4097, [0], "u1", 0]],
        [["a", 0, [0, 1 << 63], "u1", 0]],
        [["a", 0, [1], "bfloat17", 0]],
        [["a", 0, [1], "2u1", 0]],
        [["a", 0, [1], "u1,u1", 0]],
        [["a", 0, [4097], "u1", 0]],
        [["a", 0, [1], "u1"]],
        [["a", 0, [1], "u1", 1]],
        [["a", 0, [1], "u1", -1]],
        [["a", 0, [1], "u1", 0.0]],
    ],
)
def test_aManifestOfWhatNoBundleHoldsIsRefused(entries: object) -> None:
    """The manifests are whole as msgpack, but describe no bundle. Broken: the errors
    were those of numpy, and some came only when an array was asked for.
    """
    raw = msgpack.packb(entries)
    held = SimpleNamespace(
        description=describe("model", sizeBytes=4096, metaBytes=len(raw)),
        memory=SimpleNamespace(copyBytes=lambda *_: raw),
    )
    held.segments = (held,)
    with pytest.raises(errors.ControlBlockInvalid, match="manifest"):
        unpacked(held)  # type: ignore[arg-type]
