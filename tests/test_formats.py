"""Files of arrays: read whole, or refused with what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from muninn.errors import FileInvalid
from muninn.formats import openFile

ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([1, 2], np.int64), "c": np.array(True)}


def readAll(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with openFile(path) as source:
        read = {key: np.empty(entry.shape, entry.dtype) for key, entry in source.entries.items()}
        counted: list[int] = []
        for key, target in read.items():
            source.readInto(key, target, counted.append)
        assert sum(counted) == source.sizeBytes
        return read


def same(left: dict[str, np.ndarray[Any, Any]], right: dict[str, np.ndarray[Any, Any]]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) and left[key].dtype == right[key].dtype for key in left)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int, end: int, shape: object = (1,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_readsSafetensorsThatItsLibraryWrote(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "x.safetensors", metadata={"format": "np"})
    assert same(readAll(tmp_path / "x.safetensors"), ARRAYS)


def test_keepsTheBitsOfTypesThatNumpyDoesNotKnow(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"w": tensor(0, 4, (2,), "BF16")}, b"\x80\x3f\x00\x40"))
    assert readAll(path)["w"].tolist() == [0x3F80, 0x4000]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_readsNpz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", **ARRAYS)
    assert same(readAll(tmp_path / "x.npz"), ARRAYS)


@pytest.mark.parametrize("array", [ARRAYS["a"], np.asfortranarray(ARRAYS["a"]), np.array(3.5), np.array([(1, 2.0)], "i4,f8"), np.arange(4, dtype=">u2")])
def test_readsNpy(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "x.npy", array)
    with openFile(tmp_path / "x.npy") as source:
        assert not source.isBundle
    assert same(readAll(tmp_path / "x.npy"), {"": array})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 60),
        safetensors({"w": tensor(0, 4)}, b"1234", length=1000),
        safetensors(b"{not json"),
        safetensors(b"[" * 100_000),
        safetensors([1]),
        safetensors({}),
        safetensors({"__metadata__": {}}),
        safetensors({"w": tensor(0, 8)}, b"12345678"),
        safetensors({"w": tensor(0, 4)}, b"123"),
        safetensors({"w": tensor(0, 4)}, b"12345"),
        safetensors({"w": tensor(4, 8)}, b"12345678"),
        safetensors({"v": tensor(0, 4), "w": tensor(2, 6)}, b"123456"),
        safetensors({"w": tensor(0, 4, (-1,))}, b"1234"),
        safetensors({"w": tensor(0, 4, "1")}, b"1234"),
        safetensors({"w": tensor(0, 4, (1 << 70, 1 << 70))}, b"1234"),
        safetensors({"w": tensor(0, 4, (1,), "F31")}, b"1234"),
        safetensors({"w": {"dtype": "F32"}}, b"1234"),
        safetensors({"w": 3}, b"1234"),
        safetensors({"w": {**tensor(0, 4), "data_offsets": [True, 4]}}, b"1234"),
        safetensors({"w": {**tensor(0, 4), "data_offsets": "04"}}, b"1234"),
        safetensors(b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
    ],
)
def test_refusesDamagedSafetensors(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(FileInvalid, match="bad.safetensors"):
        openFile(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_refusesEveryTruncation(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    writers = {".npy": lambda: np.save(path, ARRAYS["a"]), ".npz": lambda: np.savez(path, **ARRAYS), ".safetensors": lambda: save_file(ARRAYS, path)}
    writers[suffix]()
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileInvalid):
            readAll(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damageIsRefusedOrHarmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"x{data.draw(st.sampled_from(['.npy', '.npz', '.safetensors']))}"
    writers = {".npy": lambda: np.save(path, ARRAYS["a"]), ".npz": lambda: np.savez(path, **ARRAYS), ".safetensors": lambda: save_file(ARRAYS, path)}
    writers[path.suffix]()
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        readAll(path)
    except FileInvalid:
        return


def test_refusesPickles(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(FileInvalid, match="objects"):
            openFile(tmp_path / name)


def test_refusesWhatIsNoFileOfArrays(tmp_path: Path) -> None:
    (tmp_path / "d.npy").mkdir()
    (tmp_path / "x.txt").write_text("hello")
    for name in ("missing.npy", "d.npy", "x.txt", "none"):
        with pytest.raises(FileInvalid, match=name):
            openFile(tmp_path / name)
