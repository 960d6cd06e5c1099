"""Readers of files: configuration, and arrays in the formats that `load` takes."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.target import Target, eachLength
from muninn.config import loadSettings, settings
from muninn.config.settings import DEFAULTS, FILE_VARIABLE
from muninn.formats import Source, openFile
from muninn.formats.reading import jobsOf

#: The target makes the arrays that a caller would make, but only of files that state no
#: more bytes than this.
_MAX_READ_BYTES = 1 << 20
#: Short, so that small files have several pieces.
_PIECE_BYTES = 16


class _Room:
    """An inlet of `formats/reading.py` that fills an array."""

    def __init__(self, sizeBytes: int, isInPlace: bool) -> None:
        self.isInPlace, self.memory = isInPlace, np.zeros(sizeBytes, np.uint8)

    def begin(self, offset: int, sizeBytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self.memory[offset : offset + sizeBytes]

    def send(self) -> None:
        """The bytes are in place."""


def _readBothWays(source: Source) -> None:
    """Read each entry as a whole, and all of them by jobs, in place and not: the bytes
    are the same.
    """
    offsets, whole = dict[str, int](), list[bytes]()
    for key, entry in source.entries.items():
        offsets[key] = sum(len(each) for each in whole)
        target = np.empty(entry.sizeBytes, np.uint8)
        source.readInto(key, target)
        whole.append(target.tobytes())
    for isInPlace in (True, False):
        room = _Room(source.sizeBytes, isInPlace)
        for job in jobsOf(source, offsets, _PIECE_BYTES):
            job(room, bool)
        assert room.memory.tobytes() == b"".join(whole)


class _FileTarget(Target):
    ending = ""

    def open(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="muninn-fuzz-")
        self._path = Path(self._folder) / f"input{self.ending}"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def _write(self, raw: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, raw, 0)

    def run(self, raw: bytes) -> None:
        self._write(raw)
        with openFile(self._path) as source:
            if source.sizeBytes <= _MAX_READ_BYTES:
                _readBothWays(source)

    def close(self) -> None:
        os.close(self._file)
        shutil.rmtree(self._folder)


def _readDefaultsOnce() -> None:
    """Read the defaults once: they are the same for every input, and take most of the
    time.
    """
    read = settings._ofFile
    defaults = read(DEFAULTS)
    settings._ofFile = lambda path: dict(defaults) if path == DEFAULTS else read(path)


class ConfigTarget(_FileTarget):
    """A configuration file."""

    name, share, ending = "config", 5, ".toml"

    def seeds(self) -> list[bytes]:
        texts = [
            "[control]\ndomain = 'a'\ntakeoverMs = 300\n",
            "[memory]\nbigModeMaxBytes = '1G'\n",
            "control.maxMembers = 7\n",
            "[[control]]\n",
            "a = 1\n",
            "[control]\nx = '''\n[memory]\n'''\n",
            "[devices]\nhostGpus = 0x10\nhostGpuBytes = 1e3\n",
            '[tenancy]\ndefaultTenant = "\\u0000"\n',
            "[security]\nleaseTtlMs = 1979-05-27T07:32:00Z\n",
            "[control]\nmaxLeases = nan\n",
            "x = " + "[" * 300,
        ]
        return [*(text.encode() for text in texts), DEFAULTS.read_bytes()]

    def open(self) -> None:
        super().open()
        _readDefaultsOnce()

    def run(self, raw: bytes) -> None:
        self._write(raw)
        loadSettings({FILE_VARIABLE: str(self._path)})


class VariablesTarget(Target):
    """The environment: a variable and its value, with a NUL between them."""

    name, share = "variables", 4

    def seeds(self) -> list[bytes]:
        return [
            b"MUNINN_TAKEOVER_MS\x00300",
            b"MUNINN_DOMAIN\0a",
            b"MUNINN_HOST_GPU_BYTES\x0064G",
            b"MUNINN_DEFAULT_TENANT\0\xc3\xa4",
            b"MUNINN_CONFIG\0/dev/null",
        ]

    def open(self) -> None:
        _readDefaultsOnce()

    def run(self, raw: bytes) -> None:
        variable, _, value = raw.partition(b"\0")
        loadSettings({os.fsdecode(variable): os.fsdecode(value)})


class NpyTarget(_FileTarget):
    name, share, ending = "npy", 6, ".npy"

    def seeds(self) -> list[bytes]:
        made = []
        for array in (
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.ones((3, 4), "i2")),
            np.zeros(2, [("a", "f4"), ("b", "S3")]),
            np.array(7),
            np.zeros((0, 3)),
        ):
            file = io.BytesIO()
            np.save(file, array)
            made.append(file.getvalue())
        return made

    def all(self) -> Iterable[bytes]:
        return eachLength(self.seeds()[0])


class NpzTarget(_FileTarget):
    name, share, ending = "npz", 3, ".npz"

    def seeds(self) -> list[bytes]:
        made = []
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, a=np.arange(4), b=np.ones((2, 2), "f4", order="F"))
            made.append(file.getvalue())
        return made


class SafetensorsTarget(_FileTarget):
    name, share, ending = "safetensors", 6, ".safetensors"

    def seeds(self) -> list[bytes]:
        headers = (
            {
                "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
                "__metadata__": {"x": "y"},
            },
            {"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}},
            {"a": {"dtype": "U8", "shape": [1 << 62, 4], "data_offsets": [0, 1 << 64]}},
        )
        texts = [json.dumps(header).encode() for header in headers]
        return [struct.pack("<Q", len(text)) + text + bytes(22) for text in texts] + [
            struct.pack("<Q", 1 << 63) + b"{}"
        ]


class ShardsTarget(_FileTarget):
    """The index of a model, whose two shards are sound."""

    name, share, ending = "shards", 6, ".safetensors.index.json"

    def open(self) -> None:
        super().open()
        for name in ("one", "two"):
            text = json.dumps({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})
            raw = struct.pack("<Q", len(text)) + text.encode() + b"1234"
            (Path(self._folder) / f"{name}.safetensors").write_bytes(raw)

    def seeds(self) -> list[bytes]:
        maps: tuple[object, ...] = (
            {"one": "one.safetensors", "two": "two.safetensors"},
            {"one": "./one.safetensors"},
            {"one": "two.safetensors"},
            {"one": "../one.safetensors"},
            {"one": "/dev/zero.safetensors"},
            {"one": "one\0.safetensors"},
            {"\ud800": "one.safetensors", "two": "\ud800.safetensors"},
            {"one": ["one.safetensors"]},
            [],
        )
        texts = [json.dumps({"metadata": {"total_size": 8}, "weight_map": each}) for each in maps]
        return [*(text.encode() for text in texts), b'{"weight_map": {"a": "a", "a": "b"}}', b"["]

    def all(self) -> Iterable[bytes]:
        return eachLength(self.seeds()[0])


TARGETS = [ConfigTarget, VariablesTarget, NpyTarget, NpzTarget, SafetensorsTarget, ShardsTarget]
