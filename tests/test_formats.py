"""Files of arrays: read whole, or refused with the reason."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load as loadByLibrary
from safetensors.numpy import save_file

from muninn.errors import FileInvalid
from muninn.formats import openFile
from muninn.interop import elements

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1, 2], np.int64),
    "c": np.array(True),
}


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """A fresh folder; pytest's own name for it is not in our style."""
    path: Path = request.getfixturevalue("tmp_path")
    return path


@pytest.fixture(scope="session")
def folders(request: pytest.FixtureRequest) -> pytest.TempPathFactory:
    """A maker of fresh folders, for tests that run many examples."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return factory


def readAll(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with openFile(path) as source:
        counted: list[int] = []
        read = {}
        for key, entry in source.entries.items():
            target = np.empty(entry.sizeBytes, np.uint8)
            source.readInto(key, target, counted.append)
            read[key] = target.view(entry.element.dtype).reshape(entry.shape)
        assert sum(counted) == source.sizeBytes
        return read


def same(left: dict[str, np.ndarray[Any, Any]], right: dict[str, np.ndarray[Any, Any]]) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(left[key], right[key]) and left[key].dtype == right[key].dtype
        for key in left
    )


def write(path: Path) -> None:
    """A sound file of the kind that its name gives."""
    writers: dict[str, Callable[[], object]] = {
        ".npy": lambda: np.save(path, ARRAYS["a"]),
        ".npz": lambda: np.savez(path, **ARRAYS),
        ".safetensors": lambda: save_file(ARRAYS, path),
    }
    writers[path.suffix]()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int, end: int, shape: object = (1,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_readsSafetensorsThatItsLibraryWrote(folder: Path) -> None:
    save_file(ARRAYS, folder / "x.safetensors", metadata={"format": "np"})
    assert same(readAll(folder / "x.safetensors"), ARRAYS)


@pytest.mark.parametrize(
    ("word", "text"),
    [(words.safetensors, words.text) for words in elements.TABLE if words.safetensors],
)
def test_readsEveryTypeOfSafetensors(folder: Path, word: str, text: str) -> None:
    element = elements.asElement(text)
    data = bytes(range(2 * element.itemBytes))
    count = 4 if word == "F4" else 2  # the format counts its packed values
    (folder / "x.safetensors").write_bytes(
        safetensors({"w": tensor(0, len(data), (count,), word)}, data)
    )
    with openFile(folder / "x.safetensors") as source:
        assert source.entries == {"w": ((2,), element)}
        target = np.empty(len(data), np.uint8)
        source.readInto("w", target)
    assert target.tobytes() == data


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_refusesPackedValuesThatDoNotFillElements(folder: Path, shape: tuple[int, ...]) -> None:
    (folder / "x.safetensors").write_bytes(safetensors({"w": tensor(0, 5, shape, "F4")}, b"12345"))
    with pytest.raises(FileInvalid, match="not even"):
        openFile(folder / "x.safetensors")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_readsNpz(folder: Path, save: Any) -> None:
    save(folder / "x.npz", **ARRAYS)
    assert same(readAll(folder / "x.npz"), ARRAYS)


@pytest.mark.parametrize(
    "array",
    [
        ARRAYS["a"],
        np.asfortranarray(ARRAYS["a"]),
        np.array(3.5),
        np.array([(1, 2.0)], "i4,f8"),
        np.arange(4, dtype=">u2"),
    ],
)
def test_readsNpy(folder: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(folder / "x.npy", array)
    with openFile(folder / "x.npy") as source:
        assert not source.isBundle
    assert same(readAll(folder / "x.npy"), {"": array})


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
        safetensors(
            b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
        safetensors({"w": tensor(0, 4, (1,), "F4")}, b"1234"),
        safetensors({"w": {**tensor(0, 4), "dtype": ["F32"]}}, b"1234"),
        safetensors({"w": tensor(0, 4, [1] * 65)}, b"1234"),
        safetensors({"\ud800": tensor(0, 4)}, b"1234"),
        safetensors({"w": tensor(0, 4), "__metadata__": {"a": 1}}, b"1234"),
        safetensors(b" " + json.dumps({"w": tensor(0, 4)}).encode(), b"1234"),
        safetensors(json.dumps({"w": tensor(0, 4)}).encode("utf-16"), b"1234"),
        safetensors(
            b'{"w":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"1"
        ),
    ],
)
def test_refusesDamagedSafetensors(folder: Path, raw: bytes) -> None:
    path = folder / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(FileInvalid, match=r"bad\.safetensors"):
        openFile(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_takesNoSafetensorsThatItsLibraryRefuses(
    folders: pytest.TempPathFactory, data: st.DataObject
) -> None:
    numbers = st.integers(-2, 12)
    part = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["U8", "F16", "F32", "BOOL", "X"]),
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.lists(numbers, min_size=2, max_size=2),
        }
    )
    raw = safetensors(
        data.draw(st.dictionaries(st.sampled_from("abc"), part, max_size=3)),
        data.draw(st.binary(max_size=12)),
    )
    path = folders.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(raw)
    ours = theirs = None
    with contextlib.suppress(FileInvalid):
        ours = readAll(path)
    with contextlib.suppress(SafetensorError):
        theirs = loadByLibrary(raw)
    if ours is not None:
        assert theirs is not None
        assert same(ours, theirs)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_refusesEveryTruncation(folder: Path, suffix: str) -> None:
    path = folder / f"x{suffix}"
    write(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileInvalid):
            readAll(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damageIsRefusedOrHarmless(folders: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = (
        folders.mktemp("fuzz") / f"x{data.draw(st.sampled_from(['.npy', '.npz', '.safetensors']))}"
    )
    write(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        readAll(path)
    except FileInvalid:
        return


def test_refusesPickles(folder: Path) -> None:
    np.save(folder / "x.npy", np.array([{}], object), allow_pickle=True)
    np.savez(folder / "x.npz", a=np.array([{}], object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(FileInvalid, match="objects"):
            openFile(folder / name)


def test_refusesNegativeLengths(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros((2, 2)))
    raw = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(raw.replace(b"(2, 2)", b"(-2,-2)", 1).replace(b" \n", b"\n", 1))
    with pytest.raises(FileInvalid, match="shape"):
        openFile(folder / "x.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_refusesBytesThatNoHeaderStates(folder: Path, suffix: str) -> None:
    path = folder / f"x{suffix}"
    with path.open("wb") as file:
        np.save(file, ARRAYS["a"])
        np.save(file, ARRAYS["b"])
    if suffix == ".npz":
        both = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("both.npy", both)
    with pytest.raises(FileInvalid, match="states 48 bytes of data, and it has 192"):
        openFile(path)


def npzOf(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, raw in members:
                archive.writestr(name, raw)

    return make


def npyBytes(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (npzOf(), "no array"),
        (npzOf(("readme.txt", b"hello")), r"no \.npy file"),
        (npzOf(("a/", b"")), r"no \.npy file"),
        (npzOf(("a.npy", b"hello, this is none")), "header of a is damaged"),
        (npzOf(("a.npy", npyBytes(ARRAYS["a"])), ("a.npy", npyBytes(ARRAYS["b"]))), "twice"),
        (
            npzOf(("a.npy", npyBytes(ARRAYS["a"])), method=zipfile.ZIP_BZIP2),
            "compressed by method 12",
        ),
    ],
)
def test_refusesOddArchives(folder: Path, make: Callable[[Path], None], words: str) -> None:
    make(folder / "x.npz")
    with pytest.raises(FileInvalid, match=words):
        openFile(folder / "x.npz")


def test_comparesTheChecksumsOfAnArchive(folder: Path) -> None:
    """The deflated data has the checksum of other data: it decodes without an error, to
    the right number of bytes. It is long enough that its header is read without it.
    """
    path = folder / "x.npz"
    np.savez_compressed(path, a=np.random.default_rng(1).integers(0, 9, 100_000))
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("a.npy").CRC
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<I", crc), struct.pack("<I", zlib.crc32(b"another"))))
    with pytest.raises(FileInvalid, match="a is damaged"):
        readAll(path)


def test_readsWhatItCheckedWhenAnotherFileTakesThePlace(folder: Path) -> None:
    path = folder / "x.npy"
    np.save(path, ARRAYS["a"])
    with openFile(path) as source:
        np.save(folder / "other.npy", np.zeros((3, 4), np.float32))
        os.replace(folder / "other.npy", path)
        target = np.empty(48, np.uint8)
        source.readInto("", target)
    assert target.tobytes() == ARRAYS["a"].tobytes()


def test_noticesThatAFileIsShortenedMeanwhile(folder: Path) -> None:
    path = folder / "x.npy"
    array = np.arange(100_000)
    np.save(path, array)
    with openFile(path) as source:
        os.truncate(path, 1000)
        with pytest.raises(FileInvalid, match="early"):
            source.readInto("", np.empty(array.nbytes, np.uint8))


def test_refusesATargetThatDoesNotFit(folder: Path) -> None:
    np.save(folder / "x.npy", ARRAYS["a"])
    with openFile(folder / "x.npy") as source:
        for target in (
            np.empty(47, np.uint8),
            np.empty(12, np.float32),
            np.empty(48, np.int8),
            np.empty((6, 8), np.uint8),
            np.empty(96, np.uint8)[::2],
        ):
            with pytest.raises(ValueError):
                source.readInto("", target)


def test_turnsLargeFortranArraysPieceByPiece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muninn.formats.npy.CHUNK_BYTES", 1000)
    array = np.asfortranarray(np.arange(5 * 30 * 70).reshape(5, 30, 70))
    np.save(folder / "x.npy", array)
    assert same(readAll(folder / "x.npy"), {"": array})


def test_refusesWhatIsNoFileOfArrays(folder: Path) -> None:
    (folder / "d.npy").mkdir()
    (folder / "x.txt").write_text("hello")
    os.mkfifo(folder / "p.npy")
    for name in ("missing.npy", "d.npy", "p.npy", "x.txt", "none", "nul\0.npy"):
        with pytest.raises(FileInvalid, match=name):
            openFile(folder / name)


def test_leavesNoDescriptorBehind(folder: Path) -> None:
    for name in ("x.npy", "x.npz", "x.safetensors"):
        write(folder / name)
        before = len(os.listdir("/proc/self/fd"))
        readAll(folder / name)
        (folder / name).write_bytes(b"garbage")
        with pytest.raises(FileInvalid):
            openFile(folder / name)
        assert len(os.listdir("/proc/self/fd")) == before
