"""Broken or hostile surroundings: a full `/dev/shm`, no descriptors, bytes from
strangers. Each raises a typed error, and no other process is harmed.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.errors import (
    BufferNotFound,
    ControlBlockInvalid,
    HandleInvalid,
    MuninnError,
    ProtocolViolation,
)
from muninn.session.membership import current
from muninn.terms import Access
from muninn.wire import handles, requests
from support import Actor, ActorError, eventually, leftovers, program

Start = Callable[..., Actor]


@contextlib.contextmanager
def unharmed(domain: str, actor: Start) -> Iterator[Actor]:
    """While the body does its worst, two members share, open and write; afterwards
    broker, epoch, buffers and members are as before.
    """
    broker = actor("kept = muninn.share(np.arange(8), name='kept')")
    worker = actor(program("sharesInALoop"))
    eventually(lambda: worker.do("done[0]") > 0, "the worker is connected")
    muninn.share(b"x").close()
    before = muninn.domainInfo()
    assert before["brokerPid"] == broker.pid
    # The ping makes sure that the broker has this process's connection and pidfd when
    # the test counts them.
    current().client.request("ping")
    descriptors = broker.do("len(os.listdir('/proc/self/fd'))")
    yield broker
    worker.do("stop.set(); thread.join()")
    assert worker.do("failed") == [] and worker.do("done[0]") > 0
    after = muninn.domainInfo()
    assert (after["brokerPid"], after["epoch"]) == (before["brokerPid"], before["epoch"])
    assert {each["pid"] for each in after["members"]} == {each["pid"] for each in before["members"]}
    assert [each["name"] for each in muninn.listBuffers()] == ["kept"]
    eventually(
        lambda: len(current().rows.notFree()) == 1 == len(leftovers(domain)),
        "no row and no segment is left half way",
    )
    eventually(
        lambda: broker.do("len(os.listdir('/proc/self/fd'))") <= descriptors,
        "the broker has no descriptor more than before",
    )


# --- strangers on the socket --------------------------------------------------------


def socketPath(domain: str) -> str:
    folder = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}.d")
    return str(next(entry for entry in folder.iterdir() if entry.name.startswith("broker-")))


def told(connection: socket.socket) -> dict[str, Any] | None:
    """The broker's answer on the connection; None when the broker hangs up without one."""
    with contextlib.suppress(ConnectionResetError):
        raw = connection.recv(1 << 17)
        return msgpack.unpackb(raw) if raw else None
    return None


def stranger(domain: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(60)
    connection.connect(socketPath(domain))
    return connection


_DEEP = b"\x91" * 5000 + b"\xc0"
_PACKETS: dict[str, bytes] = {
    "oneByte": b"\0",
    "noMap": msgpack.packb([1, 2, 3]),
    "empty": msgpack.packb({}),
    "numberKeys": b"\x81\x01\x02",
    "bytesKeys": msgpack.packb({b"op": "ping"}),
    "trailing": msgpack.packb({"op": "ping"}) + b"\0",
    "truncated": msgpack.packb({"op": "find", "name": "kept"})[:-2],
    "invalidText": b"\x81\xa2op\xa2\xff\xfe",
    "unknownOp": msgpack.packb({"op": "shutdown"}),
    "privateOp": msgpack.packb({"op": "__init__"}),
    "opIsNoText": msgpack.packb({"op": ["ping"]}),
    "deep": b"\x81\xa2op" + _DEEP,
    "hugeLength": b"\xdf\xff\xff\xff\xff",
    "hugeText": b"\x81\xa2op\xdb\xff\xff\xff\xff",
    "extension": b"\x81\xa2op\xc7\x05\x01hello",
    "missingFields": msgpack.packb({"op": "create"}),
    "extraFields": msgpack.packb({"op": "ping", "x": 1}),
    "wrongTypes": msgpack.packb({"op": "free", "row": "0", "incarnation": 1.5}),
    "boolIsNoNumber": msgpack.packb({"op": "free", "row": True, "incarnation": False}),
    "beforeHello": msgpack.packb({"op": "find", "name": "kept"}),
    "freeBeforeHello": msgpack.packb({"op": "free", "row": 0, "incarnation": 1}),
    "leaveBeforeHello": msgpack.packb({"op": "leave"}),
    "helloOfNobody": msgpack.packb(
        {"op": "hello", "slot": 99999, "generation": 1, "nonce": 1, "allocations": []}
    ),
    "helloOfTheBroker": msgpack.packb(
        {"op": "hello", "slot": 0, "generation": 1, "nonce": 12345, "allocations": []}
    ),
    "helloBelowZero": msgpack.packb(
        {"op": "hello", "slot": -1, "generation": -1, "nonce": -1, "allocations": []}
    ),
}


@pytest.mark.parametrize("name", _PACKETS)
def test_malformedPacketsAreAnsweredOnceAndDropped(domain: str, actor: Start, name: str) -> None:
    actor("kept = muninn.share(np.arange(8), name='kept')")
    epoch = muninn.domainInfo()["epoch"]
    with stranger(domain) as connection:
        connection.send(_PACKETS[name])
        answer = told(connection)
        assert (
            answer is not None
            and answer["error"] == ProtocolViolation.number
            and answer["reason"]
            and answer["fix"]
        )
        assert told(connection) is None, "the broker hangs up"
    assert muninn.domainInfo()["epoch"] == epoch and muninn.open("kept").array.sum() == 28


def test_strangersDisturbNoMember(domain: str, actor: Start) -> None:
    """Random bytes, mutated requests, packets that are too long, unexpected
    descriptors, and connections that send nothing.
    """
    seed = 20261123
    random = Random(seed)
    with unharmed(domain, actor):
        silent = [stranger(domain) for _ in range(20)]
        for _ in range(150):
            with stranger(domain) as connection:
                packet = bytearray(random.choice(list(_PACKETS.values())))
                if random.random() < 0.5:
                    packet = bytearray(random.randbytes(random.choice([1, 7, 300, 65_000])))
                elif packet:
                    packet[random.randrange(len(packet))] = random.randrange(256)
                descriptors = array.array("i", [0] * random.choice([0, 0, 1, 253]))
                rights = (
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
                )
                connection.sendmsg([packet], rights)
                if random.random() < 0.7:
                    answer = told(connection)
                    assert answer is None or "error" in answer or answer.keys() <= {"epoch"}, (
                        f"seed {seed}"
                    )
        with stranger(domain) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            connection.send(bytes(100_000))
            answer = told(connection)
            assert (
                answer is not None
                and answer["error"] == ProtocolViolation.number
                and "65536" in answer["reason"]
            )
        for each in silent:
            each.close()


def test_aPeerThatDoesNotReadIsDropped(domain: str, actor: Start) -> None:
    """The peer's answers pile up in the socket; the broker does not wait for it."""
    with unharmed(domain, actor), stranger(domain) as connection:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(10_000):
                connection.send(msgpack.packb({"op": "ping"}))
        assert muninn.open("kept").nbytes == 64


_HOSTILE_NUMBERS = (-1, 0, 1, 2**31, 2**40, 2**63, 2**64 - 1)
_HOSTILE_TEXTS = (
    "",
    "kept",
    "x" * 200,
    "\0",
    "\x01",
    "ä" * 100,
    "\x1b[31m",
    "../..",
    "fastMode",
    "x" * 60_000,
)


def test_aMemberWhoseRequestsMakeNoSenseGetsErrors(domain: str, actor: Start) -> None:
    """The requests are well-formed and come from a member, but have impossible fields.
    Each gets an error or an answer, and the broker goes on.
    """
    seed = 7
    random = Random(seed)
    operations = [
        op for op in requests.OPERATIONS if op not in ("hello", "leave", "drain", "yield", "evict")
    ]
    with unharmed(domain, actor):
        client = current().client
        for _ in range(600):
            op = random.choice(operations)
            choices: dict[type, tuple[Any, ...]] = {
                int: _HOSTILE_NUMBERS,
                str: _HOSTILE_TEXTS,
                bool: (True, False),
                list: ([], [[1]], [["a", 2]], [[0, 1]] * 300),
            }
            fields = {
                name: random.choice(choices[kind])
                for name, kind in requests.OPERATIONS[op].request.items()
            }
            if op in ("free", "commit", "abandon", "tryReclaim") and fields.get("row") == 0:
                continue  # a member may free this row
            try:
                reply, descriptors = client.request(op, **fields)
                for descriptor in descriptors:
                    os.close(descriptor)
                if op == "create":
                    client.request("abandon", row=reply["row"], incarnation=reply["incarnation"])
            except MuninnError as error:
                assert error.reason and error.fix and error.code not in ("MNN-0021",), (
                    f"seed {seed}: {op} {fields}"
                )


@pytest.mark.parametrize("op", ["evict", "drain"])
def test_operatorsMistakesAreErrors(domain: str, op: str) -> None:
    muninn.share(b"x", name="kept")
    client = current().client
    for reason in ("", "nonsense", "\0", "x" * 60_000):
        fields: dict[str, Any] = (
            {"name": "nothing", "tenant": "", "pid": 2**40, "reason": reason}
            if op == "evict"
            else {"on": False, "reason": reason}
        )
        with contextlib.suppress(MuninnError):
            client.request(op, **fields)
    assert bytes(muninn.open("kept").array) == b"x" and not muninn.domainInfo()["draining"]


# --- handles ------------------------------------------------------------------------


def test_everyAlterationOfAHandleIsRefused(domain: str) -> None:
    handle = muninn.share(b"x", name="a", tenant="t").handle
    random = Random(1)
    altered = [handle[:length] for length in range(64)] + [
        handle + b"\0",
        handle * 2,
        b"\0" * 64,
        b"\xff" * 64,
        handle[::-1],
    ]
    altered += [
        bytes(
            byte ^ (1 << bit % 8) * (position == bit // 8) for position, byte in enumerate(handle)
        )
        for bit in range(512)
    ]
    altered += [random.randbytes(64) for _ in range(50)]
    for each in altered:
        with pytest.raises(HandleInvalid) as caught:
            muninn.open(each)
        assert caught.value.fix
    assert bytes(muninn.open(handle).array) == b"x"
    assert [len(each["importers"]) for each in muninn.listBuffers()] == [0], (
        "a refused process has no lease"
    )


def test_handlesThatAreWellSignedAndNameNothingAreRefused(domain: str) -> None:
    """Such a handle was issued long ago: its row belongs to another buffer now, or lies
    beyond a table that has shrunk.
    """
    buffer = muninn.share(b"0123", name="a")
    secret, row, incarnation = (
        current().block.secret,
        buffer._checked().row,
        buffer._checked().incarnation,
    )
    for wrongRow, wrongIncarnation in (
        (row, incarnation + 1),
        (row, 0),
        (row + 1, 0),
        (2**32 - 1, 1),
        (100_000, 1),
    ):
        with pytest.raises(BufferNotFound):
            muninn.open(
                handles.issue(secret, wrongRow, wrongIncarnation, Access.READ_WRITE, 4, "default")
            )
    for size, tenant in ((5, "default"), (4, "other")):
        with pytest.raises(HandleInvalid):
            muninn.open(handles.issue(secret, row, incarnation, Access.READ_WRITE, size, tenant))


def test_aHandleOfAnotherDomainOpensNothing(domain: str, actor: Start) -> None:
    """Both domains have a buffer of that name in that row; the handle belongs to one of
    the domains.
    """
    handle = muninn.share(b"x", name="a").handle
    other = actor("mine = muninn.share(b'y', name='a')", MUNINN_DOMAIN=f"{domain}-other")
    with pytest.raises(ActorError, match="MNN-0018"):
        other.do(f"muninn.open({handle!r})")
    assert other.do("bytes(mine.array).decode()") == "y"
    other.do("mine.free()")
    other.leave()


# --- the control block --------------------------------------------------------------


def blockPath(domain: str) -> Path:
    return Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")


def test_aBlockOfAnotherVersionIsLeftAlone(domain: str, actor: Start) -> None:
    holder = actor("kept = muninn.share(np.arange(8), name='kept')")
    whole = blockPath(domain).read_bytes()[: layout.HEADER_BYTES]
    with blockPath(domain).open("r+b") as file:
        file.seek(layout.VERSION_OFFSET)
        file.write(struct.pack("<I", layout.VERSION + 1))
    with pytest.raises(ControlBlockInvalid, match=f"version {layout.VERSION + 1}") as caught:
        muninn.domainInfo()
    assert "one version" in caught.value.fix.lower()
    assert holder.do("int(kept.array.sum())") == 28, "the member is not disturbed"
    with blockPath(domain).open("r+b") as file:
        file.write(whole[: layout.ELECTION_OFFSET])
    assert muninn.open("kept").array.sum() == 28


def test_aHeaderThatIsDamagedAnywhereIsRefusedOrHarmless(domain: str, actor: Start) -> None:
    """The test inverts each byte of the header's description. The block is refused
    with a typed error, or taken for a block of before the boot; no process crashes.
    """
    actor("muninn.share(b'kept', name='kept')").leave()
    whole = blockPath(domain).read_bytes()
    segment = leftovers(domain)[0]
    content = Path(f"/dev/shm/{segment}").read_bytes()
    for offset in range(layout.SECRET_OFFSET):
        if offset in range(layout.VERSION_OFFSET + 4, layout.BOOT_ID_OFFSET + 16):
            continue  # unused, or another boot, which is tested below
        blockPath(domain).write_bytes(
            whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :]
        )
        with pytest.raises(ControlBlockInvalid):
            muninn.domainInfo()
        assert Path(f"/dev/shm/{segment}").read_bytes() == content
    blockPath(domain).write_bytes(whole)
    assert bytes(muninn.open("kept").array) == b"kept"


def test_aBlockOfAnotherBootGoesWithAllThatItNamed(domain: str, actor: Start) -> None:
    actor("muninn.share(b'kept', name='kept')").leave()
    with blockPath(domain).open("r+b") as file:
        file.seek(layout.BOOT_ID_OFFSET)
        file.write(b"anotherBoot12345")
    assert muninn.listBuffers() == [] and leftovers(domain) == []
    assert bytes(muninn.share(b"new", name="kept").array) == b"new"


@pytest.mark.parametrize("length", [0, 7, 55, 64, 100, 4095, 4096, 70_000])
def test_aBlockThatWasCutOffIsRefusedOrMadeAnew(domain: str, actor: Start, length: int) -> None:
    actor("muninn.share(b'kept', name='kept')").leave()
    os.truncate(blockPath(domain), length)
    if length < layout.ELECTION_OFFSET:
        assert bytes(muninn.open("kept").array) == b"kept", (
            "this is no block any more: a new block adopts the buffers that the journal vouches for"
        )
        return
    with pytest.raises(ControlBlockInvalid):
        muninn.domainInfo()


@pytest.mark.parametrize("kind", ["directory", "link", "foreign"])
def test_aFileThatIsNoControlBlockIsNotTakenForOne(
    domain: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = blockPath(domain)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(victim)
    else:
        path.write_bytes(os.urandom(100_000))
    before = path.lstat()
    assert bytes(muninn.share(b"x", name="a").array) == b"x"
    assert victim.read_bytes() == b"precious" * 1000 and os.path.samestat(path.lstat(), before)
    assert "is not used" in caplog.text


# --- no descriptors -----------------------------------------------------------------

_WITHOUT = program("withoutFreeDescriptors")


@pytest.mark.parametrize(
    "code",
    [
        "muninn.share(np.arange(100)).close()",
        "muninn.share(np.arange(100), mode='fastMode').close()",
        "muninn.open('kept').close()",
        "muninn.open('vram').close()",
        "muninn.shareBundle({'a': np.arange(3)}).close()",
        "muninn.Lock('lock').acquire(); muninn.Lock('lock').release()",
        "muninn.listBuffers()",
        "muninn.createStream().synchronize()",
    ],
)
@pytest.mark.parametrize("joined", [True, False], ids=["member", "stranger"])
def test_withoutDescriptorsItIsAnErrorAndThenItWorks(
    domain: str, actor: Start, code: str, joined: bool
) -> None:
    muninn.share(np.arange(8), name="kept")
    muninn.share(np.arange(8), name="vram", mode="fastMode")
    held = muninn.open("vram")
    other = actor(_WITHOUT)
    if joined:
        other.do("muninn.share(b'x').close(); muninn.createStream()")
    before = other.do("descriptors()")
    outcomes = [other.do(f"without({spare}, {code!r})") for spare in range(12)]
    assert set(outcomes) <= {"done", "MNN-0025", "MNN-0021"} and outcomes[-1] == "done", outcomes
    other.do(code)
    if joined:
        eventually(lambda: other.do("descriptors()") <= before + 1, "no descriptor is left open")
    assert held.array.sum() == 28
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["kept", "vram"]
    eventually(lambda: len(leftovers(domain)) == 1, "no segment is left")


def test_aBrokerWithoutDescriptorsGivesItsTermUp(domain: str, actor: Start) -> None:
    broker = actor(_WITHOUT + "kept = muninn.share(np.arange(8), name='kept')")
    assert muninn.domainInfo()["brokerPid"] == broker.pid
    muninn.share(b"x", name="mine")
    broker.begin("without(0, 'time.sleep(1.5)')")
    late = actor()
    assert late.do(
        "muninn.share(b'y', name='late').close(); sorted(each['name'] for each in muninn.listBuffers())"
    ) == [
        "kept",
        "late",
        "mine",
    ]
    assert broker.result() == "done"
    assert broker.do("int(kept.array.sum()); muninn.share(b'z', name='again').name") == "again"


# --- a full /dev/shm ----------------------------------------------------------------


def inSmallShm(script: str, size: str) -> str:
    """Run a script in a mount namespace of its own, whose `/dev/shm` has `size`;
    returns its output.
    """
    flags = ["-m"] if os.getuid() == 0 else ["-rm"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "MUNINN_MAX_MEMBERS": "8",
        "MUNINN_MAX_BUFFERS": "256",
    }
    command = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} -c '{script}'"
    done = subprocess.run(
        ["unshare", *flags, "sh", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, (
        f"status {done.returncode} (mounting needs root, or user namespaces): {done.stdout}{done.stderr}"
    )
    return done.stdout


_CROWDED = program("crowdedSharedMemory")

_NO_ROOM_TO_JOIN = program("noRoomToJoin")


def test_aFullShmIsAnErrorWhateverIsMade(domain: str) -> None:
    assert inSmallShm(_CROWDED, "16m") == "survived\n"


def test_noRoomForTheControlBlockIsAnErrorToo(domain: str) -> None:
    """No attempt leaves a descriptor, a mapping or a slot behind. With enough room the
    calls work.
    """
    for size in ("4k", "8k", "12k", "16k", "32k"):
        assert inSmallShm(_NO_ROOM_TO_JOIN, size) == "MNN-0015 True\n" * 3 + "0 0\nthere\n", size


# --- tables that are full -----------------------------------------------------------


def test_fullTablesAreErrorsThatPass(domain: str, actor: Start) -> None:
    limits = {"MUNINN_MAX_LEASES": "8", "MUNINN_MAX_BUFFERS": "256", "MUNINN_MAX_MEMBERS": "3"}
    first = actor("held = [muninn.share(b'x', name=f'a{number}') for number in range(8)]", **limits)
    for attempt in ("muninn.share(b'x', name='more')", "muninn.Lock('more')"):
        with pytest.raises(ActorError, match=r"MNN-0017 TableFull.*maxLeases"):
            first.do(attempt)
    first.do("held.pop().close(); held.append(muninn.share(b'x', name='more'))")
    second = actor(
        "for number in range(247):\n    muninn.share(b'x', name=f'b{number}').close()", **limits
    )
    with pytest.raises(ActorError, match=r"MNN-0017 TableFull.*maxBuffers"):
        second.do("muninn.share(b'x', name='last')")
    second.do("muninn.free('b7'); muninn.share(b'x', name='last').close()")
    third = actor("muninn.domainInfo()", **limits)
    with pytest.raises(muninn.errors.TableFull, match="maxMembers"):
        muninn.domainInfo()
    third.leave()
    assert len(muninn.listBuffers()) == 256


def test_quotasNameTheLimitAndCountWhatIsThere(domain: str, actor: Start) -> None:
    small = actor(
        "b = muninn.MuninnBuffer('6M', name='a', tenant='t')",
        MUNINN_BIG_MODE_MAX_BYTES="10M",
        MUNINN_DEFAULT_PINNED_HOST_QUOTA="8M",
    )
    with pytest.raises(ActorError, match=r"MNN-0016 QuotaExceeded.*bigModeMaxBytes"):
        small.do("muninn.MuninnBuffer('5M')")
    with pytest.raises(ActorError, match=r"MNN-0016 QuotaExceeded.*defaultPinnedHostQuota"):
        small.do("muninn.MuninnBuffer('3M', tenant='t')")
    assert small.do("muninn.MuninnBuffer('3M', tenant='u').nbytes") == 3 << 20
    small.do("b.free()")
    assert small.do("muninn.MuninnBuffer('8M', tenant='t').nbytes") == 8 << 20


def test_aDrainingDomainCreatesNothingAndKeepsWhatThereIs(domain: str, actor: Start) -> None:
    from muninn.api import admin

    buffer = muninn.share(np.arange(5), name="a")
    admin.drain(reason="maintenance")
    other = actor()
    for attempt in (
        "muninn.share(b'x')",
        "muninn.array('new', 3)",
        "muninn.shareOnce('new', lambda: np.arange(3))",
    ):
        with pytest.raises(ActorError, match="MNN-0024 DomainDraining"):
            other.do(attempt)
    assert other.do(
        "int(muninn.open('a').array.sum()), int(muninn.array('a', 5, 'i8').array.sum())"
    ) == [10, 10]
    admin.drain(on=False)
    other.do("muninn.share(b'x', name='b')")
    assert buffer.array.sum() == 10


def test_threadsThatFailAtOnceLeaveNothing(domain: str) -> None:
    """Many threads meet errors of many kinds, beside one thread that goes on."""
    kept = muninn.share(np.arange(8), name="kept")
    attempts: list[Callable[[], object]] = [
        lambda: muninn.open("nothing"),
        lambda: muninn.share(np.zeros(0)),
        lambda: muninn.share(b"x", name="kept"),
        lambda: muninn.open(b"x" * 64),
        lambda: muninn.MuninnBuffer("513G"),
        lambda: muninn.array("kept", 9),
        lambda: muninn.share(b"x", mode="fastMode", preferredGpu=9),
        lambda: muninn.loadArray(9, "f8", lambda array: array.fill(object())),  # type: ignore[arg-type]
    ]
    unexpected: list[BaseException] = []

    def fail(seed: int) -> None:
        random = Random(seed)
        for _ in range(60):
            try:
                random.choice(attempts)()
            except (MuninnError, TypeError):
                continue
            except BaseException as error:
                unexpected.append(error)

    threads = [threading.Thread(target=fail, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for number in range(50):
        muninn.share(np.full(9, number), name=f"n{number}").free()
    for each in threads:
        each.join(60)
    assert unexpected == []
    assert [each["name"] for each in muninn.listBuffers()] == ["kept"] and kept.array.sum() == 28
    assert len(leftovers(domain)) == 1 == len(current().rows.notFree())
