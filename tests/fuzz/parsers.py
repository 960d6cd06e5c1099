"""Readers that only compute: messages, journals, descriptions, manifests, handles,
sizes.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterable
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import msgpack
import numpy as np
from lab import describe

from fuzz.target import Target, eachBit, eachLength, mutated
from muninn.api import manifests
from muninn.broker import journal
from muninn.config.sizes import asBytes
from muninn.control.descriptions import RowDescription
from muninn.control.geometry import Geometry
from muninn.devices.topology import Verdict, cache
from muninn.errors import MuninnError
from muninn.interop import dtypes
from muninn.interop.elements import asElement
from muninn.terms import ACCESSES, Access, Lifetime, Mode
from muninn.wire import handles, messages, requests

_SAMPLE: dict[type, Any] = {int: 3, str: "name", list: [[1, 2], [3, 4]], bool: True}
_ROWS = (
    describe("a"),
    describe(
        "ä" * 63,
        shape=(2, 3, 4),
        dtype="<f4",
        sizeBytes=96,
        segmentBytes=8192,
        metaOffset=4096,
        metaBytes=100,
    ),
    describe(
        "b",
        mode=Mode.FAST,
        gpu=0,
        lifetime=Lifetime.LAST_CLOSE,
        access=Access.READ_ONLY,
        kind=1,
        flags=1,
        transport="memfd",
        shape=(),
    ),
)


class MessageTarget(Target):
    """A packet, as the broker takes it for a request and a member for an answer."""

    name, share = "message", 300

    def seeds(self) -> list[bytes]:
        asked = [
            msgpack.packb({"op": op, **{field: _SAMPLE[kind] for field, kind in fields.items()}})
            for op, (fields, *_) in requests.OPERATIONS.items()
        ]
        answers: list[dict[str, Any]] = [
            {},
            {"epoch": 3},
            {"row": 1, "incarnation": 2, "live": True},
            {"found": True},
            {"error": 11, "reason": "no", "fix": "do"},
            {"error": 99, "reason": None, "fix": ""},
            {"revoked": 1, "buffers": 2},
            {"holds": 3},
            {"yielded": True},
        ]
        span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        asked += [msgpack.packb({"op": "ping", requests.TRACE: each}) for each in (span, span[:-1])]
        return [
            *asked,
            *(msgpack.packb(answer) for answer in answers),
            b"\x81\xa2op" + b"\x91" * 600 + b"\xc0",
            b"\xdf\xff\xff\xff\xff",
        ]

    def run(self, raw: bytes) -> None:
        message = messages.unpacked(raw)
        with contextlib.suppress(MuninnError):
            requests.raiseFailure(message)
        request = requests.checked(message)
        if "allocations" in request:
            requests.allocationsOf(request, [0] * len(request["allocations"]))
        if requests.TRACE in request:  # as `observe/spans.py` takes it apart
            version, *ids = (int(each, 16) for each in request[requests.TRACE].split("-"))
            assert (version, len(ids)) == (0, 3), request


class AnswerTarget(MessageTarget):
    """A packet, as a member takes it for the answer to a request."""

    name, share = "answer", 60

    def run(self, raw: bytes) -> None:
        answer = messages.unpacked(raw[1:])
        requests.raiseFailure(answer)
        op = list(requests.OPERATIONS)[raw[0] % len(requests.OPERATIONS)] if raw else "ping"
        requests.answered(op, answer)


def framed(body: bytes) -> bytes:
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def sampleJournal() -> bytes:
    """A small journal with each kind of record."""
    records: list[dict[str, Any]] = [
        {"op": "begin", "epoch": 1},
        {
            "op": "create",
            "row": 0,
            "incarnation": 1,
            "slot": 0,
            "name": "a",
            "tenant": "default",
            "mode": "bigMode",
            "gpu": -1,
            "sizeBytes": 4096,
        },
        {"op": "live", "row": 0, "incarnation": 1, "description": _ROWS[0].packed()},
        {"op": "free", "row": 0, "incarnation": 1},
        {"op": "gone", "row": 0, "incarnation": 1},
    ]
    return b"".join(framed(msgpack.packb(record)) for record in records)


class JournalTarget(Target):
    """A journal's bytes, with checksums that are wrong."""

    name, share = "journal", 150

    def seeds(self) -> list[bytes]:
        whole = sampleJournal()
        return [
            whole,
            whole[:60],
            framed(msgpack.packb({"op": "gone", "row": 1, "incarnation": 1})),
            framed(b"\xc0"),
            framed(b""),
            b"",
        ]

    def all(self) -> Iterable[bytes]:
        yield from eachLength(sampleJournal())
        yield from eachBit(sampleJournal())

    def run(self, raw: bytes) -> None:
        for record in journal.replay(raw):
            assert isinstance(record["op"], str)


class RecordTarget(Target):
    """A journal's bytes, with checksums that are right, as a program of another version
    might write them.
    """

    name, share = "record", 80

    def seeds(self) -> list[bytes]:
        return [bytes(record) for record in _bodies(sampleJournal())]

    def run(self, raw: bytes) -> None:
        for record in journal.replay(framed(raw)):
            if "description" in record:
                # `repair` ignores such a record.
                with contextlib.suppress(MuninnError, TypeError):
                    RowDescription.unpacked(record["description"])


def _bodies(raw: bytes) -> list[bytes]:
    bodies, offset = [], 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        bodies.append(raw[offset + 8 : offset + 8 + length])
        offset += 8 + length
    return bodies


class DescriptionTarget(Target):
    """A row's description, and the data type that it names."""

    name, share = "description", 150

    def seeds(self) -> list[bytes]:
        return [row.packed() for row in _ROWS]

    def all(self) -> Iterable[bytes]:
        for row in _ROWS:
            yield from eachBit(row.packed())
        yield from eachLength(_ROWS[0].packed())

    def mutated(self, random: Random, raw: bytes, other: bytes) -> bytes:
        changed = mutated(random, raw, other)
        return changed if random.random() < 0.05 else changed[: len(raw)].ljust(len(raw), b"\0")

    def run(self, raw: bytes) -> None:
        description = RowDescription.unpacked(raw)
        assert description.sizeBytes <= description.segmentBytes
        dtypes.plain(description.dtype)


def _openBuffer(raw: bytes, sizeBytes: int) -> Any:
    memory = SimpleNamespace(copyBytes=lambda *_: raw)
    held = SimpleNamespace(
        description=describe("bundle", sizeBytes=sizeBytes, metaBytes=len(raw)), memory=memory
    )
    held.segments = (held, SimpleNamespace(description=describe("part", sizeBytes=sizeBytes)))
    return held


class ManifestTarget(Target):
    """A bundle's directory."""

    name, share = "manifest", 60

    def seeds(self) -> list[bytes]:
        return [
            msgpack.packb(entries)
            for entries in (
                [["a", 0, [3, 4], "<f8", 0], ["b", 256, [], "<i2", 0]],
                [["a", 0, [1e308, 1e308], "u1", 0]],
                [["a", 0, [1 << 63, 1 << 63], "u1", 0]],
                [],
                {},
                [["a", 0.5, [1], "u1", 0]],
                [[["a"], 0, [1], "u1", 0]],
                [[1, 0, [True], "u1", 0]],
                [["a", 0, "12", "u1", 0]],
                [["a", 0, [3], "u1", 1], ["b", 0, [3], "u1", 7]],
                [["a", 0, [3], "bfloat16", 0], ["b", 256, [0], "float4_e2m1fn_x2", 0]],
            )
        ]

    def run(self, raw: bytes) -> None:
        for region in manifests.unpacked(_openBuffer(raw, 4096)).values():
            flat = np.zeros(4096, np.uint8)[region.offset : region.offset + region.sizeBytes]
            flat.view(region.element.bits).reshape(region.shape)


class FieldsTarget(Target):
    """The description of a structured data type."""

    name, share = "fields", 40

    def seeds(self) -> list[bytes]:
        structured = np.dtype([("a", "<f8"), ("b", [("c", "<i4", (2, 3)), (("title", "d"), "S5")])])
        return [
            dtypes.encoded(asElement(structured))[1],
            dtypes.encoded(asElement(np.dtype((np.float32, (2, 2)))))[1],
            msgpack.packb({"descr": "<f8"}),
            msgpack.packb({"descr": _deep(400)}),
        ]

    def run(self, raw: bytes) -> None:
        dtypes._described.cache_clear()
        assert dtypes._described(raw).itemBytes > 0


def _deep(depth: int) -> Any:
    value: Any = "<f8"
    for _ in range(depth):
        value = [value]
    return value


class HandleTarget(Target):
    """A handle."""

    name, share = "handle", 200
    _secret = bytes(range(32))

    def seeds(self) -> list[bytes]:
        return [handles.issue(self._secret, 1, 2, access, 3, "default") for access in ACCESSES]

    def all(self) -> Iterable[bytes]:
        for seed in self.seeds():
            yield from eachBit(seed)
            yield from eachLength(seed)

    def run(self, raw: bytes) -> None:
        capability = handles.check(self._secret, raw)
        issued = handles._BODY.pack(
            b"MNNH", 1, ACCESSES.index(capability.access), *capability[:2], *capability[3:]
        )
        assert raw[: len(issued)] == issued, "a handle that was altered was taken"


class SizeTarget(Target):
    """A size as text."""

    name, share = "size", 150

    def seeds(self) -> list[bytes]:
        return [
            b"64K",
            b"1.5M",
            b"512GiB",
            b"0",
            b" 7 P",
            b"999999999999999999",
            b"0.000000000000000001T",
            "٣K".encode(),
            b"1e5",
        ]

    def run(self, raw: bytes) -> None:
        assert 0 <= asBytes(raw.decode(errors="surrogateescape")) <= 1 << 56


class GeometryTarget(Target):
    """The sizes that a control block states."""

    name, share = "geometry", 60

    def seeds(self) -> list[bytes]:
        return [
            struct.pack("<4I", *geometry)
            for geometry in (
                Geometry.of(8, 512, 256),
                Geometry.of(1, 1, 1),
                Geometry.of(4094, 1_048_320, 65_536),
            )
        ]

    def run(self, raw: bytes) -> None:
        geometry = Geometry(*struct.unpack("<4I", raw[:16].ljust(16, b"\0"))).checked()
        assert (
            0
            < geometry.indexOffset
            < geometry.rowsOffset
            < geometry.areasOffset
            < geometry.totalBytes
            < 1 << 36
        )


class VerdictsTarget(Target):
    """The file of verdicts on links. Its reader refuses by `ValueError`."""

    name, share, allowed = "verdicts", 80, (ValueError,)
    _boot = bytes(range(16))
    _entries: ClassVar = {
        cache._Pair("CUDA 13000 580.159.04", "GPU-a", "GPU-b"): Verdict(
            True, 395.5e9, 52e9, 16 << 20, 2
        ),
        cache._Pair("emulated", "ä", ""): Verdict(False, note="\udc80 differs"),
        cache._Pair("emulated", "b", "a"): Verdict(),
    }

    def seeds(self) -> list[bytes]:
        whole = cache.packed(self._entries, self._boot)
        return [
            whole,
            cache.packed({}, self._boot),
            cache.packed(self._entries, bytes(16)),
            whole.replace(b"52000000000.0", b"NaN"),
            whole.replace(b"52000000000.0", b"9" * 400),
            whole.replace(b"true", b"1"),
            b"[" * 5000,
        ]

    def all(self) -> Iterable[bytes]:
        yield from eachLength(cache.packed(self._entries, self._boot))
        yield from eachBit(cache.packed(self._entries, self._boot))

    def run(self, raw: bytes) -> None:
        entries = cache.parsed(raw, self._boot)
        assert cache.parsed(cache.packed(entries, self._boot), self._boot) == entries


TARGETS = [
    MessageTarget,
    AnswerTarget,
    JournalTarget,
    RecordTarget,
    DescriptionTarget,
    ManifestTarget,
    FieldsTarget,
    HandleTarget,
    SizeTarget,
    GeometryTarget,
    VerdictsTarget,
]
