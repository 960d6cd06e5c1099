"""Bad input: each raises a typed error with code, reason and fix, leaks nothing, and
harms no other process.
"""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn import errors
from muninn.errors import MuninnError
from support import Actor, leftovers, program

Start = Callable[..., Actor]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: muninn.share(b"x", name=""), "MNN-0026"),
        (lambda: muninn.share(b"x", name="n" * 128), "MNN-0026"),
        (lambda: muninn.share(b"x", name="a\nb"), "MNN-0026"),
        (lambda: muninn.share(b"x", name="\x01lock"), "MNN-0026"),
        (lambda: muninn.share(b"x", name="\ud800"), "MNN-0026"),
        (lambda: muninn.open("no such name"), "MNN-0011"),
        (lambda: muninn.free("no such name"), "MNN-0011"),
        (lambda: muninn.share(b"x", mode="slowMode"), "MNN-0002"),
        (lambda: muninn.share(b"x", access="execute"), "MNN-0026"),
        (lambda: muninn.open("there", access="all"), "MNN-0026"),
        (lambda: muninn.open("there", renew="never"), "MNN-0026"),
        (lambda: muninn.share(b"x", lifetime="eternal"), "MNN-0026"),
        (lambda: muninn.share(b"x", lifetimeMs=0), "MNN-0026"),
        (lambda: muninn.share(b"x", tenant=""), "MNN-0026"),
        (lambda: muninn.share(b"x", reserve="some"), "MNN-0026"),
        (lambda: muninn.share(b"x", preferredGpu=-1), "MNN-0026"),
        (lambda: muninn.share(b"x", mode="fastMode", preferredGpu=99), "MNN-0029"),
        (lambda: muninn.share(b"x", numaNode=-1), "MNN-0026"),
        (lambda: muninn.share(b"x", name="there"), "MNN-0028"),
        (lambda: muninn.MuninnBuffer(0), "MNN-0026"),
        (lambda: muninn.MuninnBuffer(-1), "MNN-0026"),
        (lambda: muninn.MuninnBuffer("12Q"), "MNN-0026"),
        (lambda: muninn.MuninnBuffer(1 << 60), "MNN-0026"),
        (lambda: muninn.MuninnBuffer("600G"), "MNN-0016"),
        (lambda: muninn.MuninnBuffer("400G"), "MNN-0015"),
        (lambda: muninn.share(np.zeros((1,) * 9)), "MNN-0026"),
        (lambda: muninn.share(np.array([{}], object)), "MNN-0027"),
        (lambda: muninn.share(np.zeros(1, "V0")), "MNN-0027"),
        (lambda: muninn.array("there", (5,), "f8"), "MNN-0012"),
        (lambda: muninn.array("there", (4,), "f4"), "MNN-0012"),
        (lambda: muninn.array("new", (-1,), "f8"), "MNN-0026"),
        (lambda: muninn.array("new", (1,) * 9, "f8"), "MNN-0026"),
        (lambda: muninn.array("new", (3,), "nonsense"), "MNN-0027"),
        (lambda: muninn.openBundle("there"), "MNN-0012"),
        (lambda: muninn.open(b""), "MNN-0018"),
        (lambda: muninn.open(b"x" * 64), "MNN-0018"),
    ],
)
def test_everyMistakeHasItsError(domain: str, call: Callable[[], Any], code: str) -> None:
    there = muninn.share(np.arange(4.0), name="there")
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MuninnError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.reason
    assert caught.value.fix
    assert [each["name"] for each in muninn.listBuffers()] == ["there"]
    assert len(leftovers(domain)) == 1
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert there.array.sum() == 6
    muninn.share(b"next").close()


@pytest.mark.parametrize(
    "call",
    [
        lambda: muninn.share([1, 2]),
        lambda: muninn.share(3),
        lambda: muninn.share(b"x", name=3),
        lambda: muninn.MuninnBuffer(1.5),
        lambda: muninn.share(b"x", mode=1),
        lambda: muninn.share(b"x", access=True),
        lambda: muninn.share(b"x", lifetime=3),
        lambda: muninn.share(b"x", lifetimeMs="5 s"),
        lambda: muninn.share(b"x", reserve=0),
        lambda: muninn.share(b"x", numaNode="0"),
        lambda: muninn.open("there", renew=3),
    ],
)
def test_wrongTypesAreTypeErrors(domain: str, call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()


def test_forgedHandlesAreRefused(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = muninn.share(np.arange(4.0), name="there")
    handle = buffer.handle
    assert muninn.open(handle).array.sum() == 6
    for bit in range(len(handle) * 8):
        forged = bytearray(handle)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.HandleInvalid):
            muninn.open(bytes(forged))
    for length in range(len(handle)):
        with pytest.raises(errors.HandleInvalid):
            muninn.open(handle[:length])


def test_aHandleOfAnotherDomainIsRefused(domain: str, actor: Start) -> None:
    handle = muninn.share(b"x").handle.hex()
    other = actor(MUNINN_DOMAIN=f"{domain}-b")
    code = f"try:\n    muninn.open(bytes.fromhex('{handle}'))\nexcept muninn.errors.HandleInvalid as error:\n    code = error.code\ncode"
    assert other.do(code) == "MNN-0018"
    other.leave()


def test_garbageOnTheSocketHarmsNoMember(domain: str, actor: Start) -> None:
    broker = actor("kept = muninn.share(np.arange(8), name='kept')")
    other = actor("mine = muninn.open('kept')")
    folder = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}.d")
    path = next(str(entry) for entry in folder.iterdir() if entry.name.startswith("broker-"))
    chance = random.Random(5)
    for _ in range(60):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hostile:
            hostile.settimeout(20)
            hostile.connect(path)
            hostile.send(chance.randbytes(chance.choice([1, 2, 16, 500, 60_000])))
            hostile.recv(65536)
    assert other.do("muninn.share(b'x', name='still').free(); int(mine.array.sum())") == 28
    assert muninn.domainInfo()["brokerPid"] == broker.pid


def test_withoutDescriptorsThereIsAnErrorAndAfterwardsNot(domain: str, actor: Start) -> None:
    muninn.share(np.arange(4.0), name="there")
    other = actor("import resource\nmuninn.open('there').close()")
    answer = other.do(program("withoutDescriptors"))
    assert answer == "MNN-0025"
    assert other.do("float(muninn.open('there').array.sum())") == 6.0


@pytest.mark.parametrize(
    ("offset", "damage"),
    [(0, b"garbage!"), (8, b"\x63\0\0\0"), (32, b"\xff" * 8), (40, b"\0" * 4), (52, b"\x07\0\0\0")],
)
def test_aDamagedControlBlockIsRefusedAndNothingIsLost(
    domain: str, actor: Start, offset: int, damage: bytes
) -> None:
    actor("muninn.share(b'kept', name='kept')").leave()
    with open(f"/dev/shm/muninn-{os.getuid()}-{domain}", "r+b") as file:
        file.seek(offset)
        file.write(damage)
    with pytest.raises(errors.ControlBlockInvalid):
        muninn.open("kept")
    assert len(leftovers(domain)) == 1


def test_aTruncatedSegmentIsAnErrorAndCanBeFreed(domain: str, actor: Start) -> None:
    actor("muninn.share(np.zeros(1 << 20), name='cut')").leave()
    os.truncate(f"/dev/shm/{leftovers(domain)[0]}", 4096)
    with pytest.raises(errors.ControlBlockInvalid, match=r"truncated|states"):
        muninn.open("cut")
    muninn.free("cut")
    assert leftovers(domain) == []


_FULL = program("fullSharedMemory")


def test_aFullSharedMemoryIsAnErrorAndNoSigbus(domain: str) -> None:
    script = f"mount -t tmpfs -o size=20m tmpfs /dev/shm && exec {sys.executable} -c {shlex.quote(_FULL)}"
    flags = ["-m"] if os.getuid() == 0 else ["-rm"]
    run = subprocess.run(
        ["unshare", *flags, "sh", "-c", script], capture_output=True, text=True, timeout=100
    )
    assert run.stdout == "survived\n", f"needs root, or user namespaces: {run.stderr}"
