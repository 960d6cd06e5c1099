"""Damaged shared memory and hostile packets, which a joining process and a broker read
here. The inputs for a block are patches {offset, bits to turn over}, so that each block
stays near to a sound one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

import msgpack
from lab import LIMITS, Lab, Member, reclaim, usage
from peers import createOf

from fuzz.parsers import MessageTarget
from fuzz.target import Target, eachBit, eachLength
from muninn.api import listing
from muninn.broker.broker import Broker
from muninn.control import layout, leases
from muninn.control.geometry import Geometry
from muninn.control.header import bootId, readHeader
from muninn.control.index import NameIndex
from muninn.control.members import MemberKey
from muninn.control.ownerlock import ownerOf
from muninn.control.rows import Deposed
from muninn.devices.host.device import HostDevice
from muninn.errors import MuninnError
from muninn.session.tables import Tables
from muninn.storage.paths import Paths
from muninn.system import atomics
from muninn.wire import messages
from muninn.wire.descriptorserver import DescriptorClient, DescriptorServer
from support import removeDomain

_PATCH = struct.Struct("<IQ")
_GEOMETRY = Geometry.of(8, 256, 64)
_MAX_PATCHES = 12


class HeaderTarget(Target):
    """The header of a control block, as a joiner reads it."""

    name, share = "header", 25

    def open(self) -> None:
        self._file = os.memfd_create("muninn-fuzz")
        os.ftruncate(self._file, _GEOMETRY.totalBytes)

    def seeds(self) -> list[bytes]:
        return [
            struct.pack(
                "<8sIxxxx16sQIIII",
                layout.MAGIC,
                layout.VERSION,
                bootId(),
                _GEOMETRY.totalBytes,
                *_GEOMETRY,
            )
        ]

    def all(self) -> Iterable[bytes]:
        yield from eachBit(self.seeds()[0])
        yield from eachLength(self.seeds()[0])

    def run(self, raw: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, raw, 0)
        os.ftruncate(
            self._file, max(len(raw), _GEOMETRY.totalBytes) if len(raw) >= 56 else len(raw)
        )
        geometry = readHeader(self._file, "it")
        assert geometry is None or geometry.totalBytes <= os.fstat(self._file).st_size

    def close(self) -> None:
        os.close(self._file)


def _words() -> list[int]:
    """The offsets of the damaged words: all of the first members, rows and leases."""
    header = [
        layout.ELECTION_OFFSET,
        layout.READY_OFFSET,
        layout.HEARTBEAT_OFFSET,
        layout.ROWS_READY_OFFSET,
        layout.NAME_WAKES_OFFSET,
        layout.DRAIN_OFFSET,
        layout.FORKED_OFFSET,
        layout.SHORTAGES_OFFSET,
    ]
    members = [
        layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES + offset
        for slot in range(4)
        for offset in range(0, 136, 4)
    ]
    rows = [
        _GEOMETRY.rowsOffset + row * layout.ROW_BYTES + offset
        for row in range(6)
        for offset in range(0, layout.ROW_BYTES, 4)
    ]
    states = [_GEOMETRY.rowsOffset + row * layout.ROW_BYTES for row in range(6)] * 8
    index = [_GEOMETRY.indexOffset + position * 8 for position in range(_GEOMETRY.indexSlots)]
    areas = [
        _GEOMETRY.areasOffset + slot * _GEOMETRY.areaBytes + position * 8
        for slot in range(4)
        for position in range(16)
    ]
    return header * 20 + members + rows + states + index[::8] + areas * 2


_WORDS = _words()


class PatchTarget(Target):
    def seeds(self) -> list[bytes]:
        return [
            b"",
            *(
                _PATCH.pack(offset, bits)
                for offset in _WORDS[::37]
                for bits in (1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
            ),
        ]

    def mutated(self, random: Random, raw: bytes, other: bytes) -> bytes:
        patches = [
            raw[at : at + _PATCH.size] for at in range(0, len(raw) - _PATCH.size + 1, _PATCH.size)
        ]
        for _ in range(random.randrange(1, 4)):
            bits = random.choice(
                (
                    1 << random.randrange(64),
                    1 << random.randrange(32),
                    random.getrandbits(32),
                    random.getrandbits(64),
                    (1 << 64) - 1,
                    0xFF << 8 * random.randrange(8),
                )
            )
            patches.insert(
                random.randrange(len(patches) + 1), _PATCH.pack(random.choice(_WORDS), bits)
            )
        random.shuffle(patches)
        return b"".join(patches[: random.randrange(1, _MAX_PATCHES)])


def patches(raw: bytes, size: int) -> Iterable[tuple[int, int]]:
    """(offset, bits) that lie within a block of `size` bytes."""
    for at in range(0, len(raw) - _PATCH.size + 1, _PATCH.size):
        offset, bits = _PATCH.unpack_from(raw, at)
        yield offset % (size - 8) & ~3, bits


class BlockTarget(PatchTarget):
    """A block with wrong words: a process joins, opens and lists, and a broker takes
    steps.
    """

    name, share = "block", 2
    allowed = (MuninnError, Deposed)

    def open(self) -> None:
        self._domain = f"test-{secrets.token_hex(6)}"
        self._lab = lab = Lab(self._domain, 8, 256, 64)
        self._own, self._other, dead = lab.member(), lab.member(), lab.member()
        directory = lab.directory(1)
        for number, name in enumerate("abcd"):
            row, incarnation = lab.make(directory, (self._own, self._other)[number % 2], name)
            for member in (self._own, self._other, dead)[: number + 1]:
                member.leases.take(row, incarnation, 1000)
        directory.grant(dead.key, usage("half"), 0)
        self._snapshot = bytes(lab.block.bytes)
        settings = SimpleNamespace(security=SimpleNamespace(leaseTtlMs=1000))
        device = HostDevice(2, 1 << 20)
        self._seen = SimpleNamespace(
            rows=lab.rows,
            members=lab.members,
            block=lab.block,
            paths=lab.paths,
            election=lab.election,
            settings=settings,
            key=self._own.key,
            domain=self._domain,
            gpus=SimpleNamespace(chosen=lambda: device),
            client=SimpleNamespace(once=lambda *_, **__: None, awaitAnswer=lambda *_: None),
        )
        self._seen.tables = self._seen
        listing.current = lambda: self._seen  # type: ignore[assignment,return-value]

    def run(self, raw: bytes) -> None:
        content = self._lab.block.bytes
        content[:] = self._snapshot
        for offset, bits in patches(raw, len(content)):
            (word,) = struct.unpack_from("<Q", content, offset)
            struct.pack_into("<Q", content, offset, word ^ bits)
        self._look()
        self._serve()

    def _look(self) -> None:
        seen = self._seen
        with contextlib.suppress(*self.allowed):
            listing.listBuffers()
            listing.domainInfo()
        index = NameIndex(seen.block)
        for name in (b"a", b"b", b"zz"):
            for row, incarnation in index.candidates(name):
                with contextlib.suppress(*self.allowed):
                    seen.rows.isLive(row, incarnation)
                    seen.rows.nameIs(row, name)
                    seen.rows.description(row)
                    leases.scanHolds(seen.block, seen.members, row)
        for row in range(seen.rows.count()):
            owner = ownerOf(
                atomics.loadAcquire32(seen.block.rowAddress(row) + layout.ROW_OWNER_LOCK_OFFSET)
            )
            if owner is not None:  # it may name a slot that no member has
                Tables.isDead(seen, *owner)

    def _serve(self) -> None:
        lab = self._lab
        wakeFd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        broker = None
        try:
            term = lab.election.replace(lab.election.term(), self._own.key.slot)
            if term is None:
                # The word has bits that no term has: no member can be elected, and
                # `doctor` reports it.
                return
            broker = Broker(
                lab.block, self._own.table, lab.election, term, self._own.key, LIMITS, wakeFd
            )
            broker.start()
            for message in _requests():
                with contextlib.suppress(*self.allowed):
                    broker.execute(message, [])
                broker.step(0)
            reclaim(broker, self._other.key)
            for _ in range(8):
                broker.step(0)
        finally:
            if broker is not None:
                broker.close()
            os.close(wakeFd)
            for epoch in lab.paths.epochsOf("journal"):
                os.unlink(lab.paths.journalPath(epoch))

    def close(self) -> None:
        self._lab.close()
        removeDomain(self._domain)


def _requests() -> list[dict[str, Any]]:
    row = {"row": 0, "incarnation": 1}
    create = createOf()
    return [
        {"op": "find", "name": "a"},
        {"op": "create", "name": "new", **create},
        {"op": "create", "name": "half", **create},
        {"op": "free", **row},
        {"op": "tryReclaim", "row": 1, "incarnation": 1},
        {"op": "fetch", "row": 2, "incarnation": 1},
        {"op": "evict", "name": "", "tenant": "", "pid": 0, "reason": "quota"},
        {"op": "drain", "on": False, "reason": ""},
        {"op": "find", "name": "d"},
    ]


class SocketTarget(MessageTarget):
    """A packet to a broker: by a stranger or by a member, with descriptors or without."""

    name, share = "socket", 5
    _inputsOfALab = 300

    def open(self) -> None:
        self._done = 0
        self._domain = f"test-{secrets.token_hex(6)}"
        self._lab = Lab(self._domain, 8, 256, 64)
        self._own, self._member = self._lab.member(), self._lab.member()
        self._broker = self._lab.afterMaintenance(self._lab.broker(self._own))

    def seeds(self) -> list[bytes]:
        return [bytes([how]) + seed for seed in super().seeds() for how in (0, 1, 3)]

    def run(self, raw: bytes) -> None:
        self._done += 1
        if self._done % self._inputsOfALab == 0:
            self.close()
            self.open()
        how, packet = (raw[0], raw[1:]) if raw else (0, b"")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.setblocking(False)
                connection.connect(self._lab.paths.socketPath(self._lab.election.epoch()))
                self._steps()
                if how & 1:
                    self._hello(connection)
                # The packet may be longer than allowed, or the broker may have closed
                # the connection.
                with contextlib.suppress(OSError):
                    socket.send_fds(connection, [packet or b"\0"], [2] * (how >> 1 & 7))
                self._steps()
                with contextlib.suppress(OSError, MuninnError):
                    answer = messages.receive(connection, messages.MAX_DESCRIPTORS)
                    messages.closeAll(answer[1] if answer else [])
            self._steps()
        except Deposed:  # a request asked the broker to yield
            self.close()
            self.open()

    def _steps(self) -> None:
        for _ in range(3):
            self._broker.step(0)

    def _hello(self, connection: socket.socket) -> None:
        if not self._lab.members.isCurrent(self._member.key):
            self._member = Member(self._lab.block)
        key: MemberKey = self._member.key
        hello = {
            "op": "hello",
            "slot": key.slot,
            "generation": key.generation,
            "nonce": self._lab.members.identity(key.slot).nonce,
            "allocations": [],
        }
        pidfd = os.pidfd_open(os.getpid())
        try:
            socket.send_fds(connection, [msgpack.packb(hello)], [pidfd])
        finally:
            os.close(pidfd)
        self._steps()
        with contextlib.suppress(OSError):
            connection.recv(1 << 16)

    def close(self) -> None:
        self._lab.close()
        removeDomain(self._domain)


class DescriptorServerTarget(Target):
    """Packets to a descriptor server by a process that is no member, with descriptors
    or without: the server goes on, and serves a member with a valid request.
    """

    name, share = "descriptorServer", 5

    def open(self) -> None:
        self._paths = Paths(os.getuid(), f"test-{secrets.token_hex(6)}")
        self._paths.makeDirectory()
        self._descriptorServer, self._client = (
            DescriptorServer(self._paths.descriptorServerPath(1)),
            DescriptorClient(self._paths),
        )
        self._file = os.memfd_create("fuzzed")
        os.ftruncate(self._file, 77)
        self._descriptorServer.put(1, 1, self._file)

    def seeds(self) -> list[bytes]:
        asked = [
            struct.pack("<BIIQ", how, row, 0, incarnation)
            for how in (0, 1, 7)
            for row in (0, 1, 1 << 31)
            for incarnation in (0, 1, 1 << 63)
        ]
        return [*asked, b"", b"\0", b"\0" * 16, b"\xff" * 40]

    def run(self, raw: bytes) -> None:
        how, packet = (raw[0], raw[1:]) if raw else (0, b"")
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
            contextlib.suppress(OSError),
        ):
            connection.setblocking(False)
            connection.connect(self._paths.descriptorServerPath(1))
            for _ in range(1 + (how >> 3 & 3)):
                socket.send_fds(connection, [packet], [2] * (how & 7))
        got = None
        while got is None:  # It answers late on a busy machine, and the client asks again.
            got = self._client.fetch(1, 1, 1)
        assert os.fstat(got).st_size == 77
        os.close(got)

    def close(self) -> None:
        self._client.close()
        self._descriptorServer.close()
        os.close(self._file)
        removeDomain(self._paths.domain)


TARGETS = [HeaderTarget, BlockTarget, SocketTarget, DescriptorServerTarget]
