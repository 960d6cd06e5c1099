"""`load`: files become shared memory, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import muninn
from muninn.devices.host.device import HostDevice
from muninn.errors import (
    BufferExists,
    FileInvalid,
    HostMemoryFull,
    InvalidArgument,
    InvalidDtype,
    MuninnError,
    QuotaExceeded,
)
from muninn.formats.source import Source
from muninn.session import loading
from muninn.storage import segments
from support import Actor, ActorError, eventually, leftovers, program

torch = pytest.importorskip("torch", reason="torch is not installed: make interop")

Start = Callable[..., Actor]
MIB = 1 << 20
#: Long ones of several pieces, and short ones, of which a piece has many.
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "long": np.random.default_rng(1).integers(0, 255, 5 * MIB + 77, np.uint8),
    **{f"short{number}": np.full(number, number, np.float32) for number in range(40)},
    "matrix": np.arange(900_000, dtype=np.float64).reshape(300, 3000),
    "scalar": np.array(3, np.int16),
    "empty": np.zeros((0, 4), np.int64),
}
MODES = pytest.mark.parametrize("mode", ["bigMode", "fastMode"])


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """A fresh folder; pytest's own name for it is not in our style."""
    path: Path = request.getfixturevalue("tmp_path")
    return path


def tensors(folder: Path) -> Path:
    save_file(ARRAYS, folder / "x.safetensors")
    return folder / "x.safetensors"


def stored(folder: Path) -> Path:
    np.savez(folder / "x.npz", **{**ARRAYS, "matrix": np.asfortranarray(ARRAYS["matrix"])})
    return folder / "x.npz"


def deflated(folder: Path) -> Path:
    turned = np.asfortranarray(ARRAYS["matrix"])
    np.savez_compressed(folder / "y.npz", **{**ARRAYS, "matrix": turned})
    return folder / "y.npz"


def ofTorch(folder: Path) -> Path:
    made = {key: torch.from_numpy(array) for key, array in ARRAYS.items()}
    made["matrix"] = made["matrix"].T.contiguous().T
    torch.save(made, folder / "x.pt")
    return folder / "x.pt"


def sharded(folder: Path) -> Path:
    """A model in three shards; returns its folder."""
    weightMap = {}
    for number in range(3):
        name = f"model-{number + 1}.safetensors"
        keys = list(ARRAYS)[number::3]
        save_file({key: ARRAYS[key] for key in keys}, folder / name)
        weightMap |= dict.fromkeys(keys, name)
    writeIndex(folder, weightMap)
    return folder


def writeIndex(folder: Path, weightMap: object) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weightMap}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


KINDS = pytest.mark.parametrize("write", [tensors, stored, deflated, ofTorch, sharded])


def nothingIsLeft(domain: str) -> bool:
    return (
        leftovers(domain) == []
        and muninn.listBuffers() == []
        and not [each for each in threading.enumerate() if each.name.startswith("muninn-crew")]
    )


@MODES
@KINDS
def test_loadsEveryKindOfFile(
    domain: str, folder: Path, mode: Any, write: Callable[[Path], Path]
) -> None:
    counted: list[int] = []
    bundle = muninn.load(write(folder), "model", mode=mode, progress=counted.append)
    assert isinstance(bundle, muninn.Bundle) and bundle.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        there = np.asarray(bundle[key])
        assert (there.dtype, there.shape) == (array.dtype, array.shape)
        assert np.array_equal(there, array), key
    assert sum(counted) == sum(array.nbytes for array in ARRAYS.values())


@MODES
@pytest.mark.parametrize("order", ["C", "F"])
def test_loadsOneArrayAsABuffer(domain: str, folder: Path, mode: Any, order: Any) -> None:
    np.save(folder / "x.npy", np.asarray(ARRAYS["matrix"], order=order))
    buffer = muninn.load(folder / "x.npy", mode=mode, access="readOnly")
    assert isinstance(buffer, muninn.MuninnBuffer) and not buffer.writable
    assert np.array_equal(buffer.read(), ARRAYS["matrix"])


@MODES
def test_keepsStructuredTypes(domain: str, folder: Path, mode: Any) -> None:
    records = np.array([(1, 2.5), (3, 4.5)], [("count", "i4"), ("mass", ">f8")])
    np.save(folder / "x.npy", records)
    buffer = muninn.load(str(folder / "x.npy"), "records", mode=mode)
    assert isinstance(buffer, muninn.MuninnBuffer)
    assert buffer.dtype == records.dtype and buffer.read().tolist() == records.tolist()


@pytest.mark.parametrize("count", [0, 1])
@MODES
def test_loadsFilesWithoutBytes(domain: str, folder: Path, mode: Any, count: int) -> None:
    save_file({"a": np.zeros((0, 3)), "b": np.zeros(count, np.uint8)}, folder / "x.safetensors")
    bundle = muninn.load(folder / "x.safetensors", "model", mode=mode)
    assert isinstance(bundle, muninn.Bundle)
    assert np.asarray(bundle["a"]).shape == (0, 3) and np.asarray(bundle["b"]).size == count


def test_theOptionsOfABufferAreTaken(domain: str, folder: Path, actor: Start) -> None:
    bundle = muninn.load(
        tensors(folder), "model", access="readWrite", tenant="t", lifetime="lastClose"
    )
    stated = bundle.describe()
    assert (stated["access"], stated["tenant"], stated["lifetime"]) == (
        "readWrite",
        "t",
        "lastClose",
    )
    assert actor().do("int(muninn.openBundle('model')['long'].astype(int).sum())") == int(
        ARRAYS["long"].astype(int).sum()
    )
    with pytest.raises(BufferExists):
        muninn.load(folder / "x.safetensors", "model")


def test_theSettingSaysHowManyThreadsRead(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_LOAD_THREADS", "3")
    reading: set[int] = set()
    gate = threading.Barrier(3)
    original = Source.readAt

    def readAt(source: Source, offset: int, target: Any) -> None:
        if threading.get_ident() not in reading and len(reading) < 3:
            reading.add(threading.get_ident())
            if threading.current_thread().name.startswith("muninn-crew"):
                gate.wait(30)
        original(source, offset, target)

    path = tensors(folder)
    monkeypatch.setattr(Source, "readAt", readAt)
    muninn.load(path, "model")
    assert len(reading) == 3


@MODES
def test_paddingReadsZero(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """Bytes that an earlier piece has left in pinned memory would be seen there."""
    monkeypatch.setenv("MUNINN_LOAD_THREADS", "1")
    monkeypatch.setattr(loading, "_UPLOAD_PIECE_BYTES", 16 << 10)
    bundle = muninn.load(tensors(folder), "model", mode=mode)
    assert isinstance(bundle, muninn.Bundle)
    memory = bundle.buffer._checked().memory
    raw = np.frombuffer(memory.copyBytes(bundle.nbytes, 0), np.uint8).copy()
    for region in bundle._entries.values():
        raw[region.offset : region.offset + region.sizeBytes] = 0
    assert not raw.any()


@MODES
def test_aPieceCoversNothingThatAnotherJobReads(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """A tensor that is copied from the mapping lies between two that are read."""
    monkeypatch.setenv("MUNINN_LOAD_THREADS", "1")
    turned = torch.arange(6.0).reshape(2, 3).T
    torch.save({"a": torch.ones(3), "turned": turned, "z": torch.ones(4)}, folder / "x.pt")
    bundle = muninn.load(folder / "x.pt", "model", mode=mode)
    assert isinstance(bundle, muninn.Bundle)
    assert np.asarray(bundle["turned"]).tolist() == turned.tolist()
    assert np.asarray(bundle["z"]).tolist() == [1] * 4


@MODES
def test_progressIsToldOnTheWay(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """The second piece is read when the first one was told."""
    monkeypatch.setenv("MUNINN_LOAD_THREADS", "1")
    monkeypatch.setattr(loading, "_UPLOAD_PIECE_BYTES", 1 << 20)
    told, original, reads = threading.Event(), Source.readAt, list[int]()

    def readAt(source: Source, offset: int, target: Any) -> None:
        reads.append(len(target))
        if len(reads) == 2:
            assert told.wait(30)
        original(source, offset, target)

    path = tensors(folder)
    monkeypatch.setattr(Source, "readAt", readAt)
    muninn.load(path, "model", mode=mode, progress=lambda count: told.set())
    assert told.is_set() and len(reads) > 2


def test_aPieceIsFilledAfterItsCopy(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams are slower than the threads that read."""
    monkeypatch.setattr(loading, "_UPLOAD_PIECE_BYTES", 1 << 20)
    original = HostDevice.copy

    def copy(
        self: HostDevice, target: int, source: int, sizeBytes: int, stream: Any = None
    ) -> None:
        if stream is not None:
            stream.submit(lambda: time.sleep(0.02))
        original(self, target, source, sizeBytes, stream)

    monkeypatch.setattr(HostDevice, "copy", copy)
    bundle = muninn.load(tensors(folder), "model", mode="fastMode")
    assert isinstance(bundle, muninn.Bundle)
    assert all(np.array_equal(np.asarray(bundle[key]), ARRAYS[key]) for key in ARRAYS)


# --- failures ------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("write", [tensors, stored, deflated, ofTorch, sharded])
def test_aFileThatIsShortenedMeanwhileLeavesNothing(
    domain: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    write: Callable[[Path], Path],
) -> None:
    muninn.domainInfo()
    path, original = write(folder), loading.load

    def shortened(*arguments: Any) -> None:
        for each in folder.iterdir():
            if each.suffix != ".json":
                os.truncate(each, each.stat().st_size // 2)
        original(*arguments)

    if write is ofTorch:  # the tensors that are copied from the mapping would be a SIGBUS
        torch.save({"long": torch.from_numpy(ARRAYS["long"])}, path)
    monkeypatch.setattr(loading, "load", shortened)
    with pytest.raises(FileInvalid, match="early|damaged"):
        muninn.load(path, "model", mode=mode)
    assert nothingIsLeft(domain)


@MODES
def test_aDamagedMemberLeavesNothing(domain: str, folder: Path, mode: Any) -> None:
    path = stored(folder)
    raw = bytearray(path.read_bytes())
    raw[raw.index(ARRAYS["long"].tobytes()[:64]) + MIB] ^= 1
    path.write_bytes(raw)
    muninn.domainInfo()
    with pytest.raises(FileInvalid, match="long is damaged: it has another checksum"):
        muninn.load(path, "model", mode=mode)
    assert nothingIsLeft(domain)


@MODES
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_aProgressFunctionThatRaisesEndsTheLoad(
    domain: str, folder: Path, mode: Any, kind: type[BaseException]
) -> None:
    def stop(count: int) -> None:
        raise kind("enough")

    muninn.domainInfo()
    with pytest.raises(kind, match="enough"):
        muninn.load(tensors(folder), "model", mode=mode, progress=stop)
    assert nothingIsLeft(domain)
    muninn.load(folder / "x.safetensors", "model", mode=mode)


def test_anInterruptionEndsTheLoad(domain: str, folder: Path, actor: Start) -> None:
    """SIGINT while the threads read, and again while the caller waits for their end."""
    path = tensors(folder)
    told = actor(program("interruptedLoad"))
    assert told.do(f"attempt({str(path)!r})") == "interrupted"
    assert told.do("crew()") == []
    assert leftovers(domain) == [] and muninn.listBuffers() == []
    assert told.do(f"len(muninn.load({str(path)!r}, 'model'))") == len(ARRAYS)


@MODES
def test_anErrorOfOneThreadEndsTheOthers(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    original, began = Source.readAt, threading.Event()

    def readAt(source: Source, offset: int, target: Any) -> None:
        if threading.current_thread().name == "muninn-crew-0":
            began.wait(30)
            raise OSError(5, "the disk fails")
        began.set()
        original(source, offset, target)

    path = tensors(folder)
    muninn.domainInfo()
    monkeypatch.setattr(Source, "readAt", readAt)
    with pytest.raises(OSError, match="the disk fails"):
        muninn.load(path, "model", mode=mode)
    assert nothingIsLeft(domain)


def test_aFullHostIsAnErrorAndNoSignal(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = segments.populatePart

    def full(mapping: segments.Mapping, offset: int, sizeBytes: int) -> None:
        if offset >= 4 * MIB:
            raise HostMemoryFull("/dev/shm is full")
        original(mapping, offset, sizeBytes)

    path = tensors(folder)
    muninn.domainInfo()
    monkeypatch.setattr(segments, "populatePart", full)
    with pytest.raises(HostMemoryFull):
        muninn.load(path, "model")
    assert nothingIsLeft(domain)


def test_aKernelThatCanNotPopulateReservesAhead(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []
    original = segments.reserve

    def reserve(fd: int, mapping: segments.Mapping, *rest: Any) -> None:
        reserved.append(mapping.sizeBytes)
        original(fd, mapping, *rest)

    monkeypatch.setattr(segments, "beginParts", lambda mapping: False)
    monkeypatch.setattr(segments, "reserve", reserve)
    bundle = muninn.load(tensors(folder), "model", reserve="lazy")
    assert isinstance(bundle, muninn.Bundle)
    assert np.array_equal(bundle["long"], ARRAYS["long"]) and len(reserved) == 1


def openFilesIn(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


# --- what is refused before anything is made -----------------------------------------


def raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin], "data_offsets": [begin, end]}


SHARDS = {"a": "one.safetensors", "b": "two.safetensors"}


def indexed(weightMap: object, **shards: object) -> Callable[[Path], Path]:
    """A folder with an index, and the shards `one` and `two` unless said otherwise."""

    def make(folder: Path) -> Path:
        for name, header in {
            "one": {"a": tensor(0, 4)},
            "two": {"b": tensor(0, 4)},
            **shards,
        }.items():
            (folder / f"{name}.safetensors").write_bytes(raw(header, b"1234"))
        writeIndex(folder, weightMap)
        return folder

    return make


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder

    return make


def saved(value: Any, **keywords: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value, folder / "x.pt", **keywords)
        return folder / "x.pt"

    return make


def several(folder: Path) -> Path:
    for name in ("a", "b"):
        save_file({"w": np.ones(3)}, folder / f"{name}.safetensors")
    return folder


def cut(folder: Path) -> Path:
    path = saved({"a": torch.ones(300)})(folder)
    os.truncate(path, path.stat().st_size // 2)
    return path


def empty(ending: str) -> Callable[[Path], Path]:
    return lambda folder: written(f"x{ending}", b"")(folder) / f"x{ending}"


INDEX = "model.safetensors.index.json"
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "overlapping": (
        indexed(SHARDS, one={"a": tensor(0, 4), "c": tensor(2, 4)}),
        "c begins at 2, where 4 was expected",
    ),
    "out of range": (indexed(SHARDS, one={"a": tensor(0, 9)}), "take 9 bytes, and it has 4"),
    "duplicate across shards": (
        indexed(SHARDS, two={"b": tensor(0, 2), "a": tensor(2, 4)}),
        r"a is in two files, one\.safetensors and two\.safetensors",
    ),
    "duplicate in the index": (
        written(INDEX, b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'),
        "a key stands twice",
    ),
    "unknown dtype": (
        indexed(SHARDS, two={"b": tensor(0, 4, "F3")}),
        "b has the dtype 'F3'",
    ),
    "truncated shard": (
        lambda folder: [sharded(folder), os.truncate(folder / "model-2.safetensors", 9000)][0],  # type: ignore[func-returns-value, return-value]
        r"model-2\.safetensors: ",
    ),
    "missing file": (
        indexed({**SHARDS, "c": "three.safetensors"}),
        r"names three\.safetensors, which is missing",
    ),
    "key that the shard lacks": (
        indexed({**SHARDS, "c": "two.safetensors"}),
        r"puts c into two\.safetensors, which does not have it",
    ),
    "leaves the folder": (
        indexed({"a": "../one.safetensors"}),
        r"'\.\./one\.safetensors', which is no \.safetensors file of its folder",
    ),
    "absolute": (indexed({"a": "/etc/x.safetensors"}), "of its folder"),
    "another kind": (indexed({"a": "one.npz"}), "of its folder"),
    "NUL": (indexed({"a": "o\0ne.safetensors"}), "can not be read|missing"),
    "no map": (indexed([1, 2]), "its weight_map is no map"),
    "empty map": (indexed({}), "its weight_map is no map"),
    "no names": (indexed({"a": 3}), "puts a into 3, which is no file"),
    "no object": (written(INDEX, b"[]"), "the index is no JSON object"),
    "no JSON": (written(INDEX, b"{"), "the index is damaged"),
    "deep": (written(INDEX, b"[" * 100_000), "the index is damaged"),
    "no UTF-8": (written(INDEX, b"\xff\xfe{}"), "the index is damaged"),
    "empty folder": (lambda folder: folder, "has no model.*and 0 .safetensors files"),
    "several files": (several, "and 2 .safetensors files"),
    "pickle": (saved(torch.nn.Linear(2, 2)), "never unpickled here: .*Linear"),
    "lazy": (
        saved(torch.nn.LazyLinear(2).state_dict()),
        r"never unpickled here: torch\.nn\.parameter\.UninitializedParameter",
    ),
    "list": (saved([torch.ones(3)]), "no mapping of tensors, but a list"),
    "tensor": (saved(torch.ones(3)), "no mapping of tensors, but a Tensor"),
    "mixed": (saved({"a": torch.ones(3), "epoch": 3}), "epoch is a int"),
    "nested deeper": (saved({"state_dict": {"a": {"b": torch.ones(3)}}}), "a is a dict"),
    "numbered": (saved({1: torch.ones(3)}), "1 is a Tensor"),
    "no tensors": (saved({}), "no tensor in it"),
    "sparse": (saved({"a": torch.eye(3).to_sparse()}), "a: the values of .* not in one array"),
    "old format": (
        saved({"a": torch.ones(3)}, _use_new_zipfile_serialization=False),
        r"since 1\.6\. Fix: .* torch\.save",
    ),
    "truncated file of PyTorch": (cut, "its end is missing.*the file is whole"),
    "no file of PyTorch": (
        lambda folder: written("x.bin", b"hello")(folder) / "x.bin",
        "it is no archive",
    ),
    **{
        f"empty{ending}": (empty(ending), "it is empty.*finish")
        for ending in (".npy", ".npz", ".safetensors", ".pt", ".safetensors.index.json")
    },
    "missing folder": (lambda folder: folder / "gone", "there is no such file or folder"),
    "missing file of a kind": (lambda folder: folder / "gone.npz", "there is no such file"),
    "home": (lambda _: Path("~/gone.npy"), r"no such file.*os\.path\.expanduser"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusesBadFilesBeforeAnythingIsMade(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, words = BAD[name]
    path = make(folder)
    monkeypatch.setattr("muninn.session.creation.create", lambda *_, **__: pytest.fail("made"))
    with pytest.raises(FileInvalid, match=words):
        muninn.load(path, "model")
    assert not openFilesIn(folder)


def test_anIndexThatIsTooLongIsNotParsed(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muninn.formats.shards._MAX_INDEX_BYTES", 50)
    with pytest.raises(FileInvalid, match=r"an index of \d+ bytes can not be"):
        muninn.load(sharded(folder), "model")


def test_linksMayLeadOutOfTheFolder(domain: str, folder: Path) -> None:
    """Hugging Face's cache consists of links."""
    (folder / "blobs").mkdir()
    (folder / "snapshot").mkdir()
    sharded(folder / "blobs")
    for each in (folder / "blobs").iterdir():
        (folder / "snapshot" / each.name).symlink_to(each)
    assert len(muninn.load(folder / "snapshot", "model")) == len(ARRAYS)  # type: ignore[arg-type]
    assert len(muninn.load(folder / "snapshot" / INDEX, "again")) == len(ARRAYS)  # type: ignore[arg-type]


def test_everyTensorOfAShardIsTaken(domain: str, folder: Path) -> None:
    """The index names the files, as for the libraries that write it."""
    path = indexed(SHARDS, two={"b": tensor(0, 2), "extra": tensor(2, 4)})(folder)
    bundle = muninn.load(path, "model")
    assert isinstance(bundle, muninn.Bundle) and bytes(bundle["extra"]) == b"34"


def test_aFolderWithOneFileIsThatFile(domain: str, folder: Path) -> None:
    tensors(folder)
    (folder / "config.json").write_text("{}")
    assert len(muninn.load(folder, "model")) == len(ARRAYS)  # type: ignore[arg-type]


def test_keysMayDifferInCaseOnlyAndBeLong(domain: str, folder: Path) -> None:
    long = "k" * 10_240
    save_file({"a": np.ones(2), "A": np.zeros(2), long: np.arange(3)}, folder / "x.safetensors")
    bundle = muninn.load(folder, "model")
    assert isinstance(bundle, muninn.Bundle)
    assert bundle["a"].sum() == 2 and bundle["A"].sum() == 0 and bundle[long].tolist() == [0, 1, 2]


def test_messagesShortenLongKeys(domain: str, folder: Path) -> None:
    path = indexed({"k" * 10_240: "one.safetensors"})(folder)
    with pytest.raises(FileInvalid, match=r"k\.\.\. \(10240 characters\)") as caught:
        muninn.load(path, "model")
    assert len(caught.value.reason) < 400


@MODES
def test_takesAHundredThousandKeys(domain: str, folder: Path, mode: Any) -> None:
    header = {f"layer.{number}": tensor(number, number + 1) for number in range(100_000)}
    data = np.arange(100_000, dtype=np.uint8).tobytes()
    (folder / "x.safetensors").write_bytes(raw(header, data))
    bundle = muninn.load(folder, "model", mode=mode)
    assert isinstance(bundle, muninn.Bundle) and len(bundle) == 100_000
    assert np.asarray(bundle["layer.99998"]).tolist() == [99_998 % 256]


def test_theStateDictOfACheckpointIsTaken(domain: str, folder: Path) -> None:
    model = torch.nn.Linear(3, 4).to(torch.bfloat16)
    path = saved({"state_dict": model.state_dict(), "epoch": 3, "args": {"lr": 0.1}})(folder)
    bundle = muninn.load(path, "model")
    assert isinstance(bundle, muninn.Bundle) and set(bundle) == {"weight", "bias"}
    assert torch.equal(torch.from_dlpack(bundle["weight"]), model.weight)


def test_tensorsOfPyTorchAreReadFromTheFile(domain: str, folder: Path) -> None:
    """Broken: they were copied from the mapping, where a file that is shortened is a
    SIGBUS.
    """
    from muninn.formats import openFile

    path = saved({"a": torch.arange(1000.0), "p": torch.nn.Parameter(torch.ones(3))})(folder)
    with openFile(path) as source:
        for key in source.entries:
            place = source.placeOf(key)
            assert place is not None
            found = np.empty(source.entries[key].sizeBytes, np.uint8)
            place.source.readAt(place.offset, found)
            assert np.array_equal(
                found.view(np.float32), np.arange(1000.0) if key == "a" else [1] * 3
            )


def test_withoutPyTorchItSaysSo(domain: str, folder: Path, actor: Start) -> None:
    path = ofTorch(folder)
    other = actor("import sys; sys.modules['torch'] = None")
    with pytest.raises(ActorError, match="PyTorch reads files of this kind"):
        other.do(f"muninn.load({str(path)!r}, 'model')")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "fast"}, MuninnError),
        ({"progress": 3}, TypeError),
        ({"name": "n" * 200}, InvalidArgument),
    ],
)
def test_theOptionsAreCheckedFirst(
    domain: str, folder: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        muninn.load(tensors(folder), **{"name": "model", **options})
    assert muninn.listBuffers() == []


def test_aFileThatDoesNotFitIsRefused(
    domain: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_BIG_MODE_MAX_BYTES", "1M")
    with pytest.raises(QuotaExceeded):
        muninn.load(tensors(folder), "model")
    assert nothingIsLeft(domain)


def test_aTypeThatABundleCanNotHoldIsNamed(domain: str, folder: Path) -> None:
    np.savez(folder / "x.npz", good=np.ones(3), bad=np.array([(1, 2)], "i4,i4"))
    with pytest.raises(InvalidDtype, match="bad.*plain types"):
        muninn.load(folder / "x.npz", "model")


@pytest.mark.parametrize("path", [None, 3, b"x.npy", ["x"]])
def test_aPathIsAPath(domain: str, path: Any) -> None:
    with pytest.raises(TypeError, match="load: path must be a path, not"):
        muninn.load(path, "model")


def test_aFileFromAMachineOfTheOtherByteOrderIsTurnedRound(domain: str, folder: Path) -> None:
    """PyTorch turns the bytes round in its mapping of the file. Broken: they were read from
    the file as they stand.
    """
    arrays = {"wide": np.arange(5, dtype="f4"), "half": np.arange(3, dtype="i2")}
    path = saved({key: torch.from_numpy(array) for key, array in arrays.items()})(folder)
    turned = folder / "turned.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(turned, "w") as target:
        for name in source.namelist():
            raw = source.read(name)
            if name.endswith("byteorder"):
                raw = b"big"
            elif "/data/" in name:
                raw = np.frombuffer(raw, "u4" if len(raw) == 20 else "u2").byteswap().tobytes()
            target.writestr(name, raw)
    bundle = muninn.load(turned, "turned")
    assert isinstance(bundle, muninn.Bundle)
    for key, array in arrays.items():
        np.testing.assert_array_equal(bundle[key], array)


# --- shareOnce -----------------------------------------------------------------------


def test_shareOnceTakesAPath(domain: str, folder: Path, actor: Start) -> None:
    np.save(folder / "x.npy", np.arange(4))
    bundle = muninn.shareOnce("model", tensors(folder), access="readWrite")
    array = muninn.shareOnce("array", str(folder / "x.npy"))
    assert isinstance(bundle, muninn.Bundle) and isinstance(array, muninn.MuninnBuffer)
    assert array.array.sum() == 6 and not bundle["long"].flags.writeable
    other = actor(f"found = muninn.shareOnce('model', {str(folder / 'gone.safetensors')!r})")
    assert other.do("type(found).__name__, len(found)") == ["Bundle", len(ARRAYS)]


def test_shareOnceTakesAMapping(domain: str, actor: Start) -> None:
    bundle = muninn.shareOnce("model", lambda: {"w": np.arange(4), "b": np.ones(2)})
    assert isinstance(bundle, muninn.Bundle) and bundle["w"].sum() == 6
    other = actor("found = muninn.shareOnce('model', lambda: 1 / 0)")
    assert other.do("type(found).__name__, int(found['w'].sum())") == ["Bundle", 6]
    assert muninn.shareOnce("state", lambda: torch.nn.Linear(2, 3).state_dict()).keys() == {
        "weight",
        "bias",
    }


def test_shareOnceSharesNoMappingInPlace(domain: str, folder: Path) -> None:
    for loader in (lambda: {"w": np.arange(4)}, tensors(folder)):
        with pytest.raises(InvalidArgument, match="where it lies"):
            muninn.shareOnce("model", loader, copy=False)  # type: ignore[call-overload]
    assert muninn.listBuffers() == []


def test_shareOnceOfAFileThatIsDamagedLetsTheNextOneLoad(domain: str, folder: Path) -> None:
    (folder / "x.npy").write_bytes(b"damaged")
    with pytest.raises(FileInvalid):
        muninn.shareOnce("x", folder / "x.npy")
    np.save(folder / "x.npy", np.arange(4))
    assert len(muninn.shareOnce("x", folder / "x.npy").describe()["shape"]) == 1


def test_threadsOfStreamsEndWithTheLoad(domain: str, folder: Path) -> None:
    muninn.load(tensors(folder), "model", mode="fastMode")
    eventually(
        lambda: not [each for each in threading.enumerate() if "muninn-stream" in each.name],
        "the streams of the load have ended",
    )
